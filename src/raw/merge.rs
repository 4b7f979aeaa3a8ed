//! Merging on raw pointers.

use cudarc::driver::sys::CUstream;

use super::{DevicePointer, Kernels, check};
use crate::plan::MergePlan;
use crate::plan::params::{MergeParams, merge_write};
use crate::{Argument, Error, MergeReport, Result, Role};

/// Arguments of [`Kernels::merge_raw`]. Shapes, strides and alignments are those of the plan's
/// problem.
#[derive(Debug, Clone, Copy)]
pub struct MergeArgs<'a> {
    /// (out_features, in_features), or transposed as the problem says
    pub weight: DevicePointer,
    /// As many as the problem has.
    pub adapters: &'a [MergeAdapterArgs],
    /// Out: as the weight; the weight's own address to merge in place, else apart from it
    pub merged: DevicePointer,
    /// Out: a [`MergeReport`], 16-byte aligned; 0 where the problem has none
    pub report: DevicePointer,
    /// `plan.workspace_bytes()` bytes of scratch; may be 0 where that is 0
    pub workspace: DevicePointer,
}

/// One adapter of [`MergeArgs`].
#[derive(Debug, Clone, Copy, Default)]
pub struct MergeAdapterArgs {
    /// (rank, in_features)
    pub lora_a: DevicePointer,
    /// (out_features, rank)
    pub lora_b: DevicePointer,
    /// lora_alpha / rank or lora_alpha / √rank, times the adapter's own weight among several;
    /// negative to take it out
    pub scaling: f32,
}

impl Kernels {
    /// Enqueues a merge: one launch; two with a report; three if it is safe.
    ///
    /// # Errors
    /// [`Error::AdapterCount`], [`Error::Null`], [`Error::Alignment`], [`Error::BufferAlignment`],
    /// [`Error::Optional`], [`Error::InPlace`] or [`Error::Scaling`] before anything is launched;
    /// [`Error::Driver`] if a launch fails.
    ///
    /// # Safety
    /// The context is current on this thread and `stream` belongs to it. Every pointer is a device
    /// address of that context with the extent that the plan's problem gives it; the report, the
    /// workspace and, unless it is the weight, the merged weight overlap nothing else; all stay
    /// valid until the stream has run the call.
    pub unsafe fn merge_raw(
        &self,
        plan: &MergePlan,
        args: &MergeArgs<'_>,
        stream: CUstream,
    ) -> Result<()> {
        check(plan, args)?;
        let mut params = params(plan, args);
        let last = plan.launches.len() - 1;
        for (index, launch) in plan.launches.iter().enumerate() {
            if plan.problem().is_safe() && !launch.variant.sums_totals() {
                params.writing = if index == last {
                    merge_write::IF_FINITE
                } else {
                    merge_write::NEVER
                };
                // What the first launch counted is not counted again.
                if index == last {
                    params.partial = 0;
                }
            }
            // SAFETY: the caller vouches for the pointers, the plan for the grid, and all three
            // launches take this struct.
            unsafe { self.launch(launch, &params, stream) }?;
        }
        Ok(())
    }
}

fn params(plan: &MergePlan, args: &MergeArgs<'_>) -> MergeParams {
    let mut params = plan.params;
    params.weight = args.weight;
    params.merged = args.merged;
    params.totals = args.report;
    // Null says that nothing is counted.
    if plan.problem().has_report() {
        params.partial += args.workspace;
    }
    for (params, adapter) in params.adapter.iter_mut().zip(args.adapters) {
        params.lora_a = adapter.lora_a;
        params.lora_b = adapter.lora_b;
        params.scaling = adapter.scaling;
    }
    params
}

fn check(plan: &MergePlan, args: &MergeArgs<'_>) -> Result<()> {
    let problem = plan.problem();
    let (given, planned) = (args.adapters.len(), problem.ranks().len());
    if given != planned {
        return Err(Error::AdapterCount { given, planned });
    }
    for (tensor, pointer) in [(Role::Weight, args.weight), (Role::Merged, args.merged)] {
        check::address(
            || Argument::Tensor(tensor, None),
            problem.layout(tensor).alignment,
            pointer,
        )?;
    }
    let stride = |tensor| problem.layout(tensor).row_stride;
    let (weight, merged) = (stride(Role::Weight), stride(Role::Merged));
    if args.weight == args.merged && weight != merged {
        return Err(Error::InPlace { weight, merged });
    }
    for (index, adapter) in args.adapters.iter().enumerate() {
        check::scaling(adapter.scaling)?;
        for (tensor, pointer) in [(Role::LoraA, adapter.lora_a), (Role::LoraB, adapter.lora_b)] {
            let alignment = problem
                .adapter_layout(index, tensor)
                .map_or(1, |layout| layout.alignment);
            check::address(|| Argument::Adapter(tensor, index), alignment, pointer)?;
        }
    }
    let hint = "see MergeProblem::with_report and with_safe";
    check::optional(
        Argument::Report,
        args.report != 0,
        problem.has_report(),
        hint,
    )?;
    if problem.has_report() {
        check::buffer(Argument::Report, args.report, MergeReport::BYTES)?;
    }
    check::buffer(Argument::Workspace, args.workspace, plan.workspace_bytes())
}
