//! Forward of layers: with what backward needs, or without.

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
    /// y of each projection, (tokens, out_features) without gaps, and what backward needs.
    ///
    /// Without tokens each y is empty. Two launches otherwise.
    ///
    /// # Errors
    /// [`crate::Error::Fit`] if a matrix has another shape than the others ask for,
    /// [`crate::Error::Bounds`] if its memory is too small, [`crate::Error::SomeBiases`],
    /// [`crate::Error::Context`], and what [`Problem::sharing_x`], its `with_` functions and
    /// [`ForwardPlan::new`] and [`crate::BackwardPlan::new`] refuse: all before anything is
    /// launched. [`crate::Error::Driver`] if an allocation or a launch fails.
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
        // What its backward would be refused for is refused now.
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

    /// y of each projection, as [`LoraLinear::forward`] computes it, for a forward without a
    /// backward: no mask is stored, and nothing but y is left allocated.
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
        // S, and behind it the workspace.
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

    /// The plan of [`LoraLinear::forward`] for these inputs, to look at. It is the one that the
    /// call takes.
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
            .map(|one| {
                let elements = signature.tokens.saturating_mul(one.sizes.out_features);
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
        // SAFETY: the context was made current; every matrix lies in a live slice of it, checked
        // against its extent; the plan was made for their shapes, strides and alignments; outputs
        // and buffers were allocated for this call. Guards keep all of it in use until the call is
        // enqueued, cudarc's stream order after.
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
