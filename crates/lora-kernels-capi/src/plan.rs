//! Plans of a forward and of a backward.

use std::ffi::c_char;

use kernels::{BackwardPlan, DeviceProps, ForwardPlan, Problem};

use crate::device::{device_props, lora_device};
use crate::handles::{Kind, Object};
use crate::planned::{self, Handle, Plan, Planned, handle, lora_plan_info};
use crate::problem::{lora_problem, problem};
use crate::status::{lora_status, run};
use crate::structs::{check_out, put, size};

/// What a forward launches. It is made once, for any number of calls, and belongs to no handle.
pub struct lora_forward_plan(Planned<ForwardPlan>);

/// What a backward launches, as lora_forward_plan.
pub struct lora_backward_plan(Planned<BackwardPlan>);

impl lora_forward_plan {
    /// What it was made for.
    pub fn problem(&self) -> &Problem {
        self.0.plan.problem()
    }
}

impl lora_backward_plan {
    /// What it was made for.
    pub fn problem(&self) -> &Problem {
        self.0.plan.problem()
    }
}

handle!(lora_forward_plan, ForwardPlan, Kind::ForwardPlan);
handle!(lora_backward_plan, BackwardPlan, Kind::BackwardPlan);

impl Plan for ForwardPlan {
    fn info(&self) -> lora_plan_info {
        lora_plan_info {
            flags_bytes: self.flags_bytes(),
            ..lora_plan_info::new(self.launches().len(), self.workspace_bytes())
                .with_saved(self.saved(), self.problem().padded_ranks())
        }
    }
}

impl Plan for BackwardPlan {
    fn info(&self) -> lora_plan_info {
        lora_plan_info::new(self.launches().len(), self.workspace_bytes())
            .with_saved(self.saved(), self.problem().padded_ranks())
    }
}

/// Plans a forward. No driver and no GPU are needed.
///
/// problem: what is to be computed; nothing of it is needed after.
/// device: what it is to run on.
/// plan: out, to be freed by lora_forward_plan_free; untouched on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward_plan_new(
    problem: *const lora_problem,
    device: *const lora_device,
    plan: *mut *mut lora_forward_plan,
) -> lora_status {
    // SAFETY: the caller's promise: null or valid.
    unsafe {
        planned::create(plan, || {
            Ok(ForwardPlan::new(
                &self::problem(problem)?,
                &device_props(device)?,
            )?)
        })
    }
}

/// The memory that a forward needs.
///
/// info: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward_plan_info(
    plan: *const lora_forward_plan,
    info: *mut lora_plan_info,
) -> lora_status {
    // SAFETY: the caller's promise: null or valid.
    unsafe { planned::info(plan, info) }
}

/// The plan in words: its kernels, their grids, and why. It lives as long as the plan. Null, and an
/// error, if the plan is null or not a plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward_plan_description(
    plan: *const lora_forward_plan,
) -> *const c_char {
    planned::description(plan)
}

/// Frees a plan. What was enqueued with it doesn't need it any more. Null is nothing to do; what is
/// no such plan, or no longer, is left alone, and lora_last_error() says so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward_plan_free(plan: *mut lora_forward_plan) {
    planned::free(plan)
}

/// Plans a backward, as lora_forward_plan_new plans a forward.
///
/// plan: out, to be freed by lora_backward_plan_free; untouched on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_backward_plan_new(
    problem: *const lora_problem,
    device: *const lora_device,
    plan: *mut *mut lora_backward_plan,
) -> lora_status {
    // SAFETY: the caller's promise: null or valid.
    unsafe {
        planned::create(plan, || {
            Ok(BackwardPlan::new(
                &self::problem(problem)?,
                &device_props(device)?,
            )?)
        })
    }
}

/// The memory that a backward needs; saved is the forward's.
///
/// info: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_backward_plan_info(
    plan: *const lora_backward_plan,
    info: *mut lora_plan_info,
) -> lora_status {
    // SAFETY: the caller's promise: null or valid.
    unsafe { planned::info(plan, info) }
}

/// The plan in words, as lora_forward_plan_description.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_backward_plan_description(
    plan: *const lora_backward_plan,
) -> *const c_char {
    planned::description(plan)
}

/// Frees a plan. What was enqueued with it doesn't need it any more. Null is nothing to do; what is
/// no such plan, or no longer, is left alone, and lora_last_error() says so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_backward_plan_free(plan: *mut lora_backward_plan) {
    planned::free(plan)
}

/// Bytes of workspace that suffice for a forward on any number of tokens up to a maximum: for one
/// buffer that serves batches of changing sizes. What a plan needs does not grow steadily with the
/// tokens.
///
/// problem: its layers; whatever number of tokens it has.
/// max_tokens: the largest number of tokens.
/// device: what it is to run on.
/// bytes: out; untouched on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward_workspace_bound(
    problem: *const lora_problem,
    max_tokens: usize,
    device: *const lora_device,
    bytes: *mut usize,
) -> lora_status {
    // SAFETY: the caller's promise: null or valid.
    unsafe {
        workspace_bound(
            problem,
            max_tokens,
            device,
            bytes,
            ForwardPlan::workspace_bound,
        )
    }
}

/// Bytes of workspace that suffice for a backward, as lora_forward_workspace_bound says for a
/// forward.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_backward_workspace_bound(
    problem: *const lora_problem,
    max_tokens: usize,
    device: *const lora_device,
    bytes: *mut usize,
) -> lora_status {
    // SAFETY: the caller's promise: null or valid.
    unsafe {
        workspace_bound(
            problem,
            max_tokens,
            device,
            bytes,
            BackwardPlan::workspace_bound,
        )
    }
}

/// # Safety
/// The pointers are null or valid.
unsafe fn workspace_bound(
    problem: *const lora_problem,
    max_tokens: usize,
    device: *const lora_device,
    bytes: *mut usize,
    bound: impl FnOnce(&Problem, usize, &DeviceProps) -> kernels::Result<usize>,
) -> lora_status {
    run(|| {
        check_out(bytes, "bytes")?;
        let max_tokens = size("max_tokens", max_tokens, lora_status::Dimension)?;
        // SAFETY: the caller's promise.
        let (problem, device) = unsafe { (self::problem(problem)?, device_props(device)?) };
        let bound = bound(&problem, max_tokens, &device)?;
        // SAFETY: the caller's promise.
        unsafe { put(bytes, bound, "bytes") }
    })
}
