//! What is to be merged, and the plan of a merge.

use std::ffi::c_char;
use std::fmt::Display;

use kernels::{MergePlan, MergeProblem, Role};

use crate::device::{device_props, lora_device};
use crate::enumerations::{dtype, weight_layout};
use crate::error::{ArgumentPath, Error, Result};
use crate::handles::{Kind, Object};
use crate::layout::{layouts, lora_layout};
use crate::planned::{self, Handle, Plan, Planned, handle, lora_plan_info};
use crate::status::lora_status;
use crate::structs::{Versioned, flag, read, size};

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
    const SIZES: &[u32] = &[72];
}

/// What a merge launches, as lora_forward_plan.
pub struct lora_merge_plan(Planned<MergePlan>);

handle!(lora_merge_plan, MergePlan, Kind::MergePlan);

impl Plan for MergePlan {
    fn info(&self) -> lora_plan_info {
        lora_plan_info::new(self.launches().len(), self.workspace_bytes())
    }
}

const PROBLEM: &str = "problem";

/// # Safety
/// As [`read`], also what the struct points to.
unsafe fn problem(problem: *const lora_merge_problem) -> Result<MergeProblem> {
    // SAFETY: the caller's promise.
    let given = unsafe { read(problem, PROBLEM) }?;
    // SAFETY: the caller's promise.
    let ranks = unsafe { ranks(&given) }?;
    let mut problem = MergeProblem::new(
        dimension("problem.out_features", given.out_features)?,
        dimension("problem.in_features", given.in_features)?,
        &ranks,
        dtype(PROBLEM, "dtype", given.dtype)?,
    )?
    .with_weight_layout(weight_layout(PROBLEM, given.weight_layout)?)
    .with_safe(flag(PROBLEM, "safe", given.safe)?)
    .with_report(flag(PROBLEM, "report", given.report)?);
    if given.adapter_dtype != 0 {
        let adapter = dtype(PROBLEM, "adapter_dtype", given.adapter_dtype)?;
        problem = problem.with_adapter_dtype(adapter)?;
    }
    // SAFETY: the caller's promise.
    for layout in unsafe { layouts(given.layouts, given.layout_count) }? {
        let (argument, role, layout) = layout?;
        problem = if matches!(role, Role::LoraA | Role::LoraB) {
            let name = format_args!("{argument}.index");
            let index = size(name, layout.index, lora_status::NoAdapter)?;
            let planned = problem.adapter_layout(index, role);
            let planned = planned.unwrap_or(problem.layout(Role::Weight));
            problem.with_adapter_layout(index, role, layout.over(planned))?
        } else {
            let planned = problem.layout(role);
            problem.with_layout(role, layout.over(planned))?
        };
    }
    Ok(problem)
}

fn dimension(name: impl Display, given: usize) -> Result<usize> {
    size(name, given, lora_status::Dimension)
}

/// # Safety
/// `ranks` is null, or there are `adapter_count` of them.
unsafe fn ranks(given: &lora_merge_problem) -> Result<Vec<usize>> {
    let status = lora_status::Adapters;
    let count = size("problem.adapter_count", given.adapter_count, status)?;
    if count > LORA_MAX_ADAPTERS {
        return Err(kernels::Error::Adapters { given: count }.into());
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    if given.ranks.is_null() {
        return Err(Error::NullArgument {
            argument: "problem->ranks".into(),
        });
    }
    let rank = |index| {
        // SAFETY: not null, so there are `count` of them, by the caller's promise. A program may
        // have packed them at any address.
        let rank = unsafe { given.ranks.wrapping_add(index).read_unaligned() };
        dimension(ArgumentPath::element("problem->ranks", index), rank)
    };
    (0..count).map(rank).collect()
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
    // SAFETY: the caller's promise: null or valid.
    unsafe {
        planned::create(plan, || {
            Ok(MergePlan::new(
                &self::problem(problem)?,
                &device_props(device)?,
            )?)
        })
    }
}

/// The scratch memory that a merge needs: workspace_bytes. What a lora_plan_info has of saved is 0.
///
/// info: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_merge_plan_info(
    plan: *const lora_merge_plan,
    info: *mut lora_plan_info,
) -> lora_status {
    // SAFETY: the caller's promise: null or valid.
    unsafe { planned::info(plan, info) }
}

/// The plan in words, as lora_forward_plan_description.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_merge_plan_description(
    plan: *const lora_merge_plan,
) -> *const c_char {
    planned::description(plan)
}

/// Frees a plan. What was enqueued with it doesn't need it any more. Null is nothing to do; what is
/// no such plan, or no longer, is left alone, and lora_last_error() says so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_merge_plan_free(plan: *mut lora_merge_plan) {
    planned::free(plan)
}
