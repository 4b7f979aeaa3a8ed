//! The backward of layers.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};

use super::LoraLinear;
use super::inputs::{Inputs, LayerMatrix};
use super::memory::{matrix, scratch, written};
use super::operands::{Checks, Operands, contiguous, read, write};
use super::saved::SavedForward;
use crate::bind::{self, LoraGradients};
use crate::raw::{BackwardArgs, BackwardProjectionArgs, LoraGradientsArgs};
use crate::typed::order::Order;
use crate::{Argument, BackwardPlan, DType, Projection, ReadMatrix, Result, WriteMatrix};

/// The results of a backward. `T` is the type of the tensors, `A` that of the adapters. Both are
/// bytes if the inputs' types are known at run time only.
#[non_exhaustive]
pub struct Gradients<T, A = T> {
    /// dx, dense (tokens, in_features); `None` if it wasn't asked for
    pub dx: Option<CudaSlice<T>>,
    /// The gradients of each projection that has an adapter; `None` if they were added to the
    /// caller's memory
    pub adapters: Vec<Option<AdapterGradients<A>>>,
}

/// The gradients of one adapter, both dense.
#[non_exhaustive]
pub struct AdapterGradients<A> {
    /// dA, (rank, in_features)
    pub a: CudaSlice<A>,
    /// dB, (out_features, rank)
    pub b: CudaSlice<A>,
}

/// Options of a backward: which gradients to compute, and where to put them. `M` is
/// [`MatMut`](crate::MatMut) or [`DynMatMut`](crate::DynMatMut).
pub struct BackwardOptions<M> {
    input_gradient: bool,
    accumulate: Option<Vec<Option<LoraGradients<M>>>>,
}

impl<M> Default for BackwardOptions<M> {
    /// Computes dx, and allocates each adapter's gradients.
    fn default() -> Self {
        Self {
            input_gradient: true,
            accumulate: None,
        }
    }
}

impl<M: WriteMatrix> BackwardOptions<M> {
    /// Sets whether dx is computed. The first layer of a model doesn't need it.
    pub fn with_input_gradient(mut self, input_gradient: bool) -> Self {
        self.input_gradient = input_gradient;
        self
    }

    /// Adds dA and dB to the contents of these matrices, in f32 and rounded once. There is an item
    /// per projection, with a pair if the projection has an adapter.
    pub fn accumulate(mut self, gradients: impl Into<Vec<Option<LoraGradients<M>>>>) -> Self {
        self.accumulate = Some(gradients.into());
        self
    }
}

impl LoraLinear {
    /// Computes dx, and dA and dB of each adapter, from the gradient of each y, in three launches.
    /// `inputs` are those of the forward that returned `saved`, which is not changed.
    ///
    /// Without tokens dx is empty, and dA and dB are zero.
    ///
    /// # Errors
    /// [`crate::Error::OtherForward`] if `saved` belongs to a forward with other sizes, types,
    /// scalings or dropout. Whether x, weights and adapters still hold the same numbers can't be
    /// checked. Otherwise as for [`LoraLinear::forward`], for the inputs and dy.
    pub fn backward<M: LayerMatrix, B: ReadMatrix, A: LayerMatrix>(
        &self,
        inputs: &Inputs<M, B, A>,
        saved: &SavedForward,
        dy: &[M],
    ) -> Result<Gradients<M::Slice, A::Slice>> {
        self.backward_with(inputs, saved, dy, BackwardOptions::default())
    }

    /// [`LoraLinear::backward`] with options.
    ///
    /// # Errors
    /// As for [`LoraLinear::backward`], and [`crate::Error::Optional`] unless gradients to add to
    /// are given exactly for the projections that have an adapter.
    pub fn backward_with<M: LayerMatrix, B: ReadMatrix, A: LayerMatrix>(
        &self,
        inputs: &Inputs<M, B, A>,
        saved: &SavedForward,
        dy: &[M],
        options: BackwardOptions<A::Mut<'_>>,
    ) -> Result<Gradients<M::Slice, A::Slice>> {
        let BackwardOptions {
            input_gradient,
            mut accumulate,
        } = options;
        self.check_device()?;
        let mut order = self.order()?;
        let mut call = Call::new(self, &mut order, inputs, dy, accumulate.as_deref_mut())?;
        call.operands.signature.input_gradient = input_gradient;
        let signature = &call.operands.signature;
        let plans = self.shared.plans.of(signature);
        let plan = plans.backward(signature, &self.shared.props)?;
        saved
            .record
            .check(plan.problem(), inputs.dropout, call.scalings())?;
        if let Some(memory) = &saved.memory {
            order.admit(Argument::Saved, memory.stream())?;
        }
        order.join()?;

        let formats = signature.formats;
        let shape = (signature.tokens, signature.in_features);
        let dx = input_gradient.then(|| matrix(&self.stream, "dx", shape, formats.activations));
        let adapters = signature.projections.iter().map(|projection| {
            let wanted = projection.sizes.rank > 0 && !signature.accumulate;
            let adapter = wanted
                .then(|| self.adapter(projection.sizes, signature.in_features, formats.gradients));
            adapter.transpose()
        });
        let mut gradients = Gradients {
            adapters: adapters.collect::<Result<_>>()?,
            dx: dx.transpose()?,
        };
        let workspace = scratch(&self.stream, plan.workspace_bytes())?;
        let memory = (saved, workspace);
        self.launch_backward(&mut order, plan, inputs, call, memory, &mut gradients)?;
        Ok(gradients)
    }

