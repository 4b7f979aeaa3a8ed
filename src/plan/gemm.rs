//! Chooses tile, splits and order of a GEMM by a cost model.
//!
//! A multiprocessor holds R resident blocks of a tile, so a device with P multiprocessors has R·P
//! places. The persistent blocks compute items = tiles · splits work items, and the busiest
//! multiprocessor computes ⌈items / P⌉ of them:
//!
//! ```text
//! wave efficiency = items / (P · ⌈items / P⌉)
//! ```
//!
//! A multiprocessor with a of its R resident blocks busy runs at a/(a+1) · (R+1)/R of full
//! throughput, because fewer warps hide less latency. So the last turn, with a = ⌈rest / P⌉ busy
//! blocks, takes (a+1) · R/(R+1) times the time of an item in a full turn. The score of a tile is
//!
//! ```text
//! use     = items / P / (R · full turns + (a+1) · R/(R+1))
//! fill    = M · ΣN / (tiles · area of a tile)         the share of the tiles inside the output
//! split   = K / (K + slab · splits), or 1             slabs of partial sums take as long to write
//!                                                     and read as products of depth `slab`
//! score   = use · fill · split · quality
//! ```
//!
//! `quality` is the throughput of a tile's main loop relative to the largest tile's: a smaller tile
//! loads more operands per product and has fewer products per barrier. The best score wins; among
//! equal scores, the larger tile wins. If tiles fill the output, the winner is the largest tile
//! with a high wave efficiency.

use super::launch::checked_count;
use super::packing::adapter_blocks;
use super::raster::Grid;
use super::{Access, DeviceProps, Launch, Operation, Schedule, Variant, arch};
use crate::{DType, Problem, Result, Role};

/// A product with an output (`rows`, Σ `columns`), where `columns` has the width of each
/// projection. Each element is a sum over `depth` products.
pub(super) struct Product {
    pub operation: Operation,
    pub rows: usize,
    pub columns: Vec<usize>,
    pub depth: usize,
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
        }
    }
}

/// The largest number of blocks that share a tile.
const MAX_SPLITS: u64 = 16;
/// The smallest number of steps in a split.
const MIN_STEPS: u64 = 4;
/// The largest memory for partial sums, in bytes. The gain of splitting is not worth more.
const MAX_SLABS: u64 = 64 << 20;
/// The depth of a product that takes as long as writing and reading a slab: eight bytes per
/// element, divided by the bandwidth of L2 or DRAM, multiplied by half the FLOP/s of the tensor
/// cores. The values are about right for A100, H100 and RTX 4090.
const SLAB_IN_L2: f64 = 384.0;
const SLAB_IN_DRAM: f64 = 768.0;

/// A tile with a number of splits, and its score.
struct Choice {
    variant: Variant,
    schedule: Schedule,
    score: f64,
}

impl Choice {
    /// `None` if the tile doesn't fit the device, or if its slabs take too much memory.
    fn new(product: &Product, variant: Variant, splits: u64, device: &DeviceProps) -> Option<Self> {
        let shared = variant.shared_bytes();
        if shared > device.shared_per_block() {
            return None;
        }
        let resident = u64::from(
            device
                .blocks_by_shared(shared)
                .clamp(1, variant.resident_blocks()),
        );
        let multiprocessors = u64::from(device.multiprocessors());
        let places = resident * multiprocessors;
        let (block_m, block_n) = variant.block();
        let tiles_m = product.rows.div_ceil(block_m) as u64;
        let tiles_n = product
            .columns
            .iter()
            .map(|n| n.div_ceil(block_n) as u64)
            .sum::<u64>();
        let tiles = tiles_m * tiles_n;
        let items = tiles * splits;
        // If a multiprocessor holds one block, use the fewest blocks that need no more turns than a
        // full device: fewer concurrent blocks share more of their operands in L2. If it holds
        // several, fewer blocks would be distributed unevenly.
        let blocks = match resident {
            1 => items.div_ceil(items.div_ceil(places)),
            _ => items.min(places),
        };
        let schedule = Schedule {
            tile: variant.tile,
            tiles_m: u32::try_from(tiles_m).ok()?,
            tiles_n: u32::try_from(tiles_n).ok()?,
            blocks: blocks as u32,
            splits: splits as u32,
            cluster: 1,
            multiprocessors: device.multiprocessors(),
            group_n: 1,
            serpentine: blocks < items,
        };
        let last = (items % places).div_ceil(multiprocessors);
        let last_time = match last {
            0 => 0.0,
            _ => (last + 1) as f64 * resident as f64 / (resident + 1) as f64,
        };
        let time = (items / places * resident) as f64 + last_time;
        let usage = items as f64 / multiprocessors as f64 / time;
        let inside = product.rows as f64 * product.columns.iter().map(|&n| n as f64).sum::<f64>();
        let fill = inside / (tiles as f64 * (block_m * block_n) as f64);
        let slab_bytes = items.saturating_mul((block_m * block_n * size_of::<f32>()) as u64);
        if splits > 1 && slab_bytes > MAX_SLABS {
            return None;
        }
        let slab = match splits {
            1 => 0.0,
            _ if slab_bytes <= device.l2_bytes() / 2 => SLAB_IN_L2,
            _ => SLAB_IN_DRAM,
        };
        let depth = product.depth as f64;
        Some(Self {
            variant,
            schedule,
            score: usage * fill * depth / (depth + slab * splits as f64) * variant.quality(),
        })
    }
}

