//! The backward of layers.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr, ValidAsZeroBits};

use super::LoraLinear;
use super::inputs::LoraInputs;
use super::memory::{uninitialised, written, zeros};
use super::operands::{Checks, Operands, read, write};
use super::saved::Saved;
use crate::plan::BUFFER_ALIGNMENT;
use crate::raw::{BackwardArgs, BackwardProjectionArgs, LoraGradientsArgs};
use crate::typed::check;
use crate::{
    Argument, BackwardPlan, Element, Error, Hint, Layout, LoraGradients, MatRef, Projection,
    Result, Role,
};

/// The results of a backward. `T` is the type of the tensors, `A` that of the adapters.
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

/// Options of a backward: which gradients to compute, and where to put them.
pub struct BackwardOptions<'a, A> {
    input_gradient: bool,
    accumulate: Option<Vec<Option<LoraGradients<'a, A>>>>,
}

impl<A> Default for BackwardOptions<'_, A> {
    /// Computes dx, and allocates each adapter's gradients.
    fn default() -> Self {
        Self {
            input_gradient: true,
            accumulate: None,
        }
    }
}

impl<'a, A> BackwardOptions<'a, A> {
    /// Sets whether dx is computed. The first layer of a model doesn't need it.
    pub fn with_input_gradient(mut self, input_gradient: bool) -> Self {
        self.input_gradient = input_gradient;
        self
    }

