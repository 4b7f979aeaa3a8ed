//! The parameters of a forward's kernels.

use bytemuck::{Zeroable, bytes_of};

use super::extents::{Access, Extents};
use super::maps::{self, Boxed, Encode, Maps};
use super::memory::{Buffer, SavedAddresses};
use super::params::{
    DropoutParams, ForwardParams, ForwardProjection, ForwardSm90Params, MaskOrigin, ShrinkParams,
    mask_source,
};
use super::record::scalings;
use super::{
    DevicePointer, Forward, ForwardRecord, Lora, Raw, check, common, decode, rows_forward,
};
use crate::plan::{Arch, Launch, access};
use crate::{Argument, ForwardPlan, Hint, Result, Role, WeightLayout};

pub(super) type Args<'a> = Forward<Raw, &'a [super::ForwardProjection<Raw>]>;

/// The data that all launches of a call need.
pub(super) struct Call<'a> {
    pub plan: &'a ForwardPlan,
    pub args: &'a Args<'a>,
    pub saved: SavedAddresses,
    pub workspace: Buffer,
    pub dropout: DropoutParams,
    pub origin: MaskOrigin,
}

/// Checks a forward, then calls `launch` for each launch of the plan, in order, with its
/// parameters. `encode` makes the tensor maps.
pub(crate) fn forward(
    plan: &ForwardPlan,
    args: &Args<'_>,
    encode: Encode,
    mut launch: impl FnMut(&Launch, &[u8]) -> Result<()>,
) -> Result<ForwardRecord> {
    let call = Call::checked(plan, args)?;
    // Without tokens nothing is launched.
    if let (Some(decode), [alone]) = (&plan.decode, plan.launches()) {
        let params = decode::params(plan, decode, alone, args, call.workspace);
        launch(alone, bytes_of(&params))?;
    } else if let Some(needs) = &plan.rows {
        rows_forward::launch(&call, needs, encode, launch)?;
    } else if let [shrink, gemm] = plan.launches() {
        match gemm.variant.arch {
            Arch::Sm80 => {
                launch(shrink, bytes_of(&call.shrink()))?;
                launch(gemm, bytes_of(&call.gemm(gemm)))?;
            }
            Arch::Sm90a => {
                let of_gemm = call.gemm_sm90(gemm, encode)?;
                launch(shrink, bytes_of(&call.shrink()))?;
                launch(gemm, bytes_of(&of_gemm))?;
            }
        }
    }
    let scalings = scalings(args.projections.iter().map(|projection| projection.lora));
    Ok(ForwardRecord::new(plan.problem(), args.dropout, scalings))
}

