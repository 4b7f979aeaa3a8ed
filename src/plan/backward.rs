//! The backward: one pass over every dy (T and dB), one over x (dA), one GEMM (dx). Partial sums of
//! one launch are added up by the next, in the order of their index: no float atomics, the same
//! bits on every run.

use std::fmt;

use bytemuck::Zeroable;

use super::buffer::Carver;
use super::gemm::{self, Product};
use super::params::{
    GradAParams, GradBParams, GradBProjection, GradXParams, GradXProjection, ReduceJob,
    ReduceParams, TSource,
};
use super::stream::{Split, column_groups, reduce_blocks};
use super::{
    DeviceProps, Launch, Operation, Region, SavedLayout, SplitRegions, Variant, access, arch,
    fmt_plan,
};
use crate::{Problem, Result, Role, WeightLayout};

/// What a backward call launches: dx, and dA and dB of every adapted projection, from every dy.
#[derive(Debug, Clone, PartialEq)]
pub struct BackwardPlan {
    problem: Problem,
    pub(crate) launches: [Launch; 3],
    saved: SavedLayout,
    workspace_bytes: usize,
    /// What the kernels are told. Addresses are 0, or count from the start of `saved` or the
    /// workspace; scalings and dropout are the call's.
    pub(crate) grad_b: GradBParams,
    pub(crate) grad_a: GradAParams,
    pub(crate) grad_x: GradXParams,
}

/// The workspace, carved.
struct Regions {
    /// Of each adapted projection: f32 (column groups of dy, tokens, padded rank)
    t_partial: Vec<Region>,
    /// Of each adapted projection: f32 (row splits of dy, out_features, padded rank)
    lora_b_partial: Vec<Region>,
    /// dtype (tokens, padded ranks)
    t: Region,
    /// f32 (row splits of x, padded ranks, in_features)
    lora_a_partial: Region,
    split: Option<SplitRegions>,
}

/// How grad_b and grad_a split their matrices.
struct Splits {
    /// Column groups of dy, by adapted projection.
    dy_groups: Vec<usize>,
    dy: Split,
    x_groups: usize,
    x: Split,
    /// Blocks that sum dB, by adapted projection.
    reduce_b: Vec<u32>,
    /// Blocks that sum dA, by adapted projection.
    reduce_a: Vec<u32>,
}