/// The best choice for each tile that fits the device, sorted by descending score.
fn choices(product: &Product, access: Access, dtype: DType, device: &DeviceProps) -> Vec<Choice> {
    let mut choices: Vec<Choice> = Vec::new();
    for variant in arch::gemm(device, product.operation, dtype, access) {
        let splits = 1..=most_splits(product.depth, variant);
        let of_splits = splits.filter_map(|splits| Choice::new(product, variant, splits, device));
        // Among equal scores, the first has the fewest splits.
        choices.extend(of_splits.reduce(|best, other| {
            if other.score > best.score {
                other
            } else {
                best
            }
        }));
    }
    // The sort is stable, so among equal scores the larger tile comes first.
    choices.sort_by(|a, b| b.score.total_cmp(&a.score));
    choices
}

/// The most splits of a sum over this depth by steps of a tile.
fn most_splits(depth: usize, variant: Variant) -> u64 {
    let steps = depth.div_ceil(variant.tile.depth) as u64;
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
    let of = |splits| Choice::new(product, variant, splits, device);
    let mut all = [const { None }; MAX_SPLITS as usize];
    for (slot, splits) in all.iter_mut().zip(1..=most_splits(product.depth, variant)) {
        *slot = of(splits);
    }
    let scores = all.iter().flatten().map(|choice| choice.score);
    let best = scores.fold(0.0, f64::max);
    all.into_iter()
        .flatten()
        .filter(move |choice| choice.score >= best * (1.0 - 1e-9) && choice.schedule.splits > 1)
        .map(|choice| choice.schedule)
}

/// The width of the raster's bands.
fn group(product: &Product, choice: &Choice, dtype: DType, device: &DeviceProps) -> u32 {
    let (block_m, block_n) = choice.variant.block();
    let bytes = |extent: usize| extent as f64 * product.depth as f64 * dtype.size() as f64;
    let schedule = &choice.schedule;
    let grid = Grid {
        tiles_m: schedule.tiles_m.into(),
        tiles_n: schedule.tiles_n.into(),
        turn: schedule.blocks.div_ceil(schedule.splits).into(),
        row_bytes: bytes(block_m),
        column_bytes: bytes(block_n),
        l2_bytes: device.l2_bytes() as f64,
    };
    // The width is at most tiles_n, which fits u32.
    grid.group() as u32
}

/// The forward's GEMM.
pub(super) fn launch(
    product: &Product,
    access: (Access, String),
    problem: &Problem,
    device: &DeviceProps,
) -> Result<Launch> {
    launch_with(product, access, problem, device, |_| (0, String::new()))
}

/// The backward's GEMM, and the number of further blocks that sum dA, for each adapted projection.
pub(super) fn launch_and_reduce(
    product: &Product,
    access: (Access, String),
    problem: &Problem,
    device: &DeviceProps,
) -> Result<(Launch, Vec<u32>)> {
    let mut reduce = Vec::new();
    let launch = launch_with(product, access, problem, device, |variant| {
        reduce = adapter_blocks(problem, Role::DLoraA, variant.threads(), device);
        let blocks = reduce.iter().sum();
        (blocks, format!("; {blocks} blocks sum d_lora_A"))
    })?;
    Ok((launch, reduce))
}

/// The smallest tile of those that need the least shared memory, which fits every device that runs
/// the kernels.
pub(super) fn smallest(
    operation: Operation,
    dtype: DType,
    access: Access,
    device: &DeviceProps,
) -> Result<Variant> {
    arch::gemm(device, operation, dtype, access)
        .min_by_key(|variant| {
            let (rows, columns) = variant.block();
            (variant.shared_bytes(), rows * columns)
        })
        .ok_or_else(|| arch::not_in_table(operation, dtype, access))
}

/// A launch with additional blocks at the end of the grid for other work. `more` returns their
/// number for a variant.
fn launch_with(
    product: &Product,
    access: (Access, String),
    problem: &Problem,
    device: &DeviceProps,
    more: impl FnOnce(Variant) -> (u32, String),
) -> Result<Launch> {
    let (access, access_reason) = access;
    let choices = choices(product, access, problem.dtype(), device);
    let Some((best, others)) = choices.split_first() else {
        // Not even the smallest tile fits. Making its launch gives the error that says what is
        // missing.
        let variant = smallest(product.operation, problem.dtype(), access, device)?;
        return Launch::new(variant, 1, None, String::new(), problem, device);
    };
    let mut schedule = best.schedule;
    // The kernels count items, and add the size of the grid to them, in 32-bit integers.
    checked_count(schedule.items(), Problem::MAX_DIMENSION as u64, problem)?;
    schedule.group_n = group(product, best, problem.dtype(), device);
    let (more, more_reason) = more(best.variant);
    let others: String = others
        .iter()
        .map(|other| format!(", {} {:.2}", other.schedule.tile, other.score))
        .collect();
    let reason = format!(
        "{schedule}; score {:.2}{others}{more_reason}; {access_reason}",
        best.score,
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
