//! The cost model of a GEMM: the score of a tile with a number of splits, or in clusters.
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
//!
//! On compute capability 9.0, kernels with `wgmma` and with `mma.sync` compete where tensor maps
//! can describe the operands, and [`hopper`] has the costs of both. Clusters are further
//! candidates: their blocks compute tiles one below the other, and each reads a part of the
//! weight's columns for all. So tile rows count in whole clusters. Among equal scores, clusters
//! win: they read less from L2.

use super::gemm::Product;
use super::{Arch, DeviceProps, Schedule, Variant, hopper};

/// The largest memory for partial sums, in bytes. The gain of splitting is not worth more.
pub(super) const MAX_SLABS: u64 = 64 << 20;
/// The depth of a product that takes as long as writing and reading a slab: eight bytes per
/// element, divided by the bandwidth of L2 or DRAM, multiplied by half the FLOP/s of the tensor
/// cores. The values are about right for `mma.sync` on A100, H100 and RTX 4090.
const SLAB_IN_L2: f64 = 384.0;
const SLAB_IN_DRAM: f64 = 768.0;

/// What blocks share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// So many blocks share a tile, each with a part of the depth.
    Tile(u64),
    /// The blocks of a cluster, so many, share the columns of the weight.
    Columns(u64),
}

/// The kernels that a score is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rivals {
    /// Those of the same architecture.
    OneArchitecture,
    /// Those with `wgmma` and those with `mma.sync`, in 16 bits.
    Hopper,
}

/// A tile, what its blocks share, and its score.
pub(super) struct Choice {
    pub variant: Variant,
    pub schedule: Schedule,
    pub score: f64,
}

impl Choice {
    /// `None` if the tile doesn't fit the device, if its slabs take too much memory, or if there is
    /// no second wave for clusters.
    pub fn new(
        product: &Product,
        variant: Variant,
        sharing: Sharing,
        rivals: Rivals,
        device: &DeviceProps,
    ) -> Option<Self> {
        let (splits, cluster) = match sharing {
            Sharing::Tile(splits) => (splits, 1),
            Sharing::Columns(blocks) => (1, blocks),
        };
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
        let places = resident * multiprocessors / cluster * cluster;
        let (block_m, block_n) = variant.block();
        let tiles_m = product.rows.div_ceil(block_m) as u64;
        let tiles_n = product
            .columns
            .iter()
            .map(|n| n.div_ceil(block_n) as u64)
            .sum::<u64>();
        let tiles = tiles_m.next_multiple_of(cluster) * tiles_n;
        let items = tiles * splits;
        if cluster > 1 && (places == 0 || items <= places) {
            return None;
        }
        // If a multiprocessor holds one block, use the fewest blocks that need no more turns than a
        // full device: fewer concurrent blocks share more of their operands in L2. If it holds
        // several, fewer blocks would be distributed unevenly.
        let blocks = match resident {
            1 => items
                .div_ceil(items.div_ceil(places))
                .next_multiple_of(cluster),
            _ => items.min(places),
        };
        let schedule = Schedule {
            tile: variant.tile,
            tiles_m: u32::try_from(tiles_m).ok()?,
            tiles_n: u32::try_from(tiles_n).ok()?,
            blocks: blocks as u32,
            splits: splits as u32,
            cluster: cluster as u32,
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
        let in_l2 = slab_bytes <= device.l2_bytes() / 2;
        let slab = match (splits, variant.arch) {
            (1, _) => 0.0,
            (_, Arch::Sm80) if in_l2 => SLAB_IN_L2,
            (_, Arch::Sm80) => SLAB_IN_DRAM,
            (_, Arch::Sm90a) => hopper::slab(splits, tiles, in_l2, device),
        };
        let quality = match rivals {
            Rivals::OneArchitecture => variant.quality(),
            Rivals::Hopper => hopper::quality(variant, cluster),
        };
        let depth = product.depth as f64;
        Some(Self {
            variant,
            schedule,
            score: usage * fill * depth / (depth + slab * splits as f64) * quality,
        })
    }
}
