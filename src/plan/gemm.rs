//! Tile, split and order of a GEMM, by a cost model.
//!
//! A device runs `capacity` = multiprocessors x resident blocks at a time. Items (tiles x splits) that are more than that take
//! `waves` = ⌈items / capacity⌉ turns, and
//!
//!     wave efficiency = items / (waves · capacity)               busy places over all
//!     fill            = M · ΣN / (tiles · tile's area)           what of the tiles lies inside the output
//!     split           = depth / (depth + 512 · splits), or 1     what slabs of partial sums cost beside the products
//!     score           = wave efficiency · fill · split · quality
//!
//! `quality` is what a tile's main loop reaches beside the largest one's: it loads more operands per product and has fewer products per
//! barrier. The best score wins, and among equals the larger tile: that is the largest one with a wave efficiency of 95 % and more, where
//! the output fills its tiles.

use super::launch::checked_count;
use super::stream::reduce_blocks;
use super::{Access, DeviceProps, Launch, Operation, Schedule, Tile, Variant};
use crate::{DType, Problem, Result, Tensor};

/// An output of `rows` x Σ `columns` (one width per projection), and the sum over how much each element is.
pub(super) struct Product {
    pub operation: Operation,
    pub rows: usize,
    pub columns: Vec<usize>,
    pub depth: usize,
}

/// A tile of the model.
struct Candidate {
    tile: Tile,
    /// Blocks that the registers of a multiprocessor hold.
    resident: u32,
    /// Of its main loop, beside the largest tile's.
    quality: f64,
}

/// Largest first. The qualities are the tiles' share of mma among the instructions of their main loops, and what they load from L2 per product.
fn candidates(dtype: DType) -> &'static [Candidate] {
    const fn tile(tile: Tile, resident: u32, quality: f64) -> Candidate {
        Candidate {
            tile,
            resident,
            quality,
        }
    }
    const HALF: [Candidate; 3] = [
        tile(Tile::M128N256K64, 1, 1.0),
        tile(Tile::M128N128K32, 2, 0.9),
        tile(Tile::M64N64K64, 3, 0.65),
    ];
    const FLOAT: [Candidate; 2] = [tile(Tile::M128N128K16, 1, 1.0), tile(Tile::M64N64K32, 3, 0.75)];
    match dtype {
        DType::F16 | DType::BF16 => &HALF,
        DType::F32 => &FLOAT,
    }
}

/// The most blocks that share a tile.
const MAX_SPLITS: u64 = 16;
/// A split has at least so many steps of depth.
const MIN_STEPS: u64 = 4;
/// Writing a slab of partial sums and reading it again takes as long as products of this depth.
const SLAB_DEPTH: f64 = 512.0;

/// A tile with the best of its splits.
struct Choice {
    variant: Variant,
    schedule: Schedule,
    score: f64,
}

impl Choice {
    /// `None` where the device has no room for the tile.
    fn new(
        product: &Product,
        variant: Variant,
        candidate: &Candidate,
        splits: u64,
        device: &DeviceProps,
    ) -> Option<Self> {
        let shared = variant.shared_bytes();
        if shared > device.shared_per_block() {
            return None;
        }
        let resident = device.blocks_by_shared(shared).clamp(1, candidate.resident);
        let places = u64::from(resident) * u64::from(device.multiprocessors());
        let (block_m, block_n) = variant.block();
        let tiles_m = product.rows.div_ceil(block_m) as u64;
        let tiles_n = product.columns.iter().map(|n| n.div_ceil(block_n) as u64).sum::<u64>();
        let tiles = tiles_m * tiles_n;
        let items = tiles * splits;
        // Slabs must stay in L2 until the last block of their tile has read them.
        let slab_bytes = items * (block_m * block_n * size_of::<f32>()) as u64;
        if splits > 1 && slab_bytes > device.l2_bytes() / 2 {
            return None;
        }
        // The smallest number of persistent blocks that needs no more turns than the full device: fewer blocks at a time share more of their operands
        // in L2.
        let blocks = items.div_ceil(items.div_ceil(places));
        let schedule = Schedule {
            tile: variant.tile,
            tiles_m: u32::try_from(tiles_m).ok()?,
            tiles_n: u32::try_from(tiles_n).ok()?,
            blocks: blocks as u32,
            splits: splits as u32,
            places: places as u32,
            group_n: band(blocks.div_ceil(splits), tiles_n, block_m, block_n) as u32,
            serpentine: blocks < items,
        };
        let inside = product.rows as f64 * product.columns.iter().map(|&n| n as f64).sum::<f64>();
        let fill = inside / (tiles as f64 * (block_m * block_n) as f64);
        let split = match splits {
            1 => 1.0,
            _ => product.depth as f64 / (product.depth as f64 + SLAB_DEPTH * splits as f64),
        };
        Some(Self {
            variant,
            schedule,
            score: schedule.wave_efficiency() * fill * split * candidate.quality,
        })
    }
}

