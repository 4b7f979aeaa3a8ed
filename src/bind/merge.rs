//! The parameters of a merge's kernels.

use bytemuck::{Zeroable, bytes_of};

use super::extents::{Access, Extents};
use super::memory::Buffer;
use super::params::{AdapterMatrix, MergeAdapter, MergeParams, merge_write};
use super::{DevicePointer, Lora, Merge, MergeWeight, Raw, check};
use crate::plan::Launch;
use crate::{Argument, Error, Hint, MergePlan, MergeReport, Result, Role, WeightLayout};

type Args<'a> = Merge<Raw, &'a [Lora<DevicePointer>]>;

/// Checks a merge, then calls `launch` for each launch of the plan, in order, with its parameters.
pub(crate) fn merge(
    plan: &MergePlan,
    args: &Args<'_>,
    mut launch: impl FnMut(&Launch, &[u8]) -> Result<()>,
) -> Result<()> {
    let workspace = checked(plan, args)?;
    let mut params = params(plan, args, workspace);
    let last = plan.launches().len() - 1;
    for (index, planned) in plan.launches().iter().enumerate() {
        if plan.problem().is_safe() && !planned.variant.sums_totals() {
            params.writing = if index == last {
                merge_write::IF_FINITE
            } else {
                merge_write::NEVER
            };
            // The first launch has counted already.
            if index == last {
                params.partial = 0;
            }
        }
        launch(planned, bytes_of(&params))?;
    }
    Ok(())
}

/// The addresses of the weight and of the merged weight.
fn weights(args: &Args<'_>) -> (DevicePointer, DevicePointer) {
    match args.weight {
        MergeWeight::InPlace(weight) => (weight, weight),
        MergeWeight::Apart { weight, merged } => (weight, merged),
    }
}

fn checked(plan: &MergePlan, args: &Args<'_>) -> Result<Buffer> {
    let problem = plan.problem();
    let (given, planned) = (args.adapters.len(), problem.ranks().len());
    if given != planned {
        return Err(Error::AdapterCount { given, planned });
    }
    let (weight, merged) = weights(args);
    let mut extents = Extents::new();
    // In place, the weight is an output alone.
    let in_place = weight == merged;
    for (tensor, access, pointer) in [
        (Role::Weight, Access::Read, weight),
        (Role::Merged, Access::Written, merged),
    ] {
        let (what, layout) = (Argument::Tensor(tensor, None), problem.layout(tensor));
        if in_place && access == Access::Read {
            check::address(what, layout.alignment, pointer)?;
            continue;
        }
        let (shape, dtype) = (problem.shape(tensor), problem.dtype());
        extents.matrix(access, what, shape, layout, dtype, pointer)?;
    }
    let stride = |tensor| problem.layout(tensor).row_stride;
    let strides = (stride(Role::Weight), stride(Role::Merged));
    if in_place && strides.0 != strides.1 {
        return Err(Error::InPlace {
            weight: strides.0,
            merged: strides.1,
        });
    }
    for (index, adapter) in args.adapters.iter().enumerate() {
        check::scaling(adapter.scaling)?;
        for (tensor, pointer) in [(Role::LoraA, adapter.a), (Role::LoraB, adapter.b)] {
            let Some(layout) = problem.adapter_layout(index, tensor) else {
                continue;
            };
            let (what, dtype) = (Argument::Adapter(tensor, index), problem.adapter_dtype());
            let shape = problem.adapter_shape(index, tensor);
            extents.matrix(Access::Read, what, shape, layout, dtype, pointer)?;
        }
    }
    check::optional(
        Argument::Report,
        args.report.is_some(),
        problem.has_report(),
        Hint::Report,
    )?;
    if args.report.is_some() {
        let (what, bytes) = (Argument::Report, MergeReport::BYTES);
        extents.buffer(Access::Written, what, args.report, bytes)?;
    }
    let workspace = Buffer::workspace(&mut extents, args.workspace, plan.workspace_bytes())?;
    extents.check_apart()?;
    Ok(workspace)
}

fn params(plan: &MergePlan, args: &Args<'_>, workspace: Buffer) -> MergeParams {
    let problem = plan.problem();
    let (rows, columns) = problem.shape(Role::Weight);
    let (weight, merged) = weights(args);
    let mut params = MergeParams {
        weight,
        merged,
        // Null means that nothing is counted.
        partial: workspace.at(plan.partial),
        totals: args.report.unwrap_or_default(),
        weight_stride: problem.layout(Role::Weight).row_stride,
        merged_stride: problem.layout(Role::Merged).row_stride,
        rows: rows as i32,
        columns: columns as i32,
        adapters: args.adapters.len() as i32,
        adapter_f32: (problem.adapter_dtype() != problem.dtype()).into(),
        weight_transposed: (problem.weight_layout() == WeightLayout::InOut).into(),
        // A launch has fewer than 2³¹ blocks.
        partials: plan.tiles as i32,
        writing: merge_write::ALWAYS,
        ..Zeroable::zeroed()
    };
    let adapters = args.adapters.iter().zip(problem.ranks()).enumerate();
    for (slot, (index, (adapter, rank))) in params.adapter.iter_mut().zip(adapters) {
        let stride = |tensor| {
            let layout = problem.adapter_layout(index, tensor);
            layout.map_or(0, |layout| layout.row_stride)
        };
        let matrix = |data, role| AdapterMatrix {
            data,
            stride: stride(role),
            r: rank as i32,
            scaling: adapter.scaling,
            ..Zeroable::zeroed()
        };
        *slot = MergeAdapter {
            lora_a: matrix(adapter.a, Role::LoraA),
            lora_b: matrix(adapter.b, Role::LoraB),
        };
    }
    params
}
