//! The parameters of a backward's kernels.

use bytemuck::{Zeroable, bytes_of};

use super::common::{self, Partials};
use super::extents::{Access, Extents};
use super::maps::{self, Boxed, Encode, Maps};
use super::memory::{Buffer, SavedAddresses};
use super::params::{
    DropoutParams, GradAParams, GradBParams, GradBProjection, GradXParams, GradXProjection,
    GradXSm90Params, MaskOrigin, ReduceParams, TSource,
};
use super::record::scalings;
use super::{
    Backward, BackwardProjection, DevicePointer, ForwardRecord, LoraGradients, Raw, check,
    rows_backward,
};
use crate::plan::{Arch, Launch, access};
use crate::{Argument, BackwardPlan, Hint, Result, Role, WeightLayout};

pub(super) type Args<'a> = Backward<Raw, &'a [BackwardProjection<Raw>]>;

/// The data that all launches of a call need.
pub(super) struct Call<'a> {
    pub plan: &'a BackwardPlan,
    pub args: &'a Args<'a>,
    pub saved: SavedAddresses,
    pub workspace: Buffer,
    pub dropout: DropoutParams,
    pub origin: MaskOrigin,
}

/// Checks a backward, then calls `launch` for each launch of the plan, in order, with its
/// parameters. `encode` makes the tensor maps.
pub(crate) fn backward(
    plan: &BackwardPlan,
    args: &Args<'_>,
    encode: Encode,
    mut launch: impl FnMut(&Launch, &[u8]) -> Result<()>,
) -> Result<()> {
    let call = Call::checked(plan, args)?;
    if let Some(needs) = &plan.rows {
        return rows_backward::launch(&call, needs, launch);
    }
    // Without tokens there is no grad_b, and the others only sum zero partial gradients.
    let (grad_b, grad_a, grad_x) = match plan.launches() {
        [grad_b, grad_a, grad_x] => (Some(grad_b), grad_a, grad_x),
        [grad_a, grad_x] => (None, grad_a, grad_x),
        _ => return Ok(()),
    };
    let mut launch_all = |of_grad_x: &[u8]| {
        if let Some(grad_b) = grad_b {
            launch(grad_b, bytes_of(&call.grad_b(grad_b)))?;
        }
        launch(grad_a, bytes_of(&call.grad_a()))?;
        launch(grad_x, of_grad_x)
    };
    match grad_x.variant.arch {
        Arch::Sm80 => launch_all(bytes_of(&call.grad_x(grad_x))),
        Arch::Sm90a => launch_all(bytes_of(&call.grad_x_sm90(grad_x, encode)?)),
    }
}

impl<'a> Call<'a> {
    fn checked(plan: &'a BackwardPlan, args: &'a Args<'a>) -> Result<Self> {
        let problem = plan.problem();
        check::count(problem, args.projections.len())?;
        let mut extents = Extents::new();
        let (dropout, origin) = check::dropout(&mut extents, args.dropout, problem)?;
        extents.tensor(problem, 0, Role::X, args.x)?;
        check::optional(
            Argument::Tensor(Role::DX, None),
            args.dx.is_some(),
            problem.has_input_gradient(),
            Hint::InputGradient,
        )?;
        if let Some(dx) = args.dx {
            extents.tensor(problem, 0, Role::DX, dx)?;
        }
        for (index, given) in args.projections.iter().enumerate() {
            extents.tensor(problem, index, Role::DY, given.dy)?;
            if !problem.is_delta_only() {
                extents.tensor(problem, index, Role::Weight, given.weight)?;
            }
            check::lora(&mut extents, problem, index, given.lora.as_ref())?;
            check::gradients(&mut extents, problem, index, given.gradients.as_ref())?;
        }
        check::rows(&mut extents, problem, args.rows.as_ref())?;
        check::row_gradients(&mut extents, problem, args.rows.as_ref())?;
        if let Some(forward) = &args.record {
            let scalings = scalings(args.projections.iter().map(|projection| projection.lora));
            ForwardRecord::new(problem, args.dropout, scalings).fits(forward)?;
        }
        let saved = SavedAddresses::new(&mut extents, Access::Read, &args.saved, plan.saved())?;
        let workspace = Buffer::workspace(&mut extents, args.workspace, plan.workspace_bytes())?;
        extents.check_apart()?;
        Ok(Self {
            plan,
            args,
            saved,
            workspace,
            dropout,
            origin,
        })
    }

    /// The projections that have an adapter, with their indices.
    fn adapted(&self) -> impl Iterator<Item = (usize, &BackwardProjection<Raw>)> {
        let all = self.args.projections.iter().enumerate();
        all.filter(|(_, projection)| projection.lora.is_some())
    }

