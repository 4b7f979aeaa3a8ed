//! The parameters of a launch of decode.

use bytemuck::Zeroable;

use super::forward::Args;
use super::memory::Buffer;
use super::params::{AdapterEntry, DecodeParams, DecodeProjection, RowAdapterParams, entry_flags};
use super::{DevicePointer, Lora, common};
use crate::plan::{Decode, Launch, access};
use crate::{ForwardPlan, Problem, Role, RowAdapters};

pub(super) fn params(
    plan: &ForwardPlan,
    decode: &Decode,
    launch: &Launch,
    args: &Args<'_>,
    saved_s: DevicePointer,
    workspace: Buffer,
) -> DecodeParams {
    let problem = plan.problem();
    let mut params = DecodeParams {
        x: args.x,
        s: decode.s.map_or(saved_s, |region| workspace.at(region)),
        s_partial: workspace.at(decode.s_partial),
        partial: workspace.at(decode.partial),
        flags: args.flags.unwrap_or_default(),
        x_stride: problem.layout(Role::X).row_stride,
        m: problem.tokens() as i32,
        k: problem.in_features() as i32,
        projections: problem.projections().len() as i32,
        accumulate: (problem.accumulates(Role::Y) || decode.after_product).into(),
        tiles: decode.tiles as i32,
        steps: decode.steps as i32,
        share: decode.share.into(),
        slices: decode.slices as i32,
        groups: decode.groups as i32,
        // As many for every part.
        blocks: (launch.blocks / decode.parts.max(1)) as i32,
        flag_words: decode.flag_words() as i32,
        rows: row_adapters(problem, args),
        ..Zeroable::zeroed()
    };
    let (_, tile_rows) = launch.variant.block();
    let mut first_tile = 0;
    let projections = problem.projections().iter().zip(args.projections);
    for (index, (planned, given)) in projections.enumerate() {
        let stride = |tensor| problem.layout_of(index, tensor).row_stride;
        params.projection[index] = DecodeProjection {
            weight: given.weight,
            // A product before has added it.
            bias: given
                .bias
                .filter(|_| !decode.after_product)
                .unwrap_or_default(),
            y: given.y,
            weight_stride: stride(Role::Weight),
            y_stride: stride(Role::Y),
            n: planned.out_features as i32,
            first_tile,
            output_vectorised: access::rows_aligned(problem, index, Role::Y).into(),
            pad: 0,
        };
        first_tile += planned.out_features.div_ceil(tile_rows) as i32;
    }
    params
}

/// Which adapters the rows go through: those of the table, or the one that each projection has.
fn row_adapters(problem: &Problem, args: &Args<'_>) -> RowAdapterParams {
    let mut params = RowAdapterParams {
        slots: 1,
        per_row: 1,
        adapter_f32: common::adapter_f32(problem),
        s_stride: problem.padded_ranks() as i32,
        ..Zeroable::zeroed()
    };
    if let (RowAdapters::Table { slots, per_row }, Some(rows)) =
        (problem.row_adapters(), &args.rows)
    {
        params.entries = rows.table.entries;
        params.wrong = rows.table.wrong;
        params.slot = rows.slots;
        params.weight = rows.weights.unwrap_or_default();
        params.slots = slots as i32;
        params.per_row = per_row as i32;
    }
    for (index, (planned, given)) in { problem.projections().iter() }
        .zip(args.projections)
        .enumerate()
    {
        params.s_first[index] = problem.rank_offset(index) as i32;
        params.s_rank[index] = planned.padded_rank() as i32;
        params.one[index] = entry(problem, index, given.lora);
    }
    params
}

/// The entry of a projection's one adapter.
fn entry(problem: &Problem, projection: usize, lora: Option<Lora<u64>>) -> AdapterEntry {
    let Some(lora) = lora else {
        return AdapterEntry {
            flags: entry_flags::PRESENT,
            ..Zeroable::zeroed()
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
