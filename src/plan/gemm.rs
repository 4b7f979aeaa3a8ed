//! Chooses kernel, splits, clusters and order of a GEMM by the cost model.

use super::access::GemmAccess;
use super::cost::{Choice, MAX_SLABS, Rivals, Sharing};
use super::launch::checked_count;
use super::packing::adapter_blocks;
use super::raster::Grid;
use super::{Access, Arch, DeviceProps, Launch, Operation, Schedule, Variant, arch};
use crate::{DType, Problem, Result, Role};

/// A product with an output (`rows`, Σ `columns`), where `columns` has the width of each
/// projection. Each element is a sum over `depth` products.
pub(super) struct Product {
    pub operation: Operation,
    pub rows: usize,
    pub columns: Vec<usize>,
    pub depth: usize,
    /// Whether blocks may share a tile, each with a part of the depth.
    pub split: bool,
}

impl Product {
    /// y of every projection.
    pub fn forward(problem: &Problem) -> Self {
        let projections = problem.projections().iter();
        Self {
            operation: Operation::Forward,
            rows: problem.tokens(),
            columns: projections
                .map(|projection| projection.out_features)
                .collect(),
            depth: problem.in_features(),
            split: true,
        }
    }

    /// y of every projection where rows have adapters of a table, or of the adapters' part alone,
    /// or batch-invariant. A tile has one block: its products are added in the order of the depth.
    pub fn forward_rows(problem: &Problem) -> Self {
        let product = Self::forward(problem);
        Self {
            operation: Operation::ForwardRows,
            depth: match problem.is_delta_only() {
                true => 1,
                false => product.depth,
            },
            split: false,
            ..product
        }
    }

    /// dx.
    pub fn grad_x(problem: &Problem) -> Self {
        let projections = problem.projections().iter();
        Self {
            operation: Operation::GradX,
            rows: problem.tokens(),
            columns: vec![problem.in_features()],
            depth: projections.map(|projection| projection.out_features).sum(),
            split: true,
        }
    }

    /// dx where rows have adapters of a table, or of the adapters' part alone.
    pub fn grad_x_rows(problem: &Problem) -> Self {
        let product = Self::grad_x(problem);
        Self {
            operation: Operation::GradXRows,
            // The ranks are all the depth that is left, too little to share.
            depth: match problem.is_delta_only() {
                true => 1,
                false => product.depth,
            },
            ..product
        }
    }
}

/// The largest number of blocks that share a tile.
const MAX_SPLITS: u64 = 16;
/// The smallest number of steps in a split.
const MIN_STEPS: u64 = 4;
/// The relative difference up to which scores count as equal.
const EQUAL: f64 = 1e-9;

/// The best choice for each kernel that fits the device, sorted by descending score.
fn choices(
    product: &Product,
    access: &GemmAccess,
    dtype: DType,
    device: &DeviceProps,
) -> Vec<Choice> {
    let mut choices: Vec<Choice> = Vec::new();
    let kernels = || kernels(product.operation, access, dtype, device);
    let rivals = match kernels().any(|variant| arch::maps_operands(&variant)) {
        true => Rivals::Hopper,
        false => Rivals::OneArchitecture,
    };
    for variant in kernels() {
        let of = |sharing| Choice::new(product, variant, sharing, rivals, device);
        let splits = (1..=most_splits(product, variant)).map(Sharing::Tile);
        // Among equal scores, the first has the fewest splits.
        let split = splits.filter_map(of).reduce(|best, other| {
            if other.score > best.score {
                other
            } else {
                best
            }
        });
        let cluster = arch::cluster(variant).map(Sharing::Columns).and_then(of);
        choices.extend(match (cluster, split) {
            // Equal but for rounding.
            (Some(cluster), Some(split)) if cluster.score >= split.score * (1.0 - EQUAL) => {
                Some(cluster)
            }
            (_, split) => split,
        });
    }
    // The sort is stable, so among equal scores the larger tile comes first.
    choices.sort_by(|a, b| b.score.total_cmp(&a.score));
    choices
}