    /// Adds dA and dB to the contents of these matrices, in f32 and rounded once. There is an item
    /// per projection, with a pair if the projection has an adapter.
    pub fn accumulate(mut self, gradients: impl Into<Vec<Option<LoraGradients<'a, A>>>>) -> Self {
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
    /// [`Error::OtherForward`] if `saved` belongs to a forward with other sizes, types, scalings or
    /// dropout. Whether x, weights and adapters still hold the same numbers can't be checked.
    /// Otherwise as for [`LoraLinear::forward`], for the inputs and dy.
    pub fn backward<T, A>(
        &self,
        inputs: &LoraInputs<'_, T, A>,
        saved: &Saved,
        dy: &[MatRef<'_, T>],
    ) -> Result<Gradients<T, A>>
    where
        T: Element + DeviceRepr,
        A: Element + DeviceRepr + ValidAsZeroBits,
    {
        self.backward_with(inputs, saved, dy, BackwardOptions::default())
    }

    /// [`LoraLinear::backward`] with options.
    ///
    /// # Errors
    /// As for [`LoraLinear::backward`], and [`Error::Optional`] unless gradients to add to are
    /// given exactly for the projections that have an adapter.
    pub fn backward_with<T, A>(
        &self,
        inputs: &LoraInputs<'_, T, A>,
        saved: &Saved,
        dy: &[MatRef<'_, T>],
        options: BackwardOptions<'_, A>,
    ) -> Result<Gradients<T, A>>
    where
        T: Element + DeviceRepr,
        A: Element + DeviceRepr + ValidAsZeroBits,
    {
        let BackwardOptions {
            input_gradient,
            mut accumulate,
        } = options;
        let mut call = Call::new(self, inputs, dy, accumulate.as_deref_mut())?;
        call.operands.signature.input_gradient = input_gradient;
        saved.check(inputs, &call.operands.signature)?;

        let signature = &call.operands.signature;
        let (tokens, in_features) = (signature.tokens, signature.in_features);
        let dx = input_gradient
            .then(|| uninitialised(&self.stream, "dx", tokens.saturating_mul(in_features)));
        let mut gradients = Gradients {
            dx: dx.transpose()?,
            adapters: signature.projections.iter().map(|_| None).collect(),
        };
        if !signature.accumulate {
            for (slot, projection) in gradients.adapters.iter_mut().zip(&signature.projections) {
                let adapted = projection.sizes.rank > 0;
                let made =
                    adapted.then(|| self.adapter(projection.sizes, in_features, tokens == 0));
                *slot = made.transpose()?;
            }
        }
        let Some(saved) = &saved.memory else {
            signature.problem()?;
            return Ok(gradients);
        };
        let plans = self.shared.plans.of(signature);
        let plan = plans.backward(signature, &self.shared.props)?;
        let workspace = self.scratch(plan.workspace_bytes())?;
        self.launch_backward(plan, inputs, &mut call, saved, workspace, &mut gradients)?;
        Ok(gradients)
    }

    /// The plan that [`LoraLinear::backward`] uses for these arguments.
    ///
    /// # Errors
    /// As [`LoraLinear::backward`]; there is no plan without tokens.
    pub fn backward_plan<T: Element, A: Element>(
        &self,
        inputs: &LoraInputs<'_, T, A>,
        dy: &[MatRef<'_, T>],
    ) -> Result<Arc<BackwardPlan>> {
        let call = Call::new(self, inputs, dy, None)?;
        let plans = self.shared.plans.of(&call.operands.signature);
        plans
            .backward(&call.operands.signature, &self.shared.props)
            .cloned()
    }

    fn adapter<A: DeviceRepr + ValidAsZeroBits>(
        &self,
        sizes: Projection,
        in_features: usize,
        without_tokens: bool,
    ) -> Result<AdapterGradients<A>> {
        let memory = |what, rows: usize, columns| {
            let elements = rows.saturating_mul(columns);
            if without_tokens {
                zeros(&self.stream, what, elements)
            } else {
                uninitialised(&self.stream, what, elements)
            }
        };
        Ok(AdapterGradients {
            a: memory("d_lora_A", sizes.rank, in_features)?,
            b: memory("d_lora_B", sizes.out_features, sizes.rank)?,
        })
    }

    fn launch_backward<T, A>(
        &self,
        plan: &BackwardPlan,
        inputs: &LoraInputs<'_, T, A>,
        call: &mut Call<'_>,
        saved: &CudaSlice<u8>,
        mut workspace: Option<CudaSlice<u8>>,
        gradients: &mut Gradients<T, A>,
    ) -> Result<()> {
        let mut guards = Vec::new();
        let (saved, guard) = saved.device_ptr(&self.stream);
        guards.push(guard);
        let Gradients { dx, adapters } = gradients;
        let dx = dx.as_mut().map(|dx| written(dx, &self.stream, &mut guards));
        let workspace = workspace.as_mut();
        let workspace = workspace.map(|buffer| written(buffer, &self.stream, &mut guards));
        for (raw, adapter) in call.projections.iter_mut().zip(adapters) {
            if let Some(AdapterGradients { a, b }) = adapter {
                raw.gradients = Some(LoraGradientsArgs {
                    a: written(a, &self.stream, &mut guards),
                    b: written(b, &self.stream, &mut guards),
                });
            }
        }
        check::waits(&self.stream)?;
        let args = BackwardArgs {
            x: call.operands.x,
            projections: &call.projections,
            dropout: inputs.dropout,
            saved: saved.into(),
            // Checked already.
            record: None,
            dx,
            workspace,
        };
        let stream = self.stream.cu_stream();
        // SAFETY: as in forward; `saved` is of a forward of the same sizes and dropout, and
        // gradients that are added to are borrowed for the call.
        unsafe { self.shared.kernels.backward_raw(plan, &args, stream) }
    }
}

/// The arguments of a backward as addresses, without the results, which are allocated later.
struct Call<'g> {
    operands: Operands<'g>,
    projections: Vec<BackwardProjectionArgs>,
}

impl<'g> Call<'g> {
    fn new<T: Element, A: Element>(
        layer: &'g LoraLinear,
        inputs: &'g LoraInputs<'_, T, A>,
        dy: &'g [MatRef<'_, T>],
        accumulate: Option<&'g mut [Option<LoraGradients<'_, A>>]>,
    ) -> Result<Self> {
        let (kernels, stream) = (&layer.shared.kernels, &layer.stream);
        let mut operands = Operands::new(kernels, stream, inputs)?;
        let checks = Checks::new(kernels, inputs);
        let in_features = operands.signature.in_features;
        let signatures = &mut operands.signature.projections;
        let sizes: Vec<Projection> = signatures
            .iter()
            .map(|projection| projection.sizes)
            .collect();
        checks.dy(dy, &sizes)?;
        if let Some(gradients) = &accumulate {
            check_gradients(&checks, gradients, &sizes, in_features)?;
        }

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
                let (d_lora_a, a_layout) = write(stream, a, guards);
                let (d_lora_b, b_layout) = write(stream, b, guards);
                raw.gradients = Some(LoraGradientsArgs {
                    a: d_lora_a,
                    b: d_lora_b,
                });
                projection.gradients = Some([a_layout, b_layout]);
            }
        }
        Ok(Self {
            operands,
            projections,
        })
    }
}

fn check_gradients<A: Element>(
    checks: &Checks<'_>,
    gradients: &[Option<LoraGradients<'_, A>>],
    sizes: &[Projection],
    in_features: usize,
) -> Result<()> {
    let (given, planned) = (gradients.len(), sizes.len());
    if given != planned {
        return Err(Error::ProjectionCount { given, planned });
    }
    for (index, (gradients, sizes)) in gradients.iter().zip(sizes).enumerate() {
        if gradients.is_some() != (sizes.rank > 0) {
            return Err(Error::Optional {
                what: Argument::Gradients(checks.which(index)),
                given: gradients.is_some(),
                hint: Hint::GradientsOfAdapters,
            });
        }
        let Some(LoraGradients { a, b }) = gradients else {
            continue;
        };
        checks.output(index, Role::DLoraA, a, (sizes.rank, in_features))?;
        checks.output(index, Role::DLoraB, b, (sizes.out_features, sizes.rank))?;
    }
    Ok(())
}

/// The layout that a new problem assumes.
fn contiguous(columns: usize) -> Layout {
    Layout {
        row_stride: columns as i64,
        alignment: BUFFER_ALIGNMENT,
    }
}
