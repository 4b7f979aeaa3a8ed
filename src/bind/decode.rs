//! The parameters of a launch of decode.

use bytemuck::Zeroable;

use super::common;
use super::forward::Args;
use super::memory::Buffer;
use super::params::{DecodeParams, DecodeProjection};
use crate::plan::{Decode, Launch, access};
use crate::{ForwardPlan, Role};

pub(super) fn params(
    plan: &ForwardPlan,
    decode: &Decode,
    launch: &Launch,
    args: &Args<'_>,
    workspace: Buffer,
) -> DecodeParams {
    let problem = plan.problem();
    let mut params = DecodeParams {
        x: args.x,
        s: workspace.at(decode.s),
        s_partial: workspace.at(decode.s_partial),
        partial: workspace.at(decode.partial),
        flags: args.flags.unwrap_or_default(),
        x_stride: problem.layout(Role::X).row_stride,
        m: problem.tokens() as i32,
        k: problem.in_features() as i32,
        projections: problem.projections().len() as i32,
        accumulate: problem.accumulates(Role::Y).into(),
        tiles: decode.tiles as i32,
        steps: decode.steps as i32,
        share: decode.share.into(),
        slices: decode.slices as i32,
        groups: decode.groups as i32,
        blocks: launch.blocks as i32,
        flag_words: decode.flag_words() as i32,
        rows: common::row_adapters(
            problem,
            args.rows.as_ref(),
            args.projections.iter().map(|projection| projection.lora),
        ),
        ..Zeroable::zeroed()
    };
    let (_, tile_rows) = launch.variant.block();
    let mut first_tile = 0;
    let projections = problem.projections().iter().zip(args.projections);
    for (index, (planned, given)) in projections.enumerate() {
        let stride = |tensor| problem.layout_of(index, tensor).row_stride;
        params.projection[index] = DecodeProjection {
            weight: given.weight,
            bias: given.bias.unwrap_or_default(),
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
