//! The forward of layers, with or without saving what backward needs.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DeviceRepr};

use super::LoraLinear;
use super::inputs::{Inputs, LayerMatrix};
use super::memory::{matrix, scratch, uninitialised, written};
use super::operands::{Checks, Operands};
use super::saved::SavedForward;
use super::signature::Signature;
use crate::bind;
use crate::raw::{DevicePointer, ForwardArgs, ForwardProjectionArgs, ForwardRecord};
use crate::typed::order::Order;
use crate::{Argument, ForwardPlan, Problem, ReadMatrix, Result};

/// The memory of a call besides its inputs and y.
struct Scratch {
    saved: Option<DevicePointer>,
    workspace: Option<DevicePointer>,
    flags: Option<DevicePointer>,
}

impl LoraLinear {
    /// Computes y of each projection, dense (tokens, out_features), and what backward needs.
    ///
    /// It takes two launches. Without tokens each y is empty, and nothing is launched.
    ///
    /// # Errors
    /// [`crate::Error::Fit`] or [`crate::Error::PlannedDType`] if the shape or the type of a matrix
    /// doesn't fit the others, [`crate::Error::Bounds`] if its memory is too small,
    /// [`crate::Error::SomeBiases`], [`crate::Error::Context`], [`crate::Error::OtherDevice`], and
    /// the errors of [`Problem::sharing_x`], its `with_` functions, [`ForwardPlan::new`] and
    /// [`crate::BackwardPlan::new`], all before anything is launched. [`crate::Error::Driver`] if
    /// an allocation or a launch fails.
    pub fn forward<M: LayerMatrix, B: ReadMatrix, A: LayerMatrix>(
        &self,
        inputs: &Inputs<M, B, A>,
    ) -> Result<(Vec<CudaSlice<M::Slice>>, SavedForward)> {
        self.check_device()?;
        let mut order = self.order()?;
        let operands = self.operands(&mut order, inputs)?;
        let plans = self.shared.plans.of(&operands.signature);
        let plan = plans.forward(&operands.signature, &self.shared.props)?;
        // The backward's plan is made now, so that forward refuses what its backward would refuse.
        plans.backward(&operands.signature, &self.shared.props)?;
        let mut y = self.outputs(&operands)?;
        let bytes = plan.saved().bytes();
        let memory = (bytes > 0).then(|| uninitialised(&self.stream, "saved", bytes));
        let mut memory: Option<CudaSlice<u8>> = memory.transpose()?;
        let mut workspace = scratch(&self.stream, plan.workspace_bytes())?;
        let record = {
            let mut guards = Vec::with_capacity(2);
            let mut address = |buffer| written(buffer, &self.stream, &mut guards);
            let saved = memory.as_mut().map(&mut address);
            let workspace = workspace.as_mut().map(&mut address);
            self.launch_forward(
                &mut order,
                plan,
                inputs,
                &operands,
                &mut y,
                Scratch {
                    saved,
                    workspace,
                    flags: None,
                },
            )?
        };
        Ok((y, SavedForward { memory, record }))
    }

    /// Computes the y of [`LoraLinear::forward`] for a forward without a backward. It stores no
    /// mask, and only y stays allocated.
    ///
    /// It takes a single launch for up to [`Problem::DECODE_TOKENS`] tokens without dropout and
    /// weights stored (out_features, in_features), and two otherwise. The sums of a single launch
    /// are in another order than those of two, so its y may be rounded differently.
    ///
    /// The blocks of a single launch tell each other by flags in device memory, which belong to the
    /// `LoraLinear` and its clones: a few kilobytes, allocated by the first call that needs them.
    ///
    /// # Errors
    /// As [`LoraLinear::forward`].
    pub fn infer<M: LayerMatrix, B: ReadMatrix, A: LayerMatrix>(
        &self,
        inputs: &Inputs<M, B, A>,
    ) -> Result<Vec<CudaSlice<M::Slice>>> {
        self.check_device()?;
        let mut order = self.order()?;
        let mut operands = self.operands(&mut order, inputs)?;
        operands.signature.infers();
        let plans = self.shared.plans.of(&operands.signature);
        let plan = plans.forward(&operands.signature, &self.shared.props)?;
        let mut y = self.outputs(&operands)?;
        // One allocation for S, followed by the workspace.
        let s_bytes = plan.saved().bytes();
        let bytes = s_bytes.saturating_add(plan.workspace_bytes());
        let mut memory = scratch(&self.stream, bytes)?;
        let mut flags = self.flags.of_call(&self.stream, plan.flags_bytes())?;
        let launched = {
            let mut guards = Vec::with_capacity(2);
            let memory = memory.as_mut();
            let s = memory.map(|buffer| written(buffer, &self.stream, &mut guards));
            let scratch = Scratch {
                saved: s,
                workspace: s.map(|s| s + s_bytes as u64),
                flags: flags
                    .get()
                    .map(|flags| written(flags.words_mut(), &self.stream, &mut guards)),
            };
            self.launch_forward(&mut order, plan, inputs, &operands, &mut y, scratch)
        };
        if launched.is_err() {
            flags.discard();
        }
        launched?;
        Ok(y)
    }

