//! Forward and backward on raw pointers. All that does not depend on an address, a scaling or the
//! dropout stands in the plan already.

use cudarc::driver::sys::CUstream;

use super::{BackwardArgs, DevicePointer, ForwardArgs, Kernels, check};
use crate::plan::params::{
    DropoutParams, ForwardParams, GradAParams, GradBParams, GradXParams, ShrinkParams,
};
use crate::{Argument, BackwardPlan, ForwardPlan, Problem, Result, Role};

impl Kernels {
    /// Enqueues a forward: the plan's two launches.
    ///
    /// # Errors
    /// [`crate::Error::ProjectionCount`], [`crate::Error::Null`], [`crate::Error::Alignment`],
    /// [`crate::Error::BufferAlignment`], [`crate::Error::Optional`], [`crate::Error::Scaling`] or
    /// [`crate::Error::DropoutProbability`] before anything is launched; [`crate::Error::Driver`]
    /// if a launch fails.
    ///
    /// # Safety
    /// The context is current on this thread and `stream` belongs to it. Every pointer is a device
    /// address of that context with the extent that the plan's problem gives it; outputs, `saved`
    /// and the workspace overlap nothing else; all stay valid until the stream has run the call.
    pub unsafe fn forward_raw(
        &self,
        plan: &ForwardPlan,
        args: &ForwardArgs<'_>,
        stream: CUstream,
    ) -> Result<()> {
        let dropout = check_forward(plan, args)?;
        let [shrink, forward] = &plan.launches;
        // SAFETY: the caller vouches for the pointers, the plan for grids and shared memory, and
        // each kernel takes the struct it is given.
        unsafe {
            self.launch(shrink, &shrink_params(plan, args, dropout), stream)?;
            self.launch(forward, &forward_params(plan, args), stream)
        }
    }

    /// Enqueues a backward: the plan's three launches.
    ///
    /// # Errors
    /// As [`Kernels::forward_raw`].
    ///
    /// # Safety
    /// As [`Kernels::forward_raw`]; `saved` is what the forward of the same problem and inputs
    /// left.
    pub unsafe fn backward_raw(
        &self,
        plan: &BackwardPlan,
        args: &BackwardArgs<'_>,
        stream: CUstream,
    ) -> Result<()> {
        let dropout = check_backward(plan, args)?;
        let [grad_b, grad_a, grad_x] = &plan.launches;
        // SAFETY: as in forward.
        unsafe {
            self.launch(grad_b, &grad_b_params(plan, args), stream)?;
            self.launch(grad_a, &grad_a_params(plan, args, dropout), stream)?;
            self.launch(grad_x, &grad_x_params(plan, args, dropout), stream)
        }
    }
}

// The functions below copy what the plan has prepared, once, and fill in the rest.

#[inline(always)]
pub(super) fn shrink_params(
    plan: &ForwardPlan,
    args: &ForwardArgs<'_>,
    dropout: DropoutParams,
) -> ShrinkParams {
    let mut params = plan.shrink;
    params.x = args.x;
    params.s += args.saved;
    params.mask = stored(params.mask, args.saved);
    params.counters += args.workspace;
    params.dropout = dropout;
    for (lora_a, projection) in params
        .lora_a
        .iter_mut()
        .zip(adapted(plan.problem(), args.projections))
    {
        lora_a.data = projection.lora_a;
        lora_a.scaling = projection.scaling;
    }
    params
}

#[inline(always)]
pub(super) fn forward_params(plan: &ForwardPlan, args: &ForwardArgs<'_>) -> ForwardParams {
    let mut params = plan.forward;
    params.x = args.x;
    params.s += args.saved;
    params.schedule.partial += args.workspace;
    params.schedule.arrived += args.workspace;
    for (params, projection) in params.projection.iter_mut().zip(args.projections) {
        params.weight = projection.weight;
        params.bias = projection.bias;
        params.lora_b = projection.lora_b;
        params.y = projection.y;
    }
    params
}

#[inline(always)]
pub(super) fn grad_b_params(plan: &BackwardPlan, args: &BackwardArgs<'_>) -> GradBParams {
    let mut params = plan.grad_b;
    params.s += args.saved;
    params.counters += args.workspace;
    let projections = params.projection.iter_mut();
    for (params, projection) in projections.zip(adapted(plan.problem(), args.projections)) {
        params.dy = projection.dy;
        params.t_partial += args.workspace;
        params.lora_b_partial += args.workspace;
        params.lora_b.data = projection.lora_b;
        params.lora_b.scaling = projection.scaling;
    }
    params
}