impl BackwardPlan {
    /// Plans a backward.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device lacks what the kernels need, [`crate::Error::Grid`]
    /// if a launch would be too large.
    pub fn new(problem: &Problem, device: &DeviceProps) -> Result<Self> {
        device.check()?;
        let dtype = problem.dtype();

        let most_ranks = problem
            .adapted()
            .map(|(_, one)| one.rank)
            .max()
            .unwrap_or_default();
        let streams = problem
            .adapted()
            .map(|(projection, _)| (projection, Role::DY));
        let (dy_access, access_reason) = access::streamed(problem, streams);
        let grad_b = arch::weight_grad(device, Operation::GradB, dtype, dy_access, most_ranks)?;
        let groups = |(_, one): (usize, crate::Projection)| column_groups(grad_b, one.out_features);
        let dy_groups: Vec<usize> = problem.adapted().map(groups).collect();
        let rank_tiles = |ranks: usize, variant: Variant| ranks.div_ceil(variant.tile.ranks);
        let side_by_side = dy_groups
            .iter()
            .zip(problem.adapted())
            .map(|(groups, (_, one))| groups * rank_tiles(one.rank, grad_b))
            .sum::<usize>();
        let dy = Split::new(problem.tokens(), side_by_side, device);
        let reason = format!(
            "{side_by_side} blocks side by side, {} row splits; {access_reason}",
            dy.row_splits
        );
        let blocks = side_by_side as u64 * dy.row_splits as u64;
        let grad_b = Launch::new(grad_b, blocks, None, reason, problem, device)?;

        let (x_access, access_reason) = access::streamed(problem, [(0, Role::X)]);
        let ranks = problem.padded_ranks();
        let grad_a = arch::weight_grad(device, Operation::GradA, dtype, x_access, ranks)?;
        let x_groups = column_groups(grad_a, problem.in_features());
        let side_by_side = x_groups * rank_tiles(problem.padded_ranks(), grad_a);
        let x = Split::new(problem.tokens(), side_by_side, device);
        let reduce_b = reduce_blocks(problem, Role::DLoraB, grad_a.threads(), device);
        let reducing = reduce_b.iter().sum::<u32>();
        let reason = format!(
            "{side_by_side} blocks side by side, {} row splits; {reducing} blocks sum d_lora_B; {access_reason}",
            x.row_splits
        );
        let blocks = side_by_side as u64 * x.row_splits as u64 + u64::from(reducing);
        let grad_a = Launch::new(grad_a, blocks, None, reason, problem, device)?;

        let (grad_x, reduce_a) = grad_x(problem, device)?;
        let splits = Splits {
            dy_groups,
            dy,
            x_groups,
            x,
            reduce_b,
            reduce_a,
        };
        let (regions, workspace_bytes) = carve(problem, &splits, &grad_x);
        let saved = SavedLayout::new(problem);
        Ok(Self {
            grad_b: grad_b_params(problem, &saved, &splits, &regions, &grad_b),
            grad_a: grad_a_params(problem, &saved, &splits, &regions),
            grad_x: grad_x_params(problem, &saved, &splits, &regions, &grad_x),
            launches: [grad_b, grad_a, grad_x],
            saved,
            workspace_bytes,
            problem: problem.clone(),
        })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The kernels, in the order they are launched.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// What it reads from the buffer that the forward of the same problem saved.
    pub fn saved(&self) -> &SavedLayout {
        &self.saved
    }

    /// Bytes of scratch memory. Its content before the call does not matter, and nothing of it is
    /// needed after.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }
}

/// The GEMM for dx, and the blocks after it that sum dA: those alone where dx is not wanted.
fn grad_x(problem: &Problem, device: &DeviceProps) -> Result<(Launch, Vec<u32>)> {
    let access = access::gemm(problem, Role::DY);
    if !problem.has_input_gradient() {
        let variant = gemm::smallest(Operation::GradX, problem.dtype(), access.0, device)?;
        let reduce_a = reduce_blocks(problem, Role::DLoraA, variant.threads(), device);
        let blocks = reduce_a.iter().sum::<u32>();
        let reason = format!("no dx; {blocks} blocks sum d_lora_A");
        let launch = Launch::new(variant, u64::from(blocks), None, reason, problem, device)?;
        return Ok((launch, reduce_a));
    }
    let product = Product {
        operation: Operation::GradX,
        rows: problem.tokens(),
        columns: vec![problem.in_features()],
        depth: problem
            .projections()
            .iter()
            .map(|one| one.out_features)
            .sum(),
    };
    gemm::launch_and_reduce(&product, access, problem, device)
}

fn carve(problem: &Problem, splits: &Splits, grad_x: &Launch) -> (Regions, usize) {
    let mut carver = Carver::default();
    let tokens = problem.tokens();
    let (float, ranks) = (size_of::<f32>(), problem.padded_ranks());
    let t_partial = splits
        .dy_groups
        .iter()
        .zip(problem.adapted())
        .map(|(&groups, (_, one))| carver.take(&[groups, tokens, one.padded_rank()], float))
        .collect();
    let lora_b_partial = problem
        .adapted()
        .map(|(_, one)| {
            carver.take(
                &[splits.dy.row_splits, one.out_features, one.padded_rank()],
                float,
            )
        })
        .collect();
    let regions = Regions {
        t_partial,
        lora_b_partial,
        t: carver.take(&[tokens, ranks], problem.dtype().size()),
        lora_a_partial: carver.take(&[splits.x.row_splits, ranks, problem.in_features()], float),
        split: SplitRegions::new(grad_x, &mut carver),
    };
    (regions, carver.bytes())
}

fn grad_b_params(
    problem: &Problem,
    saved: &SavedLayout,
    splits: &Splits,
    regions: &Regions,
    launch: &Launch,
) -> GradBParams {
    let mut params = GradBParams {
        s: saved.s.offset as u64,
        counters: regions
            .split
            .map_or(0, |split| split.counters.offset as u64),
        m: problem.tokens() as i32,
        ranks: problem.padded_ranks() as i32,
        projections: problem.adapted().count() as i32,
        adapter_f32: super::adapter_f32(problem),
        counter_count: regions.split.map_or(0, |split| split.count),
        ..Zeroable::zeroed()
    };
    let mut first_block = 0;
    for (index, (projection, one)) in problem.adapted().enumerate() {
        let groups = splits.dy_groups[index];
        params.projection[index] = GradBProjection {
            dy: 0,
            t_partial: regions.t_partial[index].offset as u64,
            lora_b_partial: regions.lora_b_partial[index].offset as u64,
            dy_stride: problem.layout_of(projection, Role::DY).row_stride,
            n: one.out_features as i32,
            column_groups: groups as i32,
            rows_per_split: splits.dy.rows_per_split as i32,
            m_splits: splits.dy.row_splits as i32,
            first_block: first_block as i32,
            pad: 0,
            lora_b: super::adapter_params(problem, projection, Role::LoraB),
        };
        first_block += groups * splits.dy.row_splits * one.rank.div_ceil(launch.variant.tile.ranks);
    }
    params
}

fn grad_a_params(
    problem: &Problem,
    saved: &SavedLayout,
    splits: &Splits,
    regions: &Regions,
) -> GradAParams {
    let mut params = GradAParams {
        mask: saved.mask.map_or(0, |mask| mask.offset as u64),
        t: regions.t.offset as u64,
        lora_a_partial: regions.lora_a_partial.offset as u64,
        x_stride: problem.layout(Role::X).row_stride,
        m: problem.tokens() as i32,
        k: problem.in_features() as i32,
        ranks: problem.padded_ranks() as i32,
        adapters: problem.adapted().count() as i32,
        rows_per_split: splits.x.rows_per_split as i32,
        column_groups: splits.x_groups as i32,
        m_splits: splits.x.row_splits as i32,
        mask_source: super::backward_mask(problem),
        reduce_b: reduce_params(problem, Role::DLoraB, &splits.reduce_b),
        ..Zeroable::zeroed()
    };
    for (index, (projection, one)) in problem.adapted().enumerate() {
        params.t_source[index] = TSource {
            partial: regions.t_partial[index].offset as u64,
            partials: splits.dy_groups[index] as i32,
            rank0: problem.rank_offset(projection) as i32,
            r_pad: one.padded_rank() as i32,
            pad: 0,
        };
        let job = &mut params.reduce_b.job[index];
        job.partial = regions.lora_b_partial[index].offset as u64;
        job.partial_stride = one.padded_rank() as i64;
        job.split_stride = one.out_features as i64 * one.padded_rank() as i64;
        job.splits = splits.dy.row_splits as i32;
    }
    params
}

fn grad_x_params(
    problem: &Problem,
    saved: &SavedLayout,
    splits: &Splits,
    regions: &Regions,
    launch: &Launch,
) -> GradXParams {
    let mut params = GradXParams {
        t: regions.t.offset as u64,
        mask: saved.mask.map_or(0, |mask| mask.offset as u64),
        dx_stride: problem.layout(Role::DX).row_stride,
        m: problem.tokens() as i32,
        k: problem.in_features() as i32,
        ranks: problem.padded_ranks() as i32,
        projections: problem.projections().len() as i32,
        adapter_f32: super::adapter_f32(problem),
        accumulate: problem.accumulates(Role::DX).into(),
        weight_transposed: (problem.weight_layout() == WeightLayout::InOut).into(),
        output_vectorised: access::rows_aligned(problem, 0, Role::DX).into(),
        mask_source: super::backward_mask(problem),
        schedule: super::schedule_params(launch, regions.split.as_ref()),
        reduce_a: reduce_params(problem, Role::DLoraA, &splits.reduce_a),
        ..Zeroable::zeroed()
    };
    for (index, one) in problem.projections().iter().enumerate() {
        let stride = |tensor| problem.layout_of(index, tensor).row_stride;
        params.projection[index] = GradXProjection {
            dy_stride: stride(Role::DY),
            weight_stride: stride(Role::Weight),
            lora_a_stride: stride(Role::LoraA),
            n: one.out_features as i32,
            r: one.rank as i32,
            rank0: problem.rank_offset(index) as i32,
            lora_vectorised: access::adapter_aligned(problem, index, Role::LoraA).into(),
            ..Zeroable::zeroed()
        };
    }
    let in_features = problem.in_features() as i64;
    for (index, (projection, _)) in problem.adapted().enumerate() {
        let job = &mut params.reduce_a.job[index];
        let first_row = problem.rank_offset(projection) as u64 * in_features as u64;
        job.partial = regions.lora_a_partial.offset as u64 + first_row * size_of::<f32>() as u64;
        job.partial_stride = in_features;
        job.split_stride = in_features * problem.padded_ranks() as i64;
        job.splits = splits.x.row_splits as i32;
    }
    params
}

/// The sums of one gradient for every adapted projection, by so many blocks each; where the partial
/// sums lie is left to the caller.
fn reduce_params(problem: &Problem, gradient: Role, blocks: &[u32]) -> ReduceParams {
    let mut params = ReduceParams {
        blocks: blocks.iter().sum::<u32>() as i32,
        jobs: blocks.len() as i32,
        out_f32: super::adapter_f32(problem),
        accumulate: problem.accumulates(gradient).into(),
        ..Zeroable::zeroed()
    };
    let mut first_block = 0;
    for (index, (projection, _)) in problem.adapted().enumerate() {
        let (rows, columns) = problem.shape_of(projection, gradient);
        params.job[index] = ReduceJob {
            out_stride: problem.layout_of(projection, gradient).row_stride,
            rows: rows as i32,
            columns: columns as i32,
            first_block: first_block as i32,
            ..Zeroable::zeroed()
        };
        first_block += blocks[index];
    }
    params
}

impl fmt::Display for BackwardPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_plan(
            f,
            "backward",
            &self.problem,
            &self.launches,
            Some(self.saved.bytes()),
            self.workspace_bytes,
        )
    }
}
