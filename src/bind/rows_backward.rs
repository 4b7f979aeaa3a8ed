//! The parameters of a backward whose rows go through adapters of a table, or that computes the
//! adapters' part alone.

use bytemuck::{Zeroable, bytes_of};

use super::backward::Call;
use super::common;
use super::params::{RowGradients, RowsGradParams, RowsGradProjection};
use crate::plan::{Launch, RowsBackward, access};
use crate::{Problem, Result, Role, WeightLayout};

/// Calls `launch` for each launch of the plan, in order. All take the same parameters, but for the
/// schedule of the last.
pub(super) fn launch(
    call: &Call<'_>,
    needs: &RowsBackward,
    mut launch: impl FnMut(&Launch, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut params = params(call, needs);
    for planned in call.plan.launches() {
        params.schedule = common::schedule(planned, needs.split.as_ref(), call.workspace);
        launch(planned, bytes_of(&params))?;
    }
    Ok(())
}

fn params(call: &Call<'_>, needs: &RowsBackward) -> RowsGradParams {
    let (problem, args, workspace) = (call.plan.problem(), call.args, call.workspace);
    let aligned = |projection, tensor| access::rows_aligned(problem, projection, tensor).into();
    let accumulates = |tensor| problem.accumulates(tensor).into();
    let mut params = RowsGradParams {
        x: args.x,
        s: call.saved.s,
        t: workspace.at(needs.t),
        mask: call.saved.mask,
        dx: args.dx.unwrap_or_default(),
        adapters: workspace.at(needs.adapters),
        counters: workspace.at(needs.split.map(|split| split.counters)),
        gradients: args.rows.as_ref().map_or(0, |rows| rows.table.gradients),
        x_stride: problem.layout(Role::X).row_stride,
        dx_stride: problem.layout(Role::DX).row_stride,
        m: problem.tokens() as i32,
        k: problem.in_features() as i32,
        projections: problem.projections().len() as i32,
        base: (!problem.is_delta_only()).into(),
        gradient_f32: common::adapter_f32(problem),
        accumulate_a: accumulates(Role::DLoraA),
        accumulate_b: accumulates(Role::DLoraB),
        accumulate_dx: accumulates(Role::DX),
        weight_transposed: (problem.weight_layout() == WeightLayout::InOut).into(),
        x_vectorised: aligned(0, Role::X),
        dx_vectorised: aligned(0, Role::DX),
        counter_count: needs.split.map_or(0, |split| split.count),
        rank_tiles: needs.rank_tiles as i32,
        mask_source: common::backward_mask(problem),
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
        params.projection[index] = RowsGradProjection {
            dy: given.dy,
            weight: given.weight,
            dy_stride: stride(Role::DY),
            weight_stride: stride(Role::Weight),
            n: planned.out_features as i32,
            dy_vectorised: aligned(index, Role::DY),
        };
        params.one[index] = gradients(problem, index, given.gradients);
    }
    params
}

/// Where the gradients of a projection's one adapter go.
fn gradients(
    problem: &Problem,
    projection: usize,
    given: Option<super::LoraGradients<super::DevicePointer>>,
) -> RowGradients {
    let stride = |tensor| problem.layout_of(projection, tensor).row_stride;
    given.map_or_else(Zeroable::zeroed, |given| RowGradients {
        lora_a: given.a,
        lora_b: given.b,
        a_stride: stride(Role::DLoraA),
        b_stride: stride(Role::DLoraB),
    })
}
