//! Forward and backward on raw pointers. All that does not depend on an address, a scaling or the dropout stands in the plan already.

use cudarc::driver::sys::CUstream;

use super::{BackwardArgs, DevicePointer, ForwardArgs, Kernels, check};
use crate::plan::params::{DropoutParams, ForwardParams, GradAParams, GradBParams, GradXParams, ShrinkParams};
use crate::{Argument, BackwardPlan, ForwardPlan, Result, Tensor};

impl Kernels {
    /// Enqueues a forward: the plan's two launches.
    ///
    /// # Errors
    /// [`crate::Error::ProjectionCount`], [`crate::Error::Null`], [`crate::Error::Alignment`], [`crate::Error::BufferAlignment`],
    /// [`crate::Error::Optional`], [`crate::Error::Scaling`] or [`crate::Error::DropoutProbability`] before anything is launched;
    /// [`crate::Error::Driver`] if a launch fails.
    ///
    /// # Safety
    /// The context is current on this thread and `stream` belongs to it. Every pointer is a device address of that context with the extent
    /// that the plan's problem gives it; outputs, `saved` and the workspace overlap nothing else; all stay valid until the stream has run
    /// the call.
    pub unsafe fn forward_raw(&self, plan: &ForwardPlan, args: &ForwardArgs<'_>, stream: CUstream) -> Result<()> {
        let (shrink, forward) = forward_params(plan, args)?;
        // SAFETY: the caller vouches for the pointers, the plan for grids and shared memory, and each kernel takes the struct it is given.
        unsafe {
            self.launch(&plan.launches[0], &shrink, stream)?;
            self.launch(&plan.launches[1], &forward, stream)
        }
    }

    /// Enqueues a backward: the plan's three launches.
    ///
    /// # Errors
    /// As [`Kernels::forward_raw`].
    ///
    /// # Safety
    /// As [`Kernels::forward_raw`]; `saved` is what the forward of the same problem and inputs left.
    pub unsafe fn backward_raw(&self, plan: &BackwardPlan, args: &BackwardArgs<'_>, stream: CUstream) -> Result<()> {
        let (grad_b, grad_a, grad_x) = backward_params(plan, args)?;
        // SAFETY: as in forward.
        unsafe {
            self.launch(&plan.launches[0], &grad_b, stream)?;
            self.launch(&plan.launches[1], &grad_a, stream)?;
            self.launch(&plan.launches[2], &grad_x, stream)
        }
    }
}

/// What the two kernels are told, once the arguments are checked.
pub(super) fn forward_params(plan: &ForwardPlan, args: &ForwardArgs<'_>) -> Result<(ShrinkParams, ForwardParams)> {
    let dropout = check_forward(plan, args)?;
    let mut shrink = plan.shrink;
    let mut forward = plan.forward;
    shrink.x = args.x;
    shrink.s += args.saved;
    shrink.mask = stored(shrink.mask, args.saved);
    shrink.counters += args.workspace;
    shrink.dropout = dropout;
    forward.x = args.x;
    forward.s = shrink.s;
    forward.schedule.partial += args.workspace;
    forward.schedule.arrived += args.workspace;
    for (params, projection) in forward.projection.iter_mut().zip(args.projections) {
        params.weight = projection.weight;
        params.bias = projection.bias;
        params.lora_b = projection.lora_b;
        params.y = projection.y;
    }
    for (params, (index, _)) in shrink.lora_a.iter_mut().zip(plan.problem().adapted()) {
        params.data = args.projections[index].lora_a;
        params.scaling = args.projections[index].scaling;
    }
    Ok((shrink, forward))
}

/// What the three kernels are told, once the arguments are checked.
pub(super) fn backward_params(
    plan: &BackwardPlan,
    args: &BackwardArgs<'_>,
) -> Result<(GradBParams, GradAParams, GradXParams)> {
    let dropout = check_backward(plan, args)?;
    let mut grad_b = plan.grad_b;
    let mut grad_a = plan.grad_a;
    let mut grad_x = plan.grad_x;
    grad_b.s += args.saved;
    grad_b.counters += args.workspace;
    grad_a.x = args.x;
    grad_a.mask = stored(grad_a.mask, args.saved);
    grad_a.t += args.workspace;
    grad_a.lora_a_partial += args.workspace;
    grad_a.dropout = dropout;
    grad_x.t = grad_a.t;
    grad_x.mask = grad_a.mask;
    grad_x.dx = args.dx;
    grad_x.dropout = dropout;
    grad_x.schedule.partial += args.workspace;
    grad_x.schedule.arrived += args.workspace;
    for (params, projection) in grad_x.projection.iter_mut().zip(args.projections) {
        params.dy = projection.dy;
        params.weight = projection.weight;
        params.lora_a = projection.lora_a;
    }
    for (slot, (index, _)) in plan.problem().adapted().enumerate() {
        let projection = &args.projections[index];
        let params = &mut grad_b.projection[slot];
        params.dy = projection.dy;
        params.t_partial += args.workspace;
        params.lora_b_partial += args.workspace;
        params.lora_b.data = projection.lora_b;
        params.lora_b.scaling = projection.scaling;
        grad_a.t_source[slot].partial += args.workspace;
        grad_a.reduce_b.job[slot].partial += args.workspace;
        grad_a.reduce_b.job[slot].out = projection.d_lora_b;
        grad_x.reduce_a.job[slot].partial += args.workspace;
        grad_x.reduce_a.job[slot].out = projection.d_lora_a;
    }
    Ok((grad_b, grad_a, grad_x))
}