/// The kernels whose access the operands allow.
fn kernels(
    operation: Operation,
    access: &GemmAccess,
    dtype: DType,
    device: &DeviceProps,
) -> impl Iterator<Item = Variant> {
    let with = |access| arch::gemm(device, operation, dtype, access);
    let mapped = access.mapped.as_ref().ok().map(|&access| with(access));
    let mapped = mapped.into_iter().flatten().filter(arch::maps_operands);
    mapped.chain(with(access.copied.0).filter(|variant| !arch::maps_operands(variant)))
}

/// The most splits of a product's depth by steps of a tile.
fn most_splits(product: &Product, variant: Variant) -> u64 {
    if !product.split {
        return 1;
    }
    let steps = product.depth.div_ceil(variant.tile.depth) as u64;
    MAX_SPLITS.min(steps / MIN_STEPS).max(1)
}

/// Tiles, and bytes of slabs, that no split of a product with this many rows, or fewer, exceeds;
/// `None` where none is split. Whichever access its tensors allow.
///
/// How often a kernel splits depends on the rows by its tiles alone, so it is asked for each number
/// of them. Beyond a few thousand tiles the slabs would be too large for any split.
pub(super) fn split_bound(
    mut product: Product,
    dtype: DType,
    device: &DeviceProps,
) -> Option<(u64, u64)> {
    let (operation, most_rows) = (product.operation, product.rows);
    let mut bound = None;
    for access in [Access::Vectorised, Access::VectorisedKn, Access::Any] {
        for variant in arch::gemm(device, operation, dtype, access) {
            let (rows, columns) = variant.block();
            let tile_bytes = (rows * columns * size_of::<f32>()) as u64;
            let tiles_n: usize = product.columns.iter().map(|n| n.div_ceil(columns)).sum();
            let splittable = MAX_SLABS / (2 * tile_bytes) / tiles_n as u64;
            for tiles_m in 1..=splittable.min(most_rows.div_ceil(rows) as u64) {
                product.rows = tiles_m as usize * rows;
                for schedule in best_splits(&product, variant, device) {
                    let (tiles, slabs) = bound.unwrap_or((0, 0));
                    bound = Some((
                        schedule.tiles().max(tiles),
                        (schedule.items() * tile_bytes).max(slabs),
                    ));
                }
            }
        }
    }
    bound
}

/// The schedules that split, of a kernel's best; several where the last rows of a product, which
/// the score depends on too, could decide between them.
fn best_splits(
    product: &Product,
    variant: Variant,
    device: &DeviceProps,
) -> impl Iterator<Item = Schedule> {
    // A kernel's rivals change all of its scores by the same factor.
    let rivals = Rivals::OneArchitecture;
    let of = |splits| Choice::new(product, variant, Sharing::Tile(splits), rivals, device);
    let mut all = [const { None }; MAX_SPLITS as usize];
    for (slot, splits) in all.iter_mut().zip(1..=most_splits(product, variant)) {
        *slot = of(splits);
    }
    let scores = all.iter().flatten().map(|choice| choice.score);
    let best = scores.fold(0.0, f64::max);
    all.into_iter()
        .flatten()
        .filter(move |choice| choice.score >= best * (1.0 - EQUAL) && choice.schedule.splits > 1)
        .map(|choice| choice.schedule)
}

/// The width of the raster's bands.
fn group(product: &Product, choice: &Choice, dtype: DType, device: &DeviceProps) -> u32 {
    let (block_m, block_n) = choice.variant.block();
    let bytes = |extent: usize| extent as f64 * product.depth as f64 * dtype.size() as f64;
    let schedule = &choice.schedule;
    // A cluster computes a tile as high as those of its blocks together.
    let cluster = schedule.cluster;
    let grid = Grid {
        tiles_m: schedule.tiles_m.div_ceil(cluster).into(),
        tiles_n: schedule.tiles_n.into(),
        turn: (schedule.blocks / cluster).div_ceil(schedule.splits).into(),
        row_bytes: bytes(block_m * cluster as usize),
        column_bytes: bytes(block_n),
        l2_bytes: device.l2_bytes() as f64,
    };
    // The width is at most tiles_n, which fits u32.
    grid.group() as u32
}

