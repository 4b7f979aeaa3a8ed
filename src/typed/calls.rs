//! Forward and backward on matrices.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice};

use super::matrix::{MatMut, MatRef};
use crate::raw::{BackwardArgs, ForwardArgs};
use crate::{BackwardPlan, Dropout, Element, Error, ForwardPlan, Kernels, Problem, Result, Tensor};

/// Arguments of [`Kernels::forward`]: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ.
pub struct Forward<'a, T> {
    /// (tokens, in_features)
    pub x: MatRef<'a, T>,
    /// W, (out_features, in_features)
    pub weight: MatRef<'a, T>,
    /// (out_features), exactly if the problem has a bias
    pub bias: Option<CudaView<'a, T>>,
    /// A, (rank, in_features)
    pub lora_a: MatRef<'a, T>,
    /// B, (out_features, rank)
    pub lora_b: MatRef<'a, T>,
    /// lora_alpha / rank, or lora_alpha / √rank for rsLoRA
    pub scaling: f32,
    /// Exactly if the problem has dropout
    pub dropout: Option<Dropout>,
    /// Out: (tokens, out_features)
    pub y: MatMut<'a, T>,
    /// Out: at least `plan.saved().bytes()` bytes. Keep it for backward.
    pub saved: CudaViewMut<'a, u8>,
}

/// Arguments of [`Kernels::backward`]: with T = scaling·dy·B, dx = dy·W + mask∘(T·A)/(1-p), dA = Tᵀ·drop(x), dB = scaling·dyᵀ·(drop(x)·Aᵀ).
pub struct Backward<'a, T> {
    /// (tokens, out_features)
    pub dy: MatRef<'a, T>,
    /// (tokens, in_features), as in forward
    pub x: MatRef<'a, T>,
    /// W, (out_features, in_features)
    pub weight: MatRef<'a, T>,
    /// A, (rank, in_features)
    pub lora_a: MatRef<'a, T>,
    /// B, (out_features, rank)
    pub lora_b: MatRef<'a, T>,
    /// As in forward
    pub scaling: f32,
    /// As in forward
    pub dropout: Option<Dropout>,
    /// What forward saved
    pub saved: CudaView<'a, u8>,
    /// Out: (tokens, in_features)
    pub dx: MatMut<'a, T>,
    /// Out: dA, (rank, in_features)
    pub d_lora_a: MatMut<'a, T>,
    /// Out: dB, (out_features, rank)
    pub d_lora_b: MatMut<'a, T>,
    /// At least `plan.workspace_bytes()` bytes of scratch
    pub workspace: CudaViewMut<'a, u8>,
}