/// The address of a mask, whose offset in `saved` is never 0: S comes first.
fn stored(offset: u64, saved: DevicePointer) -> DevicePointer {
    if offset == 0 { 0 } else { saved + offset }
}

const ADAPTED_HINT: &str = "see the rank in Problem::sharing_x";

fn check_forward(plan: &ForwardPlan, args: &ForwardArgs<'_>) -> Result<DropoutParams> {
    let problem = plan.problem();
    check::count(problem, args.projections.len())?;
    let dropout = check::dropout(args.dropout, problem)?;
    check::pointer(problem, 0, Tensor::X, args.x)?;
    for (index, (given, planned)) in args.projections.iter().zip(problem.projections()).enumerate() {
        check::pointer(problem, index, Tensor::Weight, given.weight)?;
        check::pointer(problem, index, Tensor::Y, given.y)?;
        let bias = check::argument(problem, index, Tensor::Bias);
        check::optional(bias, given.bias != 0, problem.has_bias(), "see Problem::with_bias")?;
        if problem.has_bias() {
            check::pointer(problem, index, Tensor::Bias, given.bias)?;
        }
        if planned.is_adapted() {
            check::scaling(given.scaling)?;
            check::pointer(problem, index, Tensor::LoraA, given.lora_a)?;
            check::pointer(problem, index, Tensor::LoraB, given.lora_b)?;
        } else {
            let lora = Argument::Lora(check::which(problem, index));
            check::optional(lora, given.lora_a != 0 || given.lora_b != 0, false, ADAPTED_HINT)?;
        }
    }
    check::buffer(Argument::Saved, args.saved, plan.saved().bytes())?;
    check::buffer(Argument::Workspace, args.workspace, plan.workspace_bytes())?;
    Ok(dropout)
}

fn check_backward(plan: &BackwardPlan, args: &BackwardArgs<'_>) -> Result<DropoutParams> {
    let problem = plan.problem();
    check::count(problem, args.projections.len())?;
    let dropout = check::dropout(args.dropout, problem)?;
    check::pointer(problem, 0, Tensor::X, args.x)?;
    let wanted = problem.has_input_gradient();
    let dx = Argument::Tensor(Tensor::DX, None);
    check::optional(dx, args.dx != 0, wanted, "see Problem::with_input_gradient")?;
    if wanted {
        check::pointer(problem, 0, Tensor::DX, args.dx)?;
    }
    for (index, (given, planned)) in args.projections.iter().zip(problem.projections()).enumerate() {
        check::pointer(problem, index, Tensor::DY, given.dy)?;
        check::pointer(problem, index, Tensor::Weight, given.weight)?;
        if planned.is_adapted() {
            check::scaling(given.scaling)?;
            check::pointer(problem, index, Tensor::LoraA, given.lora_a)?;
            check::pointer(problem, index, Tensor::LoraB, given.lora_b)?;
            check::pointer(problem, index, Tensor::DLoraA, given.d_lora_a)?;
            check::pointer(problem, index, Tensor::DLoraB, given.d_lora_b)?;
        } else {
            let which = check::which(problem, index);
            let lora = given.lora_a != 0 || given.lora_b != 0;
            check::optional(Argument::Lora(which), lora, false, ADAPTED_HINT)?;
            let gradients = given.d_lora_a != 0 || given.d_lora_b != 0;
            check::optional(Argument::Gradients(which), gradients, false, ADAPTED_HINT)?;
        }
    }
    check::buffer(Argument::Saved, args.saved, plan.saved().bytes())?;
    check::buffer(Argument::Workspace, args.workspace, plan.workspace_bytes())?;
    Ok(dropout)
}