/// The forward's GEMM.
pub(super) fn launch(
    product: &Product,
    access: &GemmAccess,
    problem: &Problem,
    device: &DeviceProps,
) -> Result<Launch> {
    launch_with(product, access, problem, device, |_, _| (0, String::new()))
}

/// The backward's GEMM, and the number of further blocks that sum dA, for each adapted projection.
pub(super) fn launch_and_reduce(
    product: &Product,
    access: &GemmAccess,
    problem: &Problem,
    device: &DeviceProps,
) -> Result<(Launch, Vec<u32>)> {
    let mut reduce = Vec::new();
    let launch = launch_with(product, access, problem, device, |variant, cluster| {
        reduce = adapter_blocks(problem, Role::DLoraA, variant.threads(), device);
        // Whole clusters.
        let blocks = reduce.iter().sum::<u32>();
        let spare = blocks.next_multiple_of(cluster) - blocks;
        if let Some(last) = reduce.last_mut() {
            *last += spare;
        }
        let blocks = blocks + spare;
        (blocks, format!("; {blocks} blocks sum d_lora_A"))
    })?;
    Ok((launch, reduce))
}

/// The smallest tile of those that need the least shared memory, of the kernels that every device
/// has. It fits all of them.
pub(super) fn smallest(
    operation: Operation,
    dtype: DType,
    access: Access,
    device: &DeviceProps,
) -> Result<Variant> {
    arch::gemm(device, operation, dtype, access)
        .filter(|variant| variant.arch == Arch::Sm80)
        .min_by_key(|variant| {
            let (rows, columns) = variant.block();
            (variant.shared_bytes(), rows * columns)
        })
        .ok_or_else(|| arch::not_in_table(operation, dtype, access))
}

/// A launch with additional blocks at the end of the grid for other work. `more` returns their
/// number for a kernel in clusters of this size.
fn launch_with(
    product: &Product,
    access: &GemmAccess,
    problem: &Problem,
    device: &DeviceProps,
    more: impl FnOnce(Variant, u32) -> (u32, String),
) -> Result<Launch> {
    let choices = choices(product, access, problem.dtype(), device);
    let Some((best, others)) = choices.split_first() else {
        // Not even the smallest tile fits. Making its launch gives the error that says what is
        // missing.
        let variant = smallest(product.operation, problem.dtype(), access.copied.0, device)?;
        return Launch::new(variant, 1, None, String::new(), problem, device);
    };
    let mut schedule = best.schedule;
    // The kernels count items, and add the size of the grid to them, in 32-bit integers.
    checked_count(schedule.items(), Problem::MAX_DIMENSION as u64, problem)?;
    schedule.group_n = group(product, best, problem.dtype(), device);
    let offered = choices.iter().any(|c| arch::maps_operands(&c.variant));
    let (more, more_reason) = more(best.variant, schedule.cluster);
    let reason = format!(
        "{schedule}; score {:.2}{}{more_reason}; {}",
        best.score,
        lost(best, others),
        access.reason(best.variant, offered, device),
    );
    let blocks = u64::from(schedule.blocks) + u64::from(more);
    Launch::new(
        best.variant,
        blocks,
        Some(schedule),
        reason,
        problem,
        device,
    )
}

/// The scores of the best kernels that were not chosen.
fn lost(best: &Choice, others: &[Choice]) -> String {
    const MOST: usize = 3;
    let named = others.iter().take(MOST).map(|other| {
        let arch = match other.variant.arch == best.variant.arch {
            true => String::new(),
            false => format!("{} ", arch::name(other.variant.arch)),
        };
        format!(", {arch}{} {:.2}", other.schedule.tile, other.score)
    });
    named.collect()
}
