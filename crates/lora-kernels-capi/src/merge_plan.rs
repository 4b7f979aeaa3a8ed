//! Merges: what is to be merged, and its plan.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use kernels::{MergePlan, MergeProblem, Role};

use crate::device::{lora_device, properties};
use crate::enumerations::{dtype, weight_layout};
use crate::error::{Error, Result};
use crate::layout::{layouts, lora_layout};
use crate::plan::{lora_plan_info, none_is_null, text};
use crate::status::{attempt, lora_status, run};
use crate::structs::{Versioned, borrow, flag, put, read, write};

/// As many adapters as one call merges.
pub const LORA_MAX_ADAPTERS: usize = 8;

const _: () = assert!(LORA_MAX_ADAPTERS == MergeProblem::MAX_ADAPTERS);

/// Adding adapters to a base weight: merged = W + sum of scaling*B*A, summed in f32 and rounded
/// once. A negative scaling takes an adapter out again.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_merge_problem {
    /// sizeof(lora_merge_problem)
    pub struct_size: u32,
    /// A lora_dtype: of the weight and the merged one. It has no default.
    pub dtype: u32,
    /// Outputs of the layer: N.
    pub out_features: usize,
    /// Inputs of the layer: K.
    pub in_features: usize,
    /// The adapters' ranks.
    pub ranks: *const usize,
    /// How many adapters: 1 to LORA_MAX_ADAPTERS.
    pub adapter_count: usize,
    /// A lora_dtype: of lora_A and lora_B, dtype or LORA_DTYPE_F32. 0: as dtype.
    pub adapter_dtype: u32,
    /// A lora_weight_layout, of the weight and the merged one.
    pub weight_layout: u32,
    /// 1: nothing is written if a merged element would be a NaN or an infinity. It takes two more
    /// launches, and a report, which tells.
    pub safe: u32,
    /// 1: a report is written, by one more launch. A safe merge has one always.
    pub report: u32,
    /// Layouts of weight, merged, lora_A or lora_B that aren't contiguous and 16-byte aligned. The
    /// weight's is the merged one's too, unless a later one says otherwise.
    pub layouts: *const lora_layout,
    /// How many; may be 0.
    pub layout_count: usize,
}

// SAFETY: repr(C), integers and pointers: between those of 8 bytes an even number of 4.
unsafe impl Versioned for lora_merge_problem {
    const NAME: &'static str = "lora_merge_problem";
    const FIRST_SIZE: u32 = 72;
}

/// What a merge launches, as lora_forward_plan.
pub struct lora_merge_plan {
    pub(crate) inner: MergePlan,
    description: CString,
}

const PLACE: &str = "problem";

/// # Safety
/// As [`read`], also what the struct points to.
unsafe fn merge_problem(problem: *const lora_merge_problem) -> Result<MergeProblem> {
    // SAFETY: the caller's promise.
    let given = unsafe { read(problem, PLACE) }?;
    let dtype = dtype(PLACE, "dtype", given.dtype)?;
    // SAFETY: the caller's promise.
    let ranks = unsafe { ranks(&given) }?;
    let mut problem = MergeProblem::new(given.out_features, given.in_features, ranks, dtype)?
        .with_weight_layout(weight_layout(PLACE, given.weight_layout)?)
        .with_safe(flag(PLACE, "safe", given.safe)?)
        .with_report(flag(PLACE, "report", given.report)?);
    if given.adapter_dtype != 0 {
        problem = problem.with_adapter_dtype(crate::enumerations::dtype(
            PLACE,
            "adapter_dtype",
            given.adapter_dtype,
        )?)?;
    }
    // SAFETY: the caller's promise.
    for layout in unsafe { layouts(given.layouts, given.layout_count) }? {
        let (tensor, layout) = layout?;
        problem = if matches!(tensor, Role::LoraA | Role::LoraB) {
            let planned = problem.adapter_layout(layout.index, tensor);
            let planned = planned.unwrap_or(problem.layout(Role::Weight));
            problem.with_adapter_layout(layout.index, tensor, layout.over(planned))?
        } else {
            let planned = problem.layout(tensor);
            problem.with_layout(tensor, layout.over(planned))?
        };
    }
    Ok(problem)
}

/// # Safety
/// `ranks` is null, or there are `adapter_count` of them.
unsafe fn ranks(given: &lora_merge_problem) -> Result<&[usize]> {
    if given.adapter_count > LORA_MAX_ADAPTERS {
        let given = given.adapter_count;
        return Err(kernels::Error::Adapters { given }.into());
    }
    if given.adapter_count == 0 {
        return Ok(&[]);
    }
    if given.ranks.is_null() {
        return Err(Error::NullArgument {
            place: "problem->ranks".into(),
        });
    }
    // SAFETY: not null, so as many as are said to be there, by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(given.ranks, given.adapter_count) })
}

/// Plans a merge. No driver and no GPU are needed.
///
/// problem: what is to be merged; nothing of it is needed after.
/// device: what it is to run on.
/// plan: out, to be freed by lora_merge_plan_free; untouched on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_merge_plan_new(
    problem: *const lora_merge_problem,
    device: *const lora_device,
    plan: *mut *mut lora_merge_plan,
) -> lora_status {
    run(|| {
        none_is_null(plan)?;
        // SAFETY: the caller's promise: null or valid.
        let (problem, device) = unsafe { (merge_problem(problem)?, properties(device)?) };
        let inner = MergePlan::new(&problem, &device)?;
        let description = text(&inner);
        let made = Box::new(lora_merge_plan { inner, description });
        // SAFETY: not null, and valid by the caller's promise.
        unsafe { put(plan, Box::into_raw(made), "plan") }
    })
}

/// The scratch memory that a merge needs: workspace_bytes. What a lora_plan_info has of saved is 0.
///
/// info: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_merge_plan_info(
    plan: *const lora_merge_plan,
    info: *mut lora_plan_info,
) -> lora_status {
    run(|| {
        // SAFETY: the caller's promise: null or valid.
        let plan = unsafe { &borrow(plan, "plan")?.inner };
        let value = lora_plan_info {
            struct_size: size_of::<lora_plan_info>() as u32,
            launches: plan.launches().len() as u32,
            saved_bytes: 0,
            workspace_bytes: plan.workspace_bytes(),
            padded_ranks: 0,
            s_offset: 0,
            s_bytes: 0,
            mask_offset: 0,
            mask_bytes: 0,
        };
        // SAFETY: as above.
        unsafe { write(info, &value, "info") }
    })
}

/// The plan in words, as lora_forward_plan_description.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_merge_plan_description(
    plan: *const lora_merge_plan,
) -> *const c_char {
    // SAFETY: the caller's promise: null or valid.
    let description = attempt(|| Ok(unsafe { borrow(plan, "plan") }?.description.as_c_str()));
    description.map_or(ptr::null(), CStr::as_ptr)
}

/// Frees a plan. What was enqueued with it doesn't need it any more. Null is nothing to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_merge_plan_free(plan: *mut lora_merge_plan) {
    run(|| {
        if !plan.is_null() {
            // SAFETY: made by lora_merge_plan_new and not freed before, by the caller's promise.
            drop(unsafe { Box::from_raw(plan) });
        }
        Ok(())
    });
}
