//! Plans, forward and backward.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use kernels::plan::SavedLayout;
use kernels::{BackwardPlan, ForwardPlan};

use crate::device::{lora_device, properties};
use crate::error::{Error, Result};
use crate::problem::{lora_problem, problem};
use crate::status::{attempt, lora_status, run};
use crate::structs::{Versioned, borrow, put, write};

/// What the addresses of saved, workspace and report must be a multiple of, in bytes.
pub const LORA_BUFFER_ALIGNMENT: usize = 16;

const _: () = assert!(LORA_BUFFER_ALIGNMENT == kernels::plan::BUFFER_ALIGNMENT);

/// What a forward launches. It is made once, for any number of calls, and belongs to no handle.
pub struct lora_forward_plan {
    pub(crate) inner: ForwardPlan,
    description: CString,
}

/// What a backward launches, as lora_forward_plan.
pub struct lora_backward_plan {
    pub(crate) inner: BackwardPlan,
    description: CString,
}

/// The memory that calls with a plan need.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_plan_info {
    /// sizeof(lora_plan_info)
    pub struct_size: u32,
    /// Kernels that a call launches.
    pub launches: u32,
    /// Bytes of the buffer that carries S and the dropout mask from forward to backward. A forward
    /// needs it without a backward too, a merge has none.
    pub saved_bytes: usize,
    /// Bytes of scratch memory; may be 0. Neither buffer needs initialising, and nothing of this
    /// one is needed after.
    pub workspace_bytes: usize,
    /// Columns of S: the ranks of all projections, each rounded up to 16.
    pub padded_ranks: usize,
    /// Where in saved S = scaling*drop(x)*A^T lies, in bytes: (tokens, padded_ranks) in the
    /// problem's dtype, rows contiguous.
    pub s_offset: usize,
    /// Bytes of S.
    pub s_bytes: usize,
    /// Where in saved the dropout mask lies, in bytes: 64-bit words (ceil(in_features / 64),
    /// tokens); bit c of word (b, row) is set where x (row, 64*b + c) is kept, and clear beyond the
    /// last column.
    pub mask_offset: usize,
    /// Bytes of the mask; 0 if none is stored.
    pub mask_bytes: usize,
}

// SAFETY: repr(C), plain integers: two of 4 bytes, the others of 8.
unsafe impl Versioned for lora_plan_info {
    const NAME: &'static str = "lora_plan_info";
    const FIRST_SIZE: u32 = 64;
}

fn info(
    launches: usize,
    saved: &SavedLayout,
    workspace_bytes: usize,
    padded_ranks: usize,
) -> lora_plan_info {
    lora_plan_info {
        struct_size: size_of::<lora_plan_info>() as u32,
        launches: launches as u32,
        saved_bytes: saved.bytes(),
        workspace_bytes,
        padded_ranks,
        s_offset: saved.s.offset,
        s_bytes: saved.s.bytes,
        mask_offset: saved.mask.map_or(0, |mask| mask.offset),
        mask_bytes: saved.mask.map_or(0, |mask| mask.bytes),
    }
}

pub fn text(plan: &impl std::fmt::Display) -> CString {
    CString::new(plan.to_string()).unwrap_or_default()
}

pub fn none_is_null<T>(pointer: *mut *mut T) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::NullArgument {
            place: "plan".into(),
        });
    }
    Ok(())
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
    run(|| {
        none_is_null(plan)?;
        // SAFETY: the caller's promise: null or valid.
        let (problem, device) = unsafe { (self::problem(problem)?, properties(device)?) };
        let inner = ForwardPlan::new(&problem, &device)?;
        let description = text(&inner);
        let made = Box::new(lora_forward_plan { inner, description });
        // SAFETY: not null, and valid by the caller's promise.
        unsafe { put(plan, Box::into_raw(made), "plan") }
    })
}

/// The memory that a forward needs.
///
/// info: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward_plan_info(
    plan: *const lora_forward_plan,
    info: *mut lora_plan_info,
) -> lora_status {
    run(|| {
        // SAFETY: the caller's promise: null or valid.
        let plan = unsafe { &borrow(plan, "plan")?.inner };
        let ranks = plan.problem().padded_ranks();
        let value = self::info(
            plan.launches().len(),
            plan.saved(),
            plan.workspace_bytes(),
            ranks,
        );
        // SAFETY: as above.
        unsafe { write(info, &value, "info") }
    })
}

/// The plan in words: its kernels, their grids, and why. It lives as long as the plan. Null, and an
/// error, if the plan is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward_plan_description(
    plan: *const lora_forward_plan,
) -> *const c_char {
    // SAFETY: the caller's promise: null or valid.
    let description = attempt(|| Ok(unsafe { borrow(plan, "plan") }?.description.as_c_str()));
    description.map_or(ptr::null(), CStr::as_ptr)
}

/// Frees a plan. What was enqueued with it doesn't need it any more. Null is nothing to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward_plan_free(plan: *mut lora_forward_plan) {
    run(|| {
        if !plan.is_null() {
            // SAFETY: made by lora_forward_plan_new and not freed before, by the caller's promise.
            drop(unsafe { Box::from_raw(plan) });
        }
        Ok(())
    });
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
    run(|| {
        none_is_null(plan)?;
        // SAFETY: the caller's promise: null or valid.
        let (problem, device) = unsafe { (self::problem(problem)?, properties(device)?) };
        let inner = BackwardPlan::new(&problem, &device)?;
        let description = text(&inner);
        let made = Box::new(lora_backward_plan { inner, description });
        // SAFETY: not null, and valid by the caller's promise.
        unsafe { put(plan, Box::into_raw(made), "plan") }
    })
}

/// The memory that a backward needs; saved is the forward's.
///
/// info: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_backward_plan_info(
    plan: *const lora_backward_plan,
    info: *mut lora_plan_info,
) -> lora_status {
    run(|| {
        // SAFETY: the caller's promise: null or valid.
        let plan = unsafe { &borrow(plan, "plan")?.inner };
        let ranks = plan.problem().padded_ranks();
        let value = self::info(
            plan.launches().len(),
            plan.saved(),
            plan.workspace_bytes(),
            ranks,
        );
        // SAFETY: as above.
        unsafe { write(info, &value, "info") }
    })
}

/// The plan in words, as lora_forward_plan_description.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_backward_plan_description(
    plan: *const lora_backward_plan,
) -> *const c_char {
    // SAFETY: the caller's promise: null or valid.
    let description = attempt(|| Ok(unsafe { borrow(plan, "plan") }?.description.as_c_str()));
    description.map_or(ptr::null(), CStr::as_ptr)
}

/// Frees a plan. What was enqueued with it doesn't need it any more. Null is nothing to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_backward_plan_free(plan: *mut lora_backward_plan) {
    run(|| {
        if !plan.is_null() {
            // SAFETY: made by lora_backward_plan_new and not freed before, by the caller's promise.
            drop(unsafe { Box::from_raw(plan) });
        }
        Ok(())
    });
}
