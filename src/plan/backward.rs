//! The backward: one pass over every dy (T and dB), one over x (dA), one GEMM (dx). Each launch
//! adds the partial sums of the previous one in the order of their index, without float atomics, so
//! the bits are the same on every run.

use std::fmt;

use super::access::GemmAccess;
use super::gemm::{self, Product};
use super::memory::BufferLayout;
use super::packing::{Packing, adapter_blocks};
use super::stream::{RowSplit, column_groups};
use super::{
    DeviceProps, Launch, Operation, Region, RowsBackward, SavedLayout, SplitRegions, Variant,
    access, arch, fmt_plan, rows_backward,
};
use crate::{Problem, Result, Role};

/// The launches of a backward call, which computes dx, and dA and dB of every adapted projection,
/// from every dy.
#[derive(Debug, Clone, PartialEq)]
pub struct BackwardPlan {
    problem: Problem,
    device: DeviceProps,
    /// grad_b, grad_a and grad_x, or those of `rows_backward`. Without tokens only grad_a and
    /// grad_x, whose last blocks sum zero partial gradients.
    launches: Vec<Launch>,
    saved: SavedLayout,
    pub(crate) splits: Splits,
    pub(crate) regions: Regions,
    /// The copies of lora_A, which the last blocks of grad_b write.
    pub(crate) packing: Packing,
    /// What the launches need where rows have adapters of a table, or only the adapters' part is
    /// computed. Splits, regions and packing are empty then.
    pub(crate) rows: Option<RowsBackward>,
    workspace_bytes: usize,
}

/// The regions of the workspace. There are none without tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Regions {
    /// The regions of each adapted projection.
    pub of_dy: Vec<DyRegions>,
    /// T in the type of the activations, (tokens, padded ranks)
    pub t: Option<Region>,
    /// f32 (row splits of x, padded ranks, in_features)
    pub lora_a_partial: Option<Region>,
    pub split: Option<SplitRegions>,
}

/// The results of the pass over one dy.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct DyRegions {
    /// f32 (column groups of dy, tokens, padded rank)
    pub t_partial: Option<Region>,
    /// f32 (row splits of dy, out_features, padded rank)
    pub lora_b_partial: Option<Region>,
}

impl Regions {
    /// The partial sums of dA that begin at a projection's first rank, in the first row split.
    pub fn lora_a_partial_of(&self, problem: &Problem, projection: usize) -> Option<Region> {
        let skipped = problem.rank_offset(projection) * problem.in_features() * size_of::<f32>();
        let all = self.lora_a_partial?;
        Some(Region {
            offset: all.offset + skipped,
            bytes: all.bytes - skipped,
        })
    }
}

/// How grad_b and grad_a split their matrices over blocks.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Splits {
    /// Column groups of dy, for each adapted projection.
    pub dy_groups: Vec<usize>,
    pub dy: RowSplit,
    pub x_groups: usize,
    pub x: RowSplit,
    /// Blocks that sum dB, for each adapted projection.
    pub reduce_b: Vec<u32>,
    /// Blocks that sum dA, for each adapted projection.
    pub reduce_a: Vec<u32>,
}