impl Kernels {
    /// Enqueues a forward on `stream`.
    ///
    /// The result is a function of the arguments and the plan alone: the same bits on every run. Sums are in f32 (for f32 tensors with fused
    /// multiply-adds, not TF32), rounded once per stored value; S is stored in the tensors' dtype, as PEFT does.
    ///
    /// # Errors
    /// Any of [`Error`]'s argument errors before anything is launched, [`Error::Driver`] if a launch fails.
    pub fn forward<T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        plan: &ForwardPlan,
        args: Forward<'_, T>,
    ) -> Result<()> {
        let Forward {
            x,
            weight,
            bias,
            lora_a,
            lora_b,
            scaling,
            dropout,
            mut y,
            mut saved,
        } = args;
        let problem = plan.problem();
        self.check::<T>(stream, problem)?;
        for (tensor, matrix) in [
            (Tensor::X, &x),
            (Tensor::Weight, &weight),
            (Tensor::LoraA, &lora_a),
            (Tensor::LoraB, &lora_b),
        ] {
            self.check_matrix(tensor, matrix, problem)?;
        }
        y.check(Tensor::Y, problem)?;
        self.check_home(Tensor::Y.name(), y.home())?;
        if let Some(bias) = &bias {
            if bias.len() != problem.out_features() {
                let (given, expected) = ((1, bias.len()), (1, problem.out_features()));
                return Err(Error::Shape {
                    tensor: Tensor::Bias,
                    given,
                    expected,
                });
            }
            self.check_home(Tensor::Bias.name(), bias.stream())?;
        }
        check_bytes("saved", saved.len(), plan.saved().bytes())?;
        self.check_home("saved", saved.stream())?;

        // The guards record on `stream` that the memory is in use; they live until both kernels are enqueued.
        let (x, _x) = x.pointer(stream);
        let (weight, _weight) = weight.pointer(stream);
        let bias = bias.as_ref().map(|bias| bias.device_ptr(stream));
        let (lora_a, _lora_a) = lora_a.pointer(stream);
        let (lora_b, _lora_b) = lora_b.pointer(stream);
        let (y, _y) = y.pointer(stream);
        let (saved, _saved) = saved.device_ptr_mut(stream);
        let bias = bias.as_ref().map_or(0, |(pointer, _)| *pointer);
        self.check_waits()?;
        let args = ForwardArgs {
            x,
            weight,
            bias,
            lora_a,
            lora_b,
            scaling,
            dropout,
            y,
            saved,
        };
        // SAFETY: the context was made current; every matrix lies in a live slice of it at the plan's strides; borrows keep the slices alive
        // and the outputs apart until the call is enqueued, cudarc's stream order after.
        unsafe { self.forward_raw(plan, &args, stream.cu_stream()) }
    }

    /// Enqueues a backward on `stream`.
    ///
    /// Deterministic as [`Kernels::forward`]. Gradients are overwritten, not accumulated.
    ///
    /// # Errors
    /// Any of [`Error`]'s argument errors before anything is launched, [`Error::Driver`] if a launch fails.
    pub fn backward<T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        plan: &BackwardPlan,
        args: Backward<'_, T>,
    ) -> Result<()> {
        let Backward {
            dy,
            x,
            weight,
            lora_a,
            lora_b,
            scaling,
            dropout,
            saved,
            mut dx,
            mut d_lora_a,
            mut d_lora_b,
            mut workspace,
        } = args;
        let problem = plan.problem();
        self.check::<T>(stream, problem)?;
        for (tensor, matrix) in [
            (Tensor::DY, &dy),
            (Tensor::X, &x),
            (Tensor::Weight, &weight),
            (Tensor::LoraA, &lora_a),
            (Tensor::LoraB, &lora_b),
        ] {
            self.check_matrix(tensor, matrix, problem)?;
        }
        for (tensor, matrix) in [
            (Tensor::DX, &dx),
            (Tensor::DLoraA, &d_lora_a),
            (Tensor::DLoraB, &d_lora_b),
        ] {
            matrix.check(tensor, problem)?;
            self.check_home(tensor.name(), matrix.home())?;
        }
        check_bytes("saved", saved.len(), plan.saved().bytes())?;
        self.check_home("saved", saved.stream())?;
        check_bytes("workspace", workspace.len(), plan.workspace_bytes())?;
        self.check_home("workspace", workspace.stream())?;

        // The guards record on `stream` that the memory is in use; they live until all kernels are enqueued.
        let (dy, _dy) = dy.pointer(stream);
        let (x, _x) = x.pointer(stream);
        let (weight, _weight) = weight.pointer(stream);
        let (lora_a, _lora_a) = lora_a.pointer(stream);
        let (lora_b, _lora_b) = lora_b.pointer(stream);
        let (saved, _saved) = saved.device_ptr(stream);
        let (dx, _dx) = dx.pointer(stream);
        let (d_lora_a, _d_lora_a) = d_lora_a.pointer(stream);
        let (d_lora_b, _d_lora_b) = d_lora_b.pointer(stream);
        let (workspace, _workspace) = workspace.device_ptr_mut(stream);
        self.check_waits()?;
        let args = BackwardArgs {
            dy,
            x,
            weight,
            lora_a,
            lora_b,
            scaling,
            dropout,
            saved,
            dx,
            d_lora_a,
            d_lora_b,
            workspace,
        };
        // SAFETY: as in forward.
        unsafe { self.backward_raw(plan, &args, stream.cu_stream()) }
    }

    fn check<T: Element>(&self, stream: &Arc<CudaStream>, problem: &Problem) -> Result<()> {
        if T::DTYPE != problem.dtype() {
            return Err(Error::PlannedDType {
                given: T::DTYPE,
                planned: problem.dtype(),
            });
        }
        self.check_home("the stream", stream)?;
        self.context()
            .bind_to_thread()
            .map_err(|error| crate::raw::driver_error("making the context current", error))
    }

    fn check_matrix<T>(&self, tensor: Tensor, matrix: &MatRef<'_, T>, problem: &Problem) -> Result<()> {
        matrix.check(tensor, problem)?;
        self.check_home(tensor.name(), matrix.home())
    }

    /// Taking a pointer makes the stream wait for the memory's other users; cudarc keeps a failure of that in the context.
    fn check_waits(&self) -> Result<()> {
        self.context()
            .check_err()
            .map_err(|error| crate::raw::driver_error("waiting for the arguments' other users", error))
    }

    fn check_home(&self, what: &'static str, stream: &Arc<CudaStream>) -> Result<()> {
        if stream.context().cu_ctx() == self.context().cu_ctx() {
            Ok(())
        } else {
            Err(Error::Context { what })
        }
    }
}

fn check_bytes(buffer: &'static str, given: usize, needed: usize) -> Result<()> {
    if given < needed {
        return Err(Error::Buffer { buffer, given, needed });
    }
    Ok(())
}