    /// The plan that [`LoraLinear::backward`] uses for these arguments.
    ///
    /// # Errors
    /// As [`LoraLinear::backward`].
    pub fn backward_plan<M: ReadMatrix, B: ReadMatrix, A: LayerMatrix>(
        &self,
        inputs: &Inputs<M, B, A>,
        dy: &[M],
    ) -> Result<Arc<BackwardPlan>> {
        let mut order = self.order()?;
        let call = Call::new(
            self,
            &mut order,
            inputs,
            dy,
            None::<&mut [Option<LoraGradients<A::Mut<'_>>>]>,
        )?;
        let (signature, props) = (&call.operands.signature, &self.shared.props);
        self.shared
            .plans
            .of(signature)
            .backward(signature, props)
            .cloned()
    }

    fn adapter<A: DeviceRepr>(
        &self,
        Projection { out_features, rank }: Projection,
        in_features: usize,
        dtype: DType,
    ) -> Result<AdapterGradients<A>> {
        Ok(AdapterGradients {
            a: matrix(&self.stream, "d_lora_A", (rank, in_features), dtype)?,
            b: matrix(&self.stream, "d_lora_B", (out_features, rank), dtype)?,
        })
    }

    fn launch_backward<M: LayerMatrix, B: ReadMatrix, A: LayerMatrix>(
        &self,
        order: &mut Order<'_>,
        plan: &BackwardPlan,
        inputs: &Inputs<M, B, A>,
        mut call: Call<'_>,
        (saved, mut workspace): (&SavedForward, Option<CudaSlice<u8>>),
        gradients: &mut Gradients<M::Slice, A::Slice>,
    ) -> Result<()> {
        let stream = &self.stream;
        let mut guards = Vec::new();
        let memory = saved.memory.as_ref().map(|memory| {
            let (address, guard) = memory.device_ptr(stream);
            guards.push(guard);
            address
        });
        let Gradients { dx, adapters } = gradients;
        let dx = dx.as_mut().map(|dx| written(dx, stream, &mut guards));
        let workspace = workspace.as_mut();
        let workspace = workspace.map(|buffer| written(buffer, stream, &mut guards));
        for (raw, adapter) in call.projections.iter_mut().zip(adapters) {
            if let Some(AdapterGradients { a, b }) = adapter {
                raw.gradients = Some(LoraGradientsArgs {
                    a: written(a, stream, &mut guards),
                    b: written(b, stream, &mut guards),
                });
            }
        }
        order.check()?;
        let args = BackwardArgs {
            x: call.operands.x,
            projections: &call.projections,
            dropout: inputs.dropout,
            saved: memory.map_or(bind::Saved::Empty, bind::Saved::Whole),
            // Checked already, before anything was allocated.
            record: None,
            dx,
            workspace,
            rows: None,
        };
        // SAFETY: as in forward; `saved` is of a forward of the same sizes and dropout, and
        // gradients that are added to are borrowed for the call.
        let launched = unsafe {
            self.shared
                .kernels
                .backward_raw(plan, &args, stream.cu_stream())
        };
        order.end(launched)
    }
}

/// The arguments of a backward as addresses, without the results, which are allocated later.
struct Call<'g> {
    operands: Operands<'g>,
    projections: Vec<BackwardProjectionArgs>,
}

impl<'g> Call<'g> {
    fn new<M: ReadMatrix, B: ReadMatrix, A: ReadMatrix, W: WriteMatrix>(
        layer: &'g LoraLinear,
        order: &mut Order<'_>,
        inputs: &'g Inputs<M, B, A>,
        dy: &'g [M],
        accumulate: Option<&'g mut [Option<LoraGradients<W>>]>,
    ) -> Result<Self> {
        let stream = &layer.stream;
        let mut checks = Checks::new(order, inputs);
        let mut operands = Operands::new(&mut checks, stream, inputs)?;
        let signatures = &mut operands.signature.projections;
        let sizes: Vec<Projection> = signatures
            .iter()
            .map(|projection| projection.sizes)
            .collect();
        checks.dy(dy, &sizes)?;
        if let Some(gradients) = &accumulate {
            checks.gradients(gradients, &sizes)?;
        }
        order.join()?;

        let guards = &mut operands.guards;
        let mut projections = Vec::with_capacity(sizes.len());
        for ((projection, from), dy) in signatures.iter_mut().zip(&operands.projections).zip(dy) {
            let (dy, layout) = read(stream, dy, guards);
            projection.dy =
                Some(layout).filter(|dy| *dy != contiguous(projection.sizes.out_features));
            projections.push(BackwardProjectionArgs {
                dy,
                weight: from.weight,
                lora: from.lora,
                gradients: None,
            });
        }
        operands.signature.accumulate = accumulate.is_some();
        for ((projection, raw), target) in signatures
            .iter_mut()
            .zip(&mut projections)
            .zip(accumulate.into_iter().flatten())
        {
            if let Some(LoraGradients { a, b }) = target {
                let (a, a_layout) = write(stream, a, guards);
                let (b, b_layout) = write(stream, b, guards);
                raw.gradients = Some(LoraGradientsArgs { a, b });
                projection.gradients = Some([a_layout, b_layout]);
            }
        }
        order.check()?;
        Ok(Self {
            operands,
            projections,
        })
    }

    fn scalings(&self) -> impl Iterator<Item = f32> + '_ {
        bind::scalings(self.projections.iter().map(|projection| projection.lora))
    }
}