impl BackwardPlan {
    /// Plans a backward.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device lacks what the kernels need, [`crate::Error::Grid`]
    /// if a launch would be too large.
    pub fn new(problem: &Problem, device: &DeviceProps) -> Result<Self> {
        device.check()?;
        arch::has_backward(problem)?;
        if rows_backward::applies(problem) {
            let mut workspace = BufferLayout::default();
            let (launches, needs) = rows_backward::launches(problem, device, &mut workspace)?;
            return Ok(Self {
                launches,
                saved: SavedLayout::new(problem),
                splits: Splits::default(),
                regions: Regions::default(),
                packing: Packing::default(),
                rows: Some(needs),
                workspace_bytes: workspace.bytes(),
                device: *device,
                problem: problem.clone(),
            });
        }
        let dtype = problem.dtype();

        let most_ranks = problem
            .adapted()
            .map(|(_, projection)| projection.rank)
            .max()
            .unwrap_or_default();
        let streams = problem
            .adapted()
            .map(|(projection, _)| (projection, Role::DY));
        let (dy_access, dy_reason) = access::streamed(problem, streams);
        let grad_b = arch::weight_grad(Operation::GradB, dtype, dy_access, most_ranks)?;
        let groups = |(_, projection): (usize, crate::Projection)| {
            column_groups(grad_b, projection.out_features)
        };
        let dy_groups: Vec<usize> = problem.adapted().map(groups).collect();
        let rank_tiles = |ranks: usize, variant: Variant| ranks.div_ceil(variant.tile.ranks);
        let of_dy = dy_groups
            .iter()
            .zip(problem.adapted())
            .map(|(groups, (_, projection))| groups * rank_tiles(projection.rank, grad_b))
            .sum::<usize>();
        let dy = RowSplit::new(problem.tokens(), of_dy, device);
        let (x_access, access_reason) = access::streamed(problem, [(0, Role::X)]);
        let ranks = problem.padded_ranks();
        let grad_a = arch::weight_grad(Operation::GradA, dtype, x_access, ranks)?;
        let x_groups = column_groups(grad_a, problem.in_features());
        let side_by_side = x_groups * rank_tiles(problem.padded_ranks(), grad_a);
        let x = RowSplit::new(problem.tokens(), side_by_side, device);
        let reduce_b = adapter_blocks(problem, Role::DLoraB, grad_a.threads(), device);
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
        let mut workspace = BufferLayout::default();
        let regions = regions(problem, &splits, &grad_x, &mut workspace);
        let mut packing = Packing::default();
        if arch::maps_operands(&grad_x.variant) {
            let threads = grad_b.threads();
            packing = Packing::new(problem, Role::LoraA, threads, device, &mut workspace);
        }
        let reason = format!(
            "{of_dy} blocks side by side, {} row splits{}; {dy_reason}",
            splits.dy.row_splits,
            packing.reason(Role::LoraA)
        );
        let blocks = of_dy as u64 * splits.dy.row_splits as u64 + u64::from(packing.blocks());
        let grad_b = Launch::new(grad_b, blocks, None, reason, problem, device)?;
        let launches = match problem.tokens() {
            0 => vec![grad_a, grad_x],
            _ => vec![grad_b, grad_a, grad_x],
        };
        Ok(Self {
            launches,
            saved: SavedLayout::new(problem),
            splits,
            regions,
            packing,
            rows: None,
            workspace_bytes: workspace.bytes(),
            device: *device,
            problem: problem.clone(),
        })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The device it was made for.
    pub fn device(&self) -> &DeviceProps {
        &self.device
    }

    /// The kernels, in the order they are launched.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// The layout of the buffer that the forward of the same problem saved.
    pub fn saved(&self) -> &SavedLayout {
        &self.saved
    }

    /// The size of the workspace in bytes. Its content before the call does not matter, and it is
    /// not needed after the call.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }
}

/// The GEMM for dx, followed by blocks that sum dA. Without dx there are only the latter.
fn grad_x(problem: &Problem, device: &DeviceProps) -> Result<(Launch, Vec<u32>)> {
    let access = GemmAccess::new(problem, Role::DY);
    if !problem.has_input_gradient() || problem.tokens() == 0 {
        let variant = gemm::smallest(Operation::GradX, problem.dtype(), access.copied.0, device)?;
        let reduce_a = adapter_blocks(problem, Role::DLoraA, variant.threads(), device);
        let blocks = reduce_a.iter().sum::<u32>();
        let reason = format!("no dx; {blocks} blocks sum d_lora_A");
        let launch = Launch::new(variant, u64::from(blocks), None, reason, problem, device)?;
        return Ok((launch, reduce_a));
    }
    let product = Product::grad_x(problem);
    gemm::launch_and_reduce(&product, &access, problem, device)
}

fn regions(
    problem: &Problem,
    splits: &Splits,
    grad_x: &Launch,
    workspace: &mut BufferLayout,
) -> Regions {
    let tokens = problem.tokens();
    if tokens == 0 {
        let of_dy = vec![DyRegions::default(); splits.dy_groups.len()];
        return Regions {
            of_dy,
            ..Regions::default()
        };
    }
    let (float, ranks) = (size_of::<f32>(), problem.padded_ranks());
    let mut of_dy = vec![DyRegions::default(); splits.dy_groups.len()];
    for ((regions, groups), (_, projection)) in of_dy
        .iter_mut()
        .zip(&splits.dy_groups)
        .zip(problem.adapted())
    {
        regions.t_partial =
            Some(workspace.region(&[*groups, tokens, projection.padded_rank()], float));
    }
    for (regions, (_, projection)) in of_dy.iter_mut().zip(problem.adapted()) {
        let count = [
            splits.dy.row_splits,
            projection.out_features,
            projection.padded_rank(),
        ];
        regions.lora_b_partial = Some(workspace.region(&count, float));
    }
    Regions {
        of_dy,
        t: Some(workspace.region(&[tokens, ranks], problem.dtype().size())),
        lora_a_partial: Some(
            workspace.region(&[splits.x.row_splits, ranks, problem.in_features()], float),
        ),
        split: SplitRegions::new(grad_x, workspace),
    }
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
