//! Forward and backward on matrices.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};

use super::check::{self, Checks};
use super::matrix::{MatMut, MatRef};
use crate::raw::{BackwardArgs, BackwardProjectionArgs, ForwardArgs, ForwardProjectionArgs};
use crate::{
    Argument, BackwardPlan, Dropout, Element, ForwardPlan, Kernels, Problem, Result, Role,
};

/// One adapter.
pub struct Lora<'a, A> {
    /// A, (rank, in_features)
    pub a: MatRef<'a, A>,
    /// B, (out_features, rank)
    pub b: MatRef<'a, A>,
    /// lora_alpha / rank, or lora_alpha / √rank for rsLoRA
    pub scaling: f32,
}

/// The gradients of one adapter.
pub struct LoraGradients<'a, A> {
    /// Out: dA, (rank, in_features)
    pub a: MatMut<'a, A>,
    /// Out: dB, (out_features, rank)
    pub b: MatMut<'a, A>,
}

/// Arguments of [`Kernels::forward`]: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ for every projection.
/// `T` is the type of the tensors, `A` that of the adapters.
pub struct Forward<'a, T, A = T> {
    /// (tokens, in_features)
    pub x: MatRef<'a, T>,
    /// As many as the problem has
    pub projections: Vec<ForwardProjection<'a, T, A>>,
    /// Exactly if the problem has dropout
    pub dropout: Option<Dropout>,
    /// Out: at least `plan.saved().bytes()` bytes. Keep it for backward.
    pub saved: CudaViewMut<'a, u8>,
    /// At least `plan.workspace_bytes()` bytes of scratch, often none
    pub workspace: CudaViewMut<'a, u8>,
}

/// One projection of [`Forward`].
pub struct ForwardProjection<'a, T, A = T> {
    /// W, (out_features, in_features), or transposed as the problem says
    pub weight: MatRef<'a, T>,
    /// (out_features), exactly if the problem has a bias
    pub bias: Option<CudaView<'a, T>>,
    /// Exactly if the projection has a rank
    pub lora: Option<Lora<'a, A>>,
    /// Out: (tokens, out_features)
    pub y: MatMut<'a, T>,
}

/// Arguments of [`Kernels::backward`]: with T = scaling·dy·B of every projection, dx = Σ dy·W +
/// mask∘(Σ T·A)/(1-p), dA = Tᵀ·drop(x), dB = scaling·dyᵀ·(drop(x)·Aᵀ).
pub struct Backward<'a, T, A = T> {
    /// (tokens, in_features), as in forward
    pub x: MatRef<'a, T>,
    /// As many as the problem has
    pub projections: Vec<BackwardProjection<'a, T, A>>,
    /// As in forward
    pub dropout: Option<Dropout>,
    /// What forward saved
    pub saved: CudaView<'a, u8>,
    /// Out: (tokens, in_features), exactly if the problem has an input gradient
    pub dx: Option<MatMut<'a, T>>,
    /// At least `plan.workspace_bytes()` bytes of scratch
    pub workspace: CudaViewMut<'a, u8>,
}

/// One projection of [`Backward`].
pub struct BackwardProjection<'a, T, A = T> {
    /// (tokens, out_features)
    pub dy: MatRef<'a, T>,
    /// W, (out_features, in_features), or transposed as the problem says
    pub weight: MatRef<'a, T>,
    /// Exactly if the projection has a rank
    pub lora: Option<Lora<'a, A>>,
    /// Exactly if the projection has a rank
    pub gradients: Option<LoraGradients<'a, A>>,
}