/// Tile columns of a band such that the tiles of one turn cover a square in bytes: as many rows as columns of the output, so that what they read of
/// both operands is least. Bands are of equal width, but for the last.
fn band(turn: u64, tiles_n: u64, block_m: usize, block_n: usize) -> u64 {
    let square = (turn as f64 * block_m as f64 / block_n as f64).sqrt().round() as u64;
    let bands = tiles_n.div_ceil(square.clamp(1, tiles_n));
    tiles_n.div_ceil(bands)
}

/// The best choice of each tile that the device has room for, best first.
fn choices(product: &Product, access: Access, dtype: DType, device: &DeviceProps) -> Vec<Choice> {
    let mut choices: Vec<Choice> = Vec::new();
    for candidate in candidates(dtype) {
        let variant = Variant {
            operation: product.operation,
            dtype,
            tile: candidate.tile,
            access,
        };
        if variant.index().is_none() {
            continue;
        }
        let steps = product.depth.div_ceil(candidate.tile.depth()) as u64;
        let splits = 1..=MAX_SPLITS.min(steps / MIN_STEPS).max(1);
        let of_splits = splits.filter_map(|splits| Choice::new(product, variant, candidate, splits, device));
        // The first of equals: the fewest splits.
        choices.extend(of_splits.reduce(|best, other| if other.score > best.score { other } else { best }));
    }
    // Stable: the larger of equals first.
    choices.sort_by(|one, other| other.score.total_cmp(&one.score));
    choices
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

/// The backward's GEMM, and the blocks of its grid, by adapted projection, that sum dA instead.
pub(super) fn launch_and_reduce(
    product: &Product,
    access: (Access, String),
    problem: &Problem,
    device: &DeviceProps,
) -> Result<(Launch, Vec<u32>)> {
    let mut reduce = Vec::new();
    let launch = launch_with(product, access, problem, device, |variant| {
        reduce = reduce_blocks(problem, Tensor::DLoraA, variant.threads(), device);
        let blocks = reduce.iter().sum();
        (blocks, format!("; {blocks} blocks sum d_lora_A"))
    })?;
    Ok((launch, reduce))
}

/// The variant that any device which can run the kernels has shared memory for.
pub(super) fn smallest(operation: Operation, dtype: DType, access: Access) -> Variant {
    Variant {
        operation,
        dtype,
        tile: match dtype {
            DType::F32 => Tile::M64N64K32,
            _ => Tile::M64N64K64,
        },
        access,
    }
}

/// A launch whose last blocks, as many as `more` says for a variant, do something else.
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
        // Not even the smallest tile has room: let its launch say what is missing.
        let variant = smallest(product.operation, problem.dtype(), access);
        return Launch::new(variant, (1, 1), None, String::new(), problem, device);
    };
    let schedule = best.schedule;
    // The kernels count items, and add the size of the grid to them, in 32 bits.
    checked_count(schedule.items(), Problem::MAX_DIMENSION as u64, problem)?;
    let (more, more_reason) = more(best.variant);
    let others: String = others
        .iter()
        .map(|other| format!(", {} {:.2}", other.schedule.tile, other.score))
        .collect();
    let reason = format!(
        "{schedule}, {:.1} % of {} places busy; score {:.2}{others}{more_reason}; {access_reason}",
        100.0 * schedule.wave_efficiency(),
        schedule.places,
        best.score,
    );
    let grid = (u64::from(schedule.blocks) + u64::from(more), 1);
    Launch::new(best.variant, grid, Some(schedule), reason, problem, device)
}
