//! The forward of layers, with or without saving what backward needs.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtrMut, DeviceRepr};

use super::LoraLinear;
use super::inputs::LoraInputs;
use super::memory::{uninitialised, written};
use super::operands::{Operands, ProjectionOperands};
use super::saved::Saved;
use crate::raw::{DevicePointer, ForwardArgs, ForwardProjectionArgs};
use crate::typed::check;
use crate::{Element, ForwardPlan, Mask, Problem, Result};

impl LoraLinear {
    /// Computes y of each projection, dense (tokens, out_features), and what backward needs.
    ///
    /// It takes two launches. Without tokens each y is empty, and nothing is launched.
    ///
    /// # Errors
    /// [`crate::Error::Fit`] if the shape of a matrix doesn't fit the others,
    /// [`crate::Error::Bounds`] if its memory is too small, [`crate::Error::SomeBiases`],
    /// [`crate::Error::Context`], and the errors of [`Problem::sharing_x`], its `with_` functions,
    /// [`ForwardPlan::new`] and [`crate::BackwardPlan::new`], all before anything is launched.
    /// [`crate::Error::Driver`] if an allocation or a launch fails.
    pub fn forward<T: Element + DeviceRepr, A: Element>(
        &self,
        inputs: &LoraInputs<'_, T, A>,
    ) -> Result<(Vec<CudaSlice<T>>, Saved)> {
        let operands = Operands::new(&self.shared.kernels, &self.stream, inputs)?;
        let mut y = self.outputs(&operands)?;
        if operands.signature.tokens == 0 {
            operands.signature.problem()?;
            return Ok((y, Saved::new(None, inputs, &operands.signature)));
        }
        let plans = self.shared.plans.of(&operands.signature);
        let plan = plans.forward(&operands.signature, &self.shared.props)?;
        // The backward's plan is made now, so that forward refuses what its backward would refuse.
        plans.backward(&operands.signature, &self.shared.props)?;
        let mut saved: CudaSlice<u8> = uninitialised(&self.stream, "saved", plan.saved().bytes())?;
        let mut workspace = self.scratch(plan.workspace_bytes())?;
        {
            let mut guards = Vec::with_capacity(2);
            let saved = written(&mut saved, &self.stream, &mut guards);
            let workspace = workspace.as_mut();
            let workspace = workspace.map(|buffer| written(buffer, &self.stream, &mut guards));
            self.launch_forward(plan, inputs, &operands, &mut y, (saved, workspace))?;
        }
        let saved = Saved::new(Some(saved), inputs, &operands.signature);
        Ok((y, saved))
    }

    /// Computes the same y as [`LoraLinear::forward`], for a forward without a backward. It stores
    /// no mask, and only y stays allocated.
    ///
    /// # Errors
    /// As [`LoraLinear::forward`].
    pub fn infer<T: Element + DeviceRepr, A: Element>(
        &self,
        inputs: &LoraInputs<'_, T, A>,
    ) -> Result<Vec<CudaSlice<T>>> {
        let mut operands = Operands::new(&self.shared.kernels, &self.stream, inputs)?;
        operands.signature.mask = Mask::Redrawn;
        let mut y = self.outputs(&operands)?;
        if operands.signature.tokens == 0 {
            operands.signature.problem()?;
            return Ok(y);
        }
        let plans = self.shared.plans.of(&operands.signature);
        let plan = plans.forward(&operands.signature, &self.shared.props)?;
        // One allocation for S, followed by the workspace.
        let s_bytes = plan.saved().bytes();
        let mut scratch: CudaSlice<u8> = uninitialised(
            &self.stream,
            "scratch memory",
            s_bytes.saturating_add(plan.workspace_bytes()),
        )?;
        {
            let (s, _in_use) = scratch.device_ptr_mut(&self.stream);
            let buffers = (s, Some(s + s_bytes as u64));
            self.launch_forward(plan, inputs, &operands, &mut y, buffers)?;
        }
        Ok(y)
    }

    /// The plan that [`LoraLinear::forward`] uses for these inputs.
    ///
    /// # Errors
    /// As [`LoraLinear::forward`]; there is no plan without tokens.
    pub fn forward_plan<T: Element, A: Element>(
        &self,
        inputs: &LoraInputs<'_, T, A>,
    ) -> Result<Arc<ForwardPlan>> {
        let operands = Operands::new(&self.shared.kernels, &self.stream, inputs)?;
        let plans = self.shared.plans.of(&operands.signature);
        plans
            .forward(&operands.signature, &self.shared.props)
            .cloned()
    }

    fn outputs<T: DeviceRepr>(&self, operands: &Operands<'_>) -> Result<Vec<CudaSlice<T>>> {
        let signature = &operands.signature;
        let projections = signature.projections.iter();
        projections
            .map(|projection| {
                let elements = signature
                    .tokens
                    .saturating_mul(projection.sizes.out_features);
                uninitialised(&self.stream, "y", elements)
            })
            .collect()
    }

    pub(super) fn scratch(&self, bytes: usize) -> Result<Option<CudaSlice<u8>>> {
        let needed = (bytes > 0).then(|| uninitialised(&self.stream, "the workspace", bytes));
        needed.transpose()
    }

    fn launch_forward<T, A>(
        &self,
        plan: &ForwardPlan,
        inputs: &LoraInputs<'_, T, A>,
        operands: &Operands<'_>,
        y: &mut [CudaSlice<T>],
        (saved, workspace): (DevicePointer, Option<DevicePointer>),
    ) -> Result<()> {
        let mut projections = [ForwardProjectionArgs::default(); Problem::MAX_PROJECTIONS];
        let count = operands.projections.len();
        let mut guards = Vec::with_capacity(count);
        for ((raw, from), y) in projections.iter_mut().zip(&operands.projections).zip(y) {
            let (y, guard) = y.device_ptr_mut(&self.stream);
            guards.push(guard);
            *raw = forward_args(from, y);
        }
        check::waits(&self.stream)?;
        let args = ForwardArgs {
            x: operands.x,
            projections: &projections[..count],
            dropout: inputs.dropout,
            saved: saved.into(),
            workspace,
        };
        let stream = self.stream.cu_stream();
        // SAFETY: the context was made current. Every matrix is in a live slice of it and was
        // checked against the slice's size. The plan was made for their shapes, strides and
        // alignments, and outputs and buffers were allocated for this call. Guards keep all of it
        // alive until the call is enqueued, and cudarc's stream order afterwards.
        unsafe { self.shared.kernels.forward_raw(plan, &args, stream) }?;
        Ok(())
    }
}

fn forward_args(from: &ProjectionOperands, y: DevicePointer) -> ForwardProjectionArgs {
    ForwardProjectionArgs {
        weight: from.weight,
        bias: from.bias,
        lora: from.lora,
        y,
    }
}