impl Kernels {
    /// Enqueues a forward on `stream`.
    ///
    /// The result is a function of the arguments and the plan alone: the same bits on every run.
    /// Sums are in f32 (for f32 tensors with fused multiply-adds, not TF32), rounded once per
    /// stored value; S is stored in the tensors' dtype, as PEFT does.
    ///
    /// # Errors
    /// Any of [`crate::Error`]'s argument errors before anything is launched,
    /// [`crate::Error::Driver`] if a launch fails.
    pub fn forward<T: Element, A: Element>(
        &self,
        stream: &Arc<CudaStream>,
        plan: &ForwardPlan,
        mut args: Forward<'_, T, A>,
    ) -> Result<()> {
        let checks = Checks::new::<T, A>(self, stream, plan.problem(), args.projections.len())?;
        checks.read(0, Role::X, &args.x)?;
        for (index, projection) in args.projections.iter().enumerate() {
            checks.read(index, Role::Weight, &projection.weight)?;
            checks.write(index, Role::Y, &projection.y)?;
            if let Some(bias) = &projection.bias {
                checks.bias(index, bias)?;
            }
            checks.lora(index, projection.lora.as_ref())?;
        }
        checks.bytes(Argument::Saved, &args.saved, plan.saved().bytes())?;
        checks.bytes(Argument::Workspace, &args.workspace, plan.workspace_bytes())?;

        // The guards record on `stream` that the memory is in use; they live until both kernels are
        // enqueued.
        let mut guards = Vec::new();
        macro_rules! address {
            ($taken:expr) => {{
                let (pointer, guard) = $taken;
                guards.push(guard);
                pointer
            }};
        }
        let mut projections = [ForwardProjectionArgs::default(); Problem::MAX_PROJECTIONS];
        let count = args.projections.len();
        let x = address!(args.x.pointer(stream));
        for (raw, projection) in projections.iter_mut().zip(&mut args.projections) {
            raw.weight = address!(projection.weight.pointer(stream));
            if let Some(bias) = &projection.bias {
                raw.bias = address!(bias.device_ptr(stream));
            }
            if let Some(lora) = &projection.lora {
                raw.lora_a = address!(lora.a.pointer(stream));
                raw.lora_b = address!(lora.b.pointer(stream));
                raw.scaling = lora.scaling;
            }
            raw.y = address!(projection.y.pointer(stream));
        }
        let saved = address!(args.saved.device_ptr_mut(stream));
        let workspace = address!(args.workspace.device_ptr_mut(stream));
        check::waits(stream)?;
        let raw = ForwardArgs {
            x,
            projections: &projections[..count],
            dropout: args.dropout,
            saved,
            workspace,
        };
        // SAFETY: the context was made current; every matrix lies in a live slice of it at the
        // plan's strides; borrows keep the slices alive and the outputs apart until the call is
        // enqueued, cudarc's stream order after.
        unsafe { self.forward_raw(plan, &raw, stream.cu_stream()) }
    }

    /// Enqueues a backward on `stream`.
    ///
    /// Deterministic as [`Kernels::forward`].
    ///
    /// # Errors
    /// Any of [`crate::Error`]'s argument errors before anything is launched,
    /// [`crate::Error::Driver`] if a launch fails.
    pub fn backward<T: Element, A: Element>(
        &self,
        stream: &Arc<CudaStream>,
        plan: &BackwardPlan,
        mut args: Backward<'_, T, A>,
    ) -> Result<()> {
        let checks = Checks::new::<T, A>(self, stream, plan.problem(), args.projections.len())?;
        checks.read(0, Role::X, &args.x)?;
        if let Some(dx) = &args.dx {
            checks.write(0, Role::DX, dx)?;
        }
        for (index, projection) in args.projections.iter().enumerate() {
            checks.read(index, Role::DY, &projection.dy)?;
            checks.read(index, Role::Weight, &projection.weight)?;
            checks.lora(index, projection.lora.as_ref())?;
            checks.gradients(index, projection.gradients.as_ref())?;
        }
        checks.bytes(Argument::Saved, &args.saved, plan.saved().bytes())?;
        checks.bytes(Argument::Workspace, &args.workspace, plan.workspace_bytes())?;

        // As in forward.
        let mut guards = Vec::new();
        macro_rules! address {
            ($taken:expr) => {{
                let (pointer, guard) = $taken;
                guards.push(guard);
                pointer
            }};
        }
        let mut projections = [BackwardProjectionArgs::default(); Problem::MAX_PROJECTIONS];
        let count = args.projections.len();
        let x = address!(args.x.pointer(stream));
        for (raw, projection) in projections.iter_mut().zip(&mut args.projections) {
            raw.dy = address!(projection.dy.pointer(stream));
            raw.weight = address!(projection.weight.pointer(stream));
            if let Some(lora) = &projection.lora {
                raw.lora_a = address!(lora.a.pointer(stream));
                raw.lora_b = address!(lora.b.pointer(stream));
                raw.scaling = lora.scaling;
            }
            if let Some(gradients) = &mut projection.gradients {
                raw.d_lora_a = address!(gradients.a.pointer(stream));
                raw.d_lora_b = address!(gradients.b.pointer(stream));
            }
        }
        let saved = address!(args.saved.device_ptr(stream));
        let dx = match &mut args.dx {
            Some(dx) => address!(dx.pointer(stream)),
            None => 0,
        };
        let workspace = address!(args.workspace.device_ptr_mut(stream));
        check::waits(stream)?;
        let raw = BackwardArgs {
            x,
            projections: &projections[..count],
            dropout: args.dropout,
            saved,
            dx,
            workspace,
        };
        // SAFETY: as in forward.
        unsafe { self.backward_raw(plan, &raw, stream.cu_stream()) }
    }
}