    /// Where the gradients of the adapted projections go.
    fn gradients(&self) -> impl Iterator<Item = LoraGradients<DevicePointer>> {
        let all = self.args.projections.iter();
        all.filter_map(|projection| projection.gradients)
    }

    fn grad_b(&self, launch: &Launch) -> GradBParams {
        let (plan, problem) = (self.plan, self.plan.problem());
        let (splits, regions) = (&plan.splits, &plan.regions);
        let mut params = GradBParams {
            s: self.saved.s,
            counters: self.workspace.at(regions.split.map(|split| split.counters)),
            m: problem.tokens() as i32,
            ranks: problem.padded_ranks() as i32,
            adapter_f32: common::adapter_f32(problem),
            counter_count: regions.split.map_or(0, |split| split.count),
            pack_a: maps::pack(
                problem,
                Role::LoraA,
                &plan.packing,
                self.workspace,
                self.adapted()
                    .map(|(_, given)| given.lora.unwrap_or_default().a),
            ),
            ..Zeroable::zeroed()
        };
        let mut first_block = 0;
        let sizes = splits.dy_groups.iter().zip(&regions.of_dy);
        for ((slot, (projection, given)), (&groups, of_dy)) in
            params.projection.iter_mut().zip(self.adapted()).zip(sizes)
        {
            let lora = given.lora.unwrap_or_default();
            let planned = problem.projections()[projection];
            *slot = GradBProjection {
                dy: given.dy,
                t_partial: self.workspace.at(of_dy.t_partial),
                lora_b_partial: self.workspace.at(of_dy.lora_b_partial),
                dy_stride: problem.layout_of(projection, Role::DY).row_stride,
                n: planned.out_features as i32,
                column_groups: groups as i32,
                rows_per_split: splits.dy.rows_per_split as i32,
                m_splits: splits.dy.row_splits as i32,
                first_block: first_block as i32,
                pad: 0,
                lora_b: common::adapter(problem, projection, Role::LoraB, lora.b, lora.scaling),
            };
            let rank_tiles = planned.rank.div_ceil(launch.variant.tile.ranks);
            first_block += groups * splits.dy.row_splits * rank_tiles;
            params.projections += 1;
        }
        params
    }

    fn grad_a(&self) -> GradAParams {
        let (plan, problem) = (self.plan, self.plan.problem());
        let (splits, regions) = (&plan.splits, &plan.regions);
        let partials = regions.of_dy.iter().zip(problem.adapted());
        let partials = partials.map(|(of_dy, (_, planned))| Partials {
            start: self.workspace.at(of_dy.lora_b_partial),
            row_stride: planned.padded_rank() as i64,
            split_stride: planned.out_features as i64 * planned.padded_rank() as i64,
            splits: splits.dy.row_splits,
        });
        let mut params = GradAParams {
            x: self.args.x,
            mask: self.saved.mask,
            t: self.workspace.at(regions.t),
            lora_a_partial: self.workspace.at(regions.lora_a_partial),
            x_stride: problem.layout(Role::X).row_stride,
            m: problem.tokens() as i32,
            k: problem.in_features() as i32,
            ranks: problem.padded_ranks() as i32,
            rows_per_split: splits.x.rows_per_split as i32,
            column_groups: splits.x_groups as i32,
            m_splits: splits.x.row_splits as i32,
            mask_source: common::backward_mask(problem),
            dropout: self.dropout,
            origin: self.origin,
            reduce_b: common::reduce(
                problem,
                Role::DLoraB,
                &splits.reduce_b,
                partials,
                self.gradients().map(|gradients| gradients.b),
            ),
            ..Zeroable::zeroed()
        };
        let sizes = splits.dy_groups.iter().zip(&regions.of_dy);
        for ((slot, (projection, planned)), (&groups, of_dy)) in
            params.t_source.iter_mut().zip(problem.adapted()).zip(sizes)
        {
            *slot = TSource {
                partial: self.workspace.at(of_dy.t_partial),
                partials: groups as i32,
                rank0: problem.rank_offset(projection) as i32,
                r_pad: planned.padded_rank() as i32,
                pad: 0,
            };
            params.adapters += 1;
        }
        params
    }