#[inline(always)]
pub(super) fn grad_a_params(
    plan: &BackwardPlan,
    args: &BackwardArgs<'_>,
    dropout: DropoutParams,
) -> GradAParams {
    let mut params = plan.grad_a;
    params.x = args.x;
    params.mask = stored(params.mask, args.saved);
    params.t += args.workspace;
    params.lora_a_partial += args.workspace;
    params.dropout = dropout;
    let slots = params.t_source.iter_mut().zip(&mut params.reduce_b.job);
    for ((source, job), projection) in slots.zip(adapted(plan.problem(), args.projections)) {
        source.partial += args.workspace;
        job.partial += args.workspace;
        job.out = projection.d_lora_b;
    }
    params
}

#[inline(always)]
pub(super) fn grad_x_params(
    plan: &BackwardPlan,
    args: &BackwardArgs<'_>,
    dropout: DropoutParams,
) -> GradXParams {
    let mut params = plan.grad_x;
    params.t += args.workspace;
    params.mask = stored(params.mask, args.saved);
    params.dx = args.dx;
    params.dropout = dropout;
    params.schedule.partial += args.workspace;
    params.schedule.arrived += args.workspace;
    for (params, projection) in params.projection.iter_mut().zip(args.projections) {
        params.dy = projection.dy;
        params.weight = projection.weight;
        params.lora_a = projection.lora_a;
    }
    let jobs = params.reduce_a.job.iter_mut();
    for (job, projection) in jobs.zip(adapted(plan.problem(), args.projections)) {
        job.partial += args.workspace;
        job.out = projection.d_lora_a;
    }
    params
}

/// Those of the projections that have an adapter: kernels list them alone.
fn adapted<'a, P>(problem: &'a Problem, projections: &'a [P]) -> impl Iterator<Item = &'a P> {
    let both = projections.iter().zip(problem.projections());
    both.filter(|(_, planned)| planned.is_adapted())
        .map(|(given, _)| given)
}

/// The address of a mask, whose offset in `saved` is never 0: S comes first.
fn stored(offset: u64, saved: DevicePointer) -> DevicePointer {
    if offset == 0 { 0 } else { saved + offset }
}

const ADAPTED_HINT: &str = "see the rank in Problem::sharing_x";

pub(super) fn check_forward(plan: &ForwardPlan, args: &ForwardArgs<'_>) -> Result<DropoutParams> {
    let problem = plan.problem();
    check::count(problem, args.projections.len())?;
    let dropout = check::dropout(args.dropout, problem)?;
    check::pointer(problem, 0, Role::X, args.x)?;
    for (index, (given, planned)) in args
        .projections
        .iter()
        .zip(problem.projections())
        .enumerate()
    {
        check::pointer(problem, index, Role::Weight, given.weight)?;
        check::pointer(problem, index, Role::Y, given.y)?;
        let bias = check::argument(problem, index, Role::Bias);
        check::optional(
            bias,
            given.bias != 0,
            problem.has_bias(),
            "see Problem::with_bias",
        )?;
        if problem.has_bias() {
            check::pointer(problem, index, Role::Bias, given.bias)?;
        }
        if planned.is_adapted() {
            check::scaling(given.scaling)?;
            check::pointer(problem, index, Role::LoraA, given.lora_a)?;
            check::pointer(problem, index, Role::LoraB, given.lora_b)?;
        } else {
            let lora = Argument::Lora(check::which(problem, index));
            check::optional(
                lora,
                given.lora_a != 0 || given.lora_b != 0,
                false,
                ADAPTED_HINT,
            )?;
        }
    }
    check::buffer(Argument::Saved, args.saved, plan.saved().bytes())?;
    check::buffer(Argument::Workspace, args.workspace, plan.workspace_bytes())?;
    Ok(dropout)
}

pub(super) fn check_backward(
    plan: &BackwardPlan,
    args: &BackwardArgs<'_>,
) -> Result<DropoutParams> {
    let problem = plan.problem();
    check::count(problem, args.projections.len())?;
    let dropout = check::dropout(args.dropout, problem)?;
    check::pointer(problem, 0, Role::X, args.x)?;
    let wanted = problem.has_input_gradient();
    let dx = Argument::Tensor(Role::DX, None);
    check::optional(dx, args.dx != 0, wanted, "see Problem::with_input_gradient")?;
    if wanted {
        check::pointer(problem, 0, Role::DX, args.dx)?;
    }
    for (index, (given, planned)) in args
        .projections
        .iter()
        .zip(problem.projections())
        .enumerate()
    {
        check::pointer(problem, index, Role::DY, given.dy)?;
        check::pointer(problem, index, Role::Weight, given.weight)?;
        if planned.is_adapted() {
            check::scaling(given.scaling)?;
            check::pointer(problem, index, Role::LoraA, given.lora_a)?;
            check::pointer(problem, index, Role::LoraB, given.lora_b)?;
            check::pointer(problem, index, Role::DLoraA, given.d_lora_a)?;
            check::pointer(problem, index, Role::DLoraB, given.d_lora_b)?;
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