impl<'a> Call<'a> {
    fn checked(plan: &'a ForwardPlan, args: &'a Args<'a>) -> Result<Self> {
        let problem = plan.problem();
        check::count(problem, args.projections.len())?;
        let mut extents = Extents::new();
        let (dropout, origin) = check::dropout(&mut extents, args.dropout, problem)?;
        extents.tensor(problem, 0, Role::X, args.x)?;
        for (index, given) in args.projections.iter().enumerate() {
            if !problem.is_delta_only() {
                extents.tensor(problem, index, Role::Weight, given.weight)?;
            }
            extents.tensor(problem, index, Role::Y, given.y)?;
            check::optional(
                check::argument(problem, index, Role::Bias),
                given.bias.is_some(),
                problem.has_bias(),
                Hint::Bias,
            )?;
            if let Some(bias) = given.bias {
                extents.tensor(problem, index, Role::Bias, bias)?;
            }
            check::lora(&mut extents, problem, index, given.lora.as_ref())?;
        }
        check::rows(&mut extents, problem, args.rows.as_ref())?;
        let mut saved =
            SavedAddresses::new(&mut extents, Access::Written, &args.saved, plan.saved())?;
        let workspace = Buffer::workspace(&mut extents, args.workspace, plan.workspace_bytes())?;
        extents.buffer(
            Access::Written,
            Argument::Flags,
            args.flags,
            plan.flags_bytes(),
        )?;
        if let Some(region) = plan.scratch_s {
            saved.s = workspace.at(region);
        }
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

    /// The adapters, with the indices of their projections.
    fn adapters(&self) -> impl Iterator<Item = (usize, Lora<DevicePointer>)> {
        let all = self.args.projections.iter();
        common::adapters(all.map(|projection| projection.lora))
    }

    fn shrink(&self) -> ShrinkParams {
        let (plan, problem) = (self.plan, self.plan.problem());
        let mut params = ShrinkParams {
            x: self.args.x,
            s: self.saved.s,
            // Null if backward draws the mask again.
            mask: self.saved.mask,
            counters: self.workspace.at(plan.split.map(|split| split.counters)),
            x_stride: problem.layout(Role::X).row_stride,
            m: problem.tokens() as i32,
            k: problem.in_features() as i32,
            ranks: problem.padded_ranks() as i32,
            adapter_f32: common::adapter_f32(problem),
            mask_source: if problem.has_dropout() {
                mask_source::DRAWN
            } else {
                mask_source::NONE
            },
            counter_count: plan.split.map_or(0, |split| split.count),
            dropout: self.dropout,
            origin: self.origin,
            pack_b: maps::pack(
                problem,
                Role::LoraB,
                &plan.packing,
                self.workspace,
                self.adapters().map(|(_, lora)| lora.b),
            ),
            ..Zeroable::zeroed()
        };
        for (index, lora) in self.adapters() {
            params.lora_a[params.adapters as usize] =
                common::adapter(problem, index, Role::LoraA, lora.a, lora.scaling);
            params.adapters += 1;
        }
        params
    }

    fn gemm(&self, launch: &Launch) -> ForwardParams {
        let (plan, problem) = (self.plan, self.plan.problem());
        let mut params = ForwardParams {
            x: self.args.x,
            s: self.saved.s,
            x_stride: problem.layout(Role::X).row_stride,
            m: problem.tokens() as i32,
            k: problem.in_features() as i32,
            ranks: problem.padded_ranks() as i32,
            projections: problem.projections().len() as i32,
            adapter_f32: common::adapter_f32(problem),
            accumulate: problem.accumulates(Role::Y).into(),
            weight_transposed: (problem.weight_layout() == WeightLayout::InOut).into(),
            schedule: common::schedule(launch, plan.split.as_ref(), self.workspace),
            ..Zeroable::zeroed()
        };
        let (_, tile_columns) = launch.variant.block();
        let mut first_tile = 0;
        let projections = problem.projections().iter().zip(self.args.projections);
        for (index, (planned, given)) in projections.enumerate() {
            let stride = |tensor| problem.layout_of(index, tensor).row_stride;
            params.projection[index] = ForwardProjection {
                weight: given.weight,
                bias: given.bias.unwrap_or_default(),
                y: given.y,
                weight_stride: stride(Role::Weight),
                y_stride: stride(Role::Y),
                n: planned.out_features as i32,
                first_tile,
                output_vectorised: access::rows_aligned(problem, index, Role::Y).into(),
                lora_b: given.lora.map_or_else(Zeroable::zeroed, |lora| {
                    common::adapter(problem, index, Role::LoraB, lora.b, lora.scaling)
                }),
                ..Zeroable::zeroed()
            };
            first_tile += planned.out_features.div_ceil(tile_columns) as i32;
        }
        params
    }

    fn gemm_sm90(&self, launch: &Launch, encode: Encode) -> Result<ForwardSm90Params> {
        let (plan, problem) = (self.plan, self.plan.problem());
        let tile = launch.variant.tile;
        let maps = Maps {
            problem,
            tile,
            encode,
        };
        let weight_box = match problem.weight_layout() {
            WeightLayout::OutIn => Boxed::HalfOfColumns,
            WeightLayout::InOut => Boxed::Depth,
        };
        let mut params = ForwardSm90Params {
            x: maps.tensor((0, Role::X), self.args.x, Boxed::Rows)?,
            s: match self.adapters().next() {
                Some(_) => maps.low_rank(self.saved.s)?,
                None => Zeroable::zeroed(),
            },
            m: problem.tokens() as i32,
            k: problem.in_features() as i32,
            projections: problem.projections().len() as i32,
            accumulate: problem.accumulates(Role::Y).into(),
            schedule: common::schedule(launch, plan.split.as_ref(), self.workspace),
            ..Zeroable::zeroed()
        };
        let mut copies = maps::copies(&plan.packing, self.workspace);
        let mut first_tile = 0;
        let projections = problem.projections().iter().zip(self.args.projections);
        for (index, (planned, given)) in projections.enumerate() {
            let slot = &mut params.projection[index];
            slot.weight = maps.tensor((index, Role::Weight), given.weight, weight_box)?;
            slot.bias = given.bias.unwrap_or_default();
            slot.y_data = given.y;
            slot.y_stride = problem.layout_of(index, Role::Y).row_stride;
            slot.n = planned.out_features as i32;
            slot.first_tile = first_tile;
            (slot.scaling, slot.inverse_scaling) = (1.0, 1.0);
            if let Some(lora) = given.lora {
                let (tensor, copy) = ((index, Role::LoraB), copies.next().flatten());
                slot.lora_b = maps.adapter(tensor, lora.b, copy, Boxed::HalfOfColumns)?;
                slot.rank0 = problem.rank_offset(index) as i32;
                slot.r = planned.rank as i32;
                slot.scaling = lora.scaling;
                slot.inverse_scaling = inverse_scaling(lora.scaling);
            }
            if access::output_mapped(problem, index, Role::Y) {
                slot.y = maps.tensor((index, Role::Y), given.y, Boxed::Output)?;
                slot.output_mapped = 1;
            }
            first_tile += planned.out_features.div_ceil(tile.columns) as i32;
        }
        Ok(params)
    }
}

/// 1 / scaling, by which the sums of x·Wᵀ are multiplied before S·Bᵀ is added, and all by the
/// scaling. 0, which lets S·Bᵀ come first, where that would round the sums or could overflow: for
/// a scaling that is no power of two, or a very large or small one. So an adapter whose lora_B is
/// zero gives the bits of the layer without it, whatever its scaling.
fn inverse_scaling(scaling: f32) -> f32 {
    const FAR: f32 = (1 << 20) as f32;
    const FRACTION: u32 = (1 << (f32::MANTISSA_DIGITS - 1)) - 1;
    let is_power_of_two = scaling.to_bits() & FRACTION == 0;
    if is_power_of_two && (1.0 / FAR..=FAR).contains(&scaling.abs()) {
        1.0 / scaling
    } else {
        0.0
    }
}
