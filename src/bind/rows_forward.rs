//! The parameters of a forward whose rows go through adapters of a table, or that computes the
//! adapters' part alone, or batch-invariant results of many rows.

use bytemuck::{Zeroable, bytes_of};

use super::common;
use super::forward::Call;
use super::maps::{Boxed, Encode, Maps};
use super::params::{RowsForwardParams, RowsForwardProjection, RowsForwardSm90Params, mask_source};
use crate::plan::{Arch, Launch, RowsForward, access};
use crate::{Result, Role, WeightLayout};

/// Calls `launch` for each launch of the plan, in order. Both take the same parameters, but for the
/// schedule of the last, unless that reads through tensor maps, which `encode` makes.
pub(super) fn launch(
    call: &Call<'_>,
    needs: &RowsForward,
    encode: Encode,
    mut launch: impl FnMut(&Launch, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut params = params(call, needs);
    // Whatever a map refuses is said before anything is launched.
    let of_sm90 = { call.plan.launches().iter() }
        .find(|planned| planned.variant.arch == Arch::Sm90a)
        .map(|planned| params_sm90(call, &params, planned, encode))
        .transpose()?;
    for planned in call.plan.launches() {
        if let (Arch::Sm90a, Some(params)) = (planned.variant.arch, &of_sm90) {
            launch(planned, bytes_of(params))?;
            continue;
        }
        params.schedule = common::schedule(planned, None, call.workspace);
        let (_, tile_columns) = planned.variant.block();
        let mut first_tile = 0;
        for projection in &mut params.projection[..call.args.projections.len()] {
            projection.first_tile = first_tile;
            first_tile += (projection.n as usize).div_ceil(tile_columns) as i32;
        }
        launch(planned, bytes_of(&params))?;
    }
    Ok(())
}

fn params(call: &Call<'_>, needs: &RowsForward) -> RowsForwardParams {
    let (problem, args) = (call.plan.problem(), call.args);
    let mut params = RowsForwardParams {
        x: args.x,
        s: match needs.s {
            Some(region) => call.workspace.at(region),
            None => call.saved.s,
        },
        mask: call.saved.mask,
        x_stride: problem.layout(Role::X).row_stride,
        m: problem.tokens() as i32,
        k: problem.in_features() as i32,
        projections: problem.projections().len() as i32,
        base: (!problem.is_delta_only()).into(),
        accumulate: problem.accumulates(Role::Y).into(),
        weight_transposed: (problem.weight_layout() == WeightLayout::InOut).into(),
        x_vectorised: access::rows_aligned(problem, 0, Role::X).into(),
        rank_tiles: needs.rank_tiles as i32,
        mask_source: if problem.has_dropout() {
            mask_source::DRAWN
        } else {
            mask_source::NONE
        },
        dropout: call.dropout,
        origin: call.origin,
        rows: common::row_adapters(
            problem,
            args.rows.as_ref(),
            args.projections.iter().map(|projection| projection.lora),
        ),
        ..Zeroable::zeroed()
    };
    let projections = problem.projections().iter().zip(args.projections);
    for (index, (planned, given)) in projections.enumerate() {
        let stride = |tensor| problem.layout_of(index, tensor).row_stride;
        params.projection[index] = RowsForwardProjection {
            weight: given.weight,
            bias: given.bias.unwrap_or_default(),
            y: given.y,
            weight_stride: stride(Role::Weight),
            y_stride: stride(Role::Y),
            n: planned.out_features as i32,
            output_vectorised: access::rows_aligned(problem, index, Role::Y).into(),
            ..Zeroable::zeroed()
        };
    }
    params
}

/// The same for the product that reads x and the weights through tensor maps.
fn params_sm90(
    call: &Call<'_>,
    of: &RowsForwardParams,
    planned: &Launch,
    encode: Encode,
) -> Result<RowsForwardSm90Params> {
    let (problem, args) = (call.plan.problem(), call.args);
    let tile = planned.variant.tile;
    let maps = Maps {
        problem,
        tile,
        encode,
    };
    let weight_box = match problem.weight_layout() {
        WeightLayout::OutIn => Boxed::HalfOfColumns,
        WeightLayout::InOut => Boxed::Depth,
    };
    let mut params = RowsForwardSm90Params {
        x: maps.tensor((0, Role::X), args.x, Boxed::Rows)?,
        s: of.s,
        m: of.m,
        k: of.k,
        projections: of.projections,
        accumulate: of.accumulate,
        schedule: common::schedule(planned, None, call.workspace),
        rows: of.rows,
        ..Zeroable::zeroed()
    };
    let mut first_tile = 0;
    for (index, given) in args.projections.iter().enumerate() {
        let slot = &mut params.projection[index];
        let n = of.projection[index].n;
        slot.weight = maps.tensor((index, Role::Weight), given.weight, weight_box)?;
        slot.bias = given.bias.unwrap_or_default();
        slot.y_data = given.y;
        slot.y_stride = of.projection[index].y_stride;
        slot.n = n;
        slot.first_tile = first_tile;
        if access::output_mapped(problem, index, Role::Y) {
            slot.y = maps.tensor((index, Role::Y), given.y, Boxed::Output)?;
            slot.output_mapped = 1;
        }
        first_tile += (n as usize).div_ceil(tile.columns) as i32;
    }
    Ok(params)
}
