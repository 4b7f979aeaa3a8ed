//! Parameters that several kernels share.

use super::memory::Buffer;
use super::params::{
    AdapterEntry, AdapterMatrix, ReduceJob, ReduceParams, RowAdapterParams, ScheduleParams,
    entry_flags, mask_source,
};
use super::{DevicePointer, Lora, RawRows};
use crate::plan::{Launch, SplitRegions, access};
use crate::{Mask, Problem, Role, RowAdapters};

/// The adapters of a call with the indices of their projections. Kernels list only projections with
/// an adapter.
pub(super) fn adapters<A>(
    projections: impl Iterator<Item = Option<A>>,
) -> impl Iterator<Item = (usize, A)> {
    projections
        .enumerate()
        .filter_map(|(index, adapter)| Some((index, adapter?)))
}

/// Whether the adapters are f32 over narrower tensors.
pub(super) fn adapter_f32(problem: &Problem) -> i32 {
    (problem.adapter_dtype() != problem.dtype()).into()
}

/// The parameters of an adapter's matrix.
pub(super) fn adapter(
    problem: &Problem,
    projection: usize,
    tensor: Role,
    data: DevicePointer,
    scaling: f32,
) -> AdapterMatrix {
    AdapterMatrix {
        data,
        stride: problem.layout_of(projection, tensor).row_stride,
        rank0: problem.rank_offset(projection) as i32,
        r: problem.projections()[projection].rank as i32,
        vectorised: access::adapter_aligned(problem, projection, tensor).into(),
        scaling,
    }
}

/// The parameters of a GEMM's schedule.
pub(super) fn schedule(
    launch: &Launch,
    split: Option<&SplitRegions>,
    workspace: Buffer,
) -> ScheduleParams {
    let Some(schedule) = launch.schedule else {
        return bytemuck::Zeroable::zeroed();
    };
    ScheduleParams {
        tiles_m: schedule.tiles_m as i32,
        tiles_n: schedule.tiles_n as i32,
        group_n: schedule.group_n as i32,
        k_slices: schedule.splits as i32,
        partial: workspace.at(split.map(|split| split.slabs)),
        arrived: workspace.at(split.map(|split| split.counters)),
    }
}

/// Where backward's kernels get the mask from.
pub(super) fn backward_mask(problem: &Problem) -> i32 {
    match (problem.has_dropout(), problem.mask()) {
        (false, _) => mask_source::NONE,
        (true, Mask::Stored) => mask_source::STORED,
        (true, Mask::Redrawn) => mask_source::DRAWN,
    }
}

/// The partial sums of one gradient, f32 (splits, rows, columns).
#[derive(Clone, Copy)]
pub(super) struct Partials {
    pub start: DevicePointer,
    pub row_stride: i64,
    pub split_stride: i64,
    pub splits: usize,
}

/// The parameters for summing one gradient of every adapted projection, with the given number of
/// blocks for each. `partials` and `outputs` have an item per adapted projection.
pub(super) fn reduce(
    problem: &Problem,
    gradient: Role,
    blocks: &[u32],
    partials: impl Iterator<Item = Partials>,
    outputs: impl Iterator<Item = DevicePointer>,
) -> ReduceParams {
    let mut params = ReduceParams {
        blocks: blocks.iter().sum::<u32>() as i32,
        jobs: blocks.len() as i32,
        out_f32: (problem.dtype_of(gradient) != problem.dtype()).into(),
        accumulate: problem.accumulates(gradient).into(),
        ..bytemuck::Zeroable::zeroed()
    };
    let mut first_block = 0;
    let jobs = params.job.iter_mut().zip(blocks).zip(partials.zip(outputs));
    for (((job, blocks), (partials, out)), (projection, _)) in jobs.zip(problem.adapted()) {
        let (rows, columns) = problem.shape_of(projection, gradient);
        *job = ReduceJob {
            partial: partials.start,
            out,
            out_stride: problem.layout_of(projection, gradient).row_stride,
            partial_stride: partials.row_stride,
            split_stride: partials.split_stride,
            splits: partials.splits as i32,
            rows: rows as i32,
            columns: columns as i32,
            first_block,
        };
        first_block += *blocks as i32;
    }
    params
}

/// Which adapters the rows go through: those of the table, or the one that each projection has.
pub(super) fn row_adapters(
    problem: &Problem,
    rows: Option<&RawRows>,
    loras: impl Iterator<Item = Option<Lora<DevicePointer>>>,
) -> RowAdapterParams {
    let mut params = RowAdapterParams {
        slots: 1,
        per_row: 1,
        adapter_f32: adapter_f32(problem),
        s_stride: problem.padded_ranks() as i32,
        ..bytemuck::Zeroable::zeroed()
    };
    if let (RowAdapters::Table { slots, per_row }, Some(rows)) = (problem.row_adapters(), rows) {
        params.entries = rows.table.entries;
        params.wrong = rows.table.wrong;
        params.slot = rows.slots;
        params.weight = rows.weights.unwrap_or_default();
        params.slots = slots as i32;
        params.per_row = per_row as i32;
    }
    for (index, (planned, lora)) in problem.projections().iter().zip(loras).enumerate() {
        params.s_first[index] = problem.rank_offset(index) as i32;
        params.s_rank[index] = planned.padded_rank() as i32;
        params.one[index] = entry(problem, index, lora);
    }
    params
}

/// The entry of a projection's one adapter.
fn entry(problem: &Problem, projection: usize, lora: Option<Lora<DevicePointer>>) -> AdapterEntry {
    let Some(lora) = lora else {
        return AdapterEntry {
            flags: entry_flags::PRESENT,
            ..bytemuck::Zeroable::zeroed()
        };
    };
    let stride = |tensor| problem.layout_of(projection, tensor).row_stride;
    let vectorised = |tensor, flag| match access::adapter_aligned(problem, projection, tensor) {
        true => flag,
        false => 0,
    };
    AdapterEntry {
        lora_a: lora.a,
        lora_b: lora.b,
        a_stride: stride(Role::LoraA),
        b_stride: stride(Role::LoraB),
        rank: problem.projections()[projection].rank as i32,
        scaling: lora.scaling,
        flags: entry_flags::PRESENT
            | vectorised(Role::LoraA, entry_flags::A_VECTORISED)
            | vectorised(Role::LoraB, entry_flags::B_VECTORISED),
        pad: 0,
    }
}