    /// The sums of dA, which the last blocks of the GEMM make.
    fn reduce_a(&self) -> ReduceParams {
        let (plan, problem) = (self.plan, self.plan.problem());
        let (splits, regions) = (&plan.splits, &plan.regions);
        let (in_features, ranks) = (problem.in_features() as i64, problem.padded_ranks() as i64);
        let partials = problem.adapted().map(|(projection, _)| Partials {
            start: self
                .workspace
                .at(regions.lora_a_partial_of(problem, projection)),
            row_stride: in_features,
            split_stride: in_features * ranks,
            splits: splits.x.row_splits,
        });
        common::reduce(
            problem,
            Role::DLoraA,
            &splits.reduce_a,
            partials,
            self.gradients().map(|gradients| gradients.a),
        )
    }

    fn grad_x(&self, launch: &Launch) -> GradXParams {
        let (plan, problem) = (self.plan, self.plan.problem());
        let regions = &plan.regions;
        let mut params = GradXParams {
            t: self.workspace.at(regions.t),
            mask: self.saved.mask,
            dx: self.args.dx.unwrap_or_default(),
            dx_stride: problem.layout(Role::DX).row_stride,
            m: problem.tokens() as i32,
            k: problem.in_features() as i32,
            ranks: problem.padded_ranks() as i32,
            projections: problem.projections().len() as i32,
            adapter_f32: common::adapter_f32(problem),
            accumulate: problem.accumulates(Role::DX).into(),
            weight_transposed: (problem.weight_layout() == WeightLayout::InOut).into(),
            output_vectorised: access::rows_aligned(problem, 0, Role::DX).into(),
            mask_source: common::backward_mask(problem),
            dropout: self.dropout,
            origin: self.origin,
            schedule: common::schedule(launch, regions.split.as_ref(), self.workspace),
            reduce_a: self.reduce_a(),
            ..Zeroable::zeroed()
        };
        let projections = problem.projections().iter().zip(self.args.projections);
        for ((slot, index), (planned, given)) in
            params.projection.iter_mut().zip(0..).zip(projections)
        {
            let stride = |tensor| problem.layout_of(index, tensor).row_stride;
            *slot = GradXProjection {
                dy: given.dy,
                weight: given.weight,
                dy_stride: stride(Role::DY),
                weight_stride: stride(Role::Weight),
                n: planned.out_features as i32,
                lora_a: given.lora.map_or_else(Zeroable::zeroed, |lora| {
                    common::adapter(problem, index, Role::LoraA, lora.a, lora.scaling)
                }),
                ..Zeroable::zeroed()
            };
        }
        params
    }

    fn grad_x_sm90(&self, launch: &Launch, encode: Encode) -> Result<GradXSm90Params> {
        let (plan, problem) = (self.plan, self.plan.problem());
        let regions = &plan.regions;
        let mut params = GradXSm90Params {
            mask: self.saved.mask,
            dx_data: self.args.dx.unwrap_or_default(),
            dx_stride: problem.layout(Role::DX).row_stride,
            m: problem.tokens() as i32,
            k: problem.in_features() as i32,
            ranks: problem.padded_ranks() as i32,
            projections: problem.projections().len() as i32,
            accumulate: problem.accumulates(Role::DX).into(),
            mask_source: common::backward_mask(problem),
            dropout: self.dropout,
            origin: self.origin,
            schedule: common::schedule(launch, regions.split.as_ref(), self.workspace),
            reduce_a: self.reduce_a(),
            ..Zeroable::zeroed()
        };
        let maps = Maps {
            problem,
            tile: launch.variant.tile,
            encode,
        };
        let weight_box = match problem.weight_layout() {
            WeightLayout::OutIn => Boxed::Depth,
            WeightLayout::InOut => Boxed::HalfOfColumns,
        };
        params.t = maps.low_rank(self.workspace.at(regions.t))?;
        if access::output_mapped(problem, 0, Role::DX) {
            params.dx = maps.tensor((0, Role::DX), params.dx_data, Boxed::Output)?;
            params.output_mapped = 1;
        }
        let mut copies = maps::copies(&plan.packing, self.workspace);
        let projections = problem.projections().iter().zip(self.args.projections);
        for (index, (planned, given)) in projections.enumerate() {
            let (slot, size) = (&mut params.projection[index], &mut params.size[index]);
            slot.dy = maps.tensor((index, Role::DY), given.dy, Boxed::Rows)?;
            slot.weight = maps.tensor((index, Role::Weight), given.weight, weight_box)?;
            size.n = planned.out_features as i32;
            if let Some(lora) = given.lora {
                let (tensor, copy) = ((index, Role::LoraA), copies.next().flatten());
                slot.lora_a = maps.adapter(tensor, lora.a, copy, Boxed::Ranks)?;
                size.rank0 = problem.rank_offset(index) as i32;
                size.r = planned.rank as i32;
            }
        }
        Ok(params)
    }
}