    /// The plan that [`LoraLinear::infer`] uses for these inputs.
    ///
    /// # Errors
    /// As [`LoraLinear::forward`].
    pub fn infer_plan<M: ReadMatrix, B: ReadMatrix, A: ReadMatrix>(
        &self,
        inputs: &Inputs<M, B, A>,
    ) -> Result<Arc<ForwardPlan>> {
        self.plan_of(inputs, Signature::infers)
    }

    /// The plan that [`LoraLinear::forward`] uses for these inputs.
    ///
    /// # Errors
    /// As [`LoraLinear::forward`].
    pub fn forward_plan<M: ReadMatrix, B: ReadMatrix, A: ReadMatrix>(
        &self,
        inputs: &Inputs<M, B, A>,
    ) -> Result<Arc<ForwardPlan>> {
        self.plan_of(inputs, |_| ())
    }

    fn plan_of<M: ReadMatrix, B: ReadMatrix, A: ReadMatrix>(
        &self,
        inputs: &Inputs<M, B, A>,
        change: impl FnOnce(&mut Signature),
    ) -> Result<Arc<ForwardPlan>> {
        let mut order = self.order()?;
        let mut operands = self.operands(&mut order, inputs)?;
        change(&mut operands.signature);
        let (signature, props) = (&operands.signature, &self.shared.props);
        self.shared
            .plans
            .of(signature)
            .forward(signature, props)
            .cloned()
    }

    /// The order of a call, whose results belong to the layer's stream.
    pub(super) fn order(&self) -> Result<Order<'_>> {
        let mut order = Order::new(&self.shared.kernels, &self.stream)?;
        order.admit(Argument::Stream, &self.stream)?;
        Ok(order)
    }

    fn operands<'g, M: ReadMatrix, B: ReadMatrix, A: ReadMatrix>(
        &'g self,
        order: &mut Order<'_>,
        inputs: &'g Inputs<M, B, A>,
    ) -> Result<Operands<'g>> {
        let mut checks = Checks::new(order, inputs);
        Operands::new(&mut checks, &self.stream, inputs)
    }

    fn outputs<T: DeviceRepr>(&self, operands: &Operands<'_>) -> Result<Vec<CudaSlice<T>>> {
        let signature = &operands.signature;
        let projections = signature.projections.iter();
        projections
            .map(|projection| {
                let shape = (signature.tokens, projection.sizes.out_features);
                matrix(&self.stream, "y", shape, signature.formats.activations)
            })
            .collect()
    }

    fn launch_forward<M: LayerMatrix, B: ReadMatrix, A: LayerMatrix>(
        &self,
        order: &mut Order<'_>,
        plan: &ForwardPlan,
        inputs: &Inputs<M, B, A>,
        operands: &Operands<'_>,
        y: &mut [CudaSlice<M::Slice>],
        scratch: Scratch,
    ) -> Result<ForwardRecord> {
        let mut projections = [ForwardProjectionArgs::default(); Problem::MAX_PROJECTIONS];
        let count = operands.projections.len();
        let mut guards = Vec::with_capacity(count);
        for ((raw, from), y) in projections.iter_mut().zip(&operands.projections).zip(y) {
            *raw = ForwardProjectionArgs {
                weight: from.weight,
                bias: from.bias,
                lora: from.lora,
                y: written(y, &self.stream, &mut guards),
            };
        }
        order.check()?;
        let args = ForwardArgs {
            x: operands.x,
            projections: &projections[..count],
            dropout: inputs.dropout,
            saved: scratch.saved.map_or(bind::Saved::Empty, bind::Saved::Whole),
            workspace: scratch.workspace,
            rows: None,
            flags: scratch.flags,
        };
        let stream = self.stream.cu_stream();
        // SAFETY: the context was made current. Every matrix is in a slice of it and was checked
        // against the slice's size. The plan was made for their shapes, strides and alignments, and
        // outputs and buffers were allocated for this call. Borrows keep all of it alive until the
        // call is enqueued. Then the home streams, on which it is freed, wait for the call, and
        // nothing was captured that could run again.
        let launched = unsafe { self.shared.kernels.forward_raw(plan, &args, stream) };
        order.end(launched)
    }
}
