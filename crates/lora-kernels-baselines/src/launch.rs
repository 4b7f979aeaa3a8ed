//! A launch of a kernel: how to run it, and what it computes and moves.

use ptx_emulator::device::DeviceModel;
use ptx_emulator::l2::{self, Product, Raster, Schedule, Traffic};

use super::Buffer;

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    Buffer(Buffer),
    Null,
    I32(i32),
    I64(i64),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// A product (m, n) = (m, k) · (k, n) of bf16 matrices, computed in tiles. Blocks take the tiles in
/// bands of eight tile rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiled {
    pub m: u64,
    pub n: u64,
    pub k: u64,
    /// (rows, columns) of an output tile, and the depth of a step.
    pub tile: (u64, u64, u64),
}

impl Tiled {
    /// Tile rows in a band.
    pub const GROUP_M: u64 = 8;

    /// The order in which `blocks` concurrent blocks take the tiles.
    pub fn schedule(self, blocks: u64) -> Schedule {
        Schedule {
            tile_m: self.tile.0,
            tile_n: self.tile.1,
            tile_k: self.tile.2,
            blocks,
            raster: Raster::GroupM(Self::GROUP_M),
            serpentine: false,
        }
    }

    /// The product without its tiling.
    pub fn product(self) -> Product {
        Product {
            m: self.m,
            n: self.n,
            k: self.k,
            element_bytes: 2,
        }
    }
}

/// The bytes of a tensor that a launch reads and writes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    pub buffer: Buffer,
    pub read: u64,
    pub written: u64,
}

/// A launch of a kernel on a one-dimensional grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// What it computes, as a formula.
    pub does: &'static str,
    /// The kernel's name in the image.
    pub symbol: String,
    pub grid: u32,
    pub threads: u32,
    pub shared_bytes: u32,
    pub arguments: Vec<Argument>,
    /// Multiplications and additions done by tensor cores.
    pub mma_flops: u64,
    /// The tiled product that dominates the launch's traffic. `streams` doesn't contain its
    /// operands and output.
    pub product: Option<Tiled>,
    /// Everything else that the launch reads and writes.
    pub streams: Vec<Stream>,
}

impl Launch {
    /// Every buffer that the launch reads or writes.
    pub fn buffers(&self) -> impl Iterator<Item = Buffer> {
        self.arguments.iter().filter_map(|argument| match argument {
            Argument::Buffer(buffer) => Some(*buffer),
            _ => None,
        })
    }

    /// The number of blocks that a device runs at once, as limited by threads and shared memory.
    pub fn resident_blocks(&self, device: &DeviceModel) -> u64 {
        let each = device.blocks_per_multiprocessor(self.threads, self.shared_bytes);
        u64::from(each.max(1)) * u64::from(device.multiprocessors)
    }

    /// Bytes moved between L2 and DRAM. The product goes through the emulator's model of an L2 that
    /// is empty at first; everything else is counted once.
    pub fn traffic(&self, device: &DeviceModel) -> Traffic {
        let product = self.product.map_or_else(Traffic::default, |tiled| {
            let schedule = tiled.schedule(self.resident_blocks(device));
            tiled
                .product()
                .traffic(&schedule, l2::usable_bytes(device.l2_bytes))
        });
        self.streams.iter().fold(product, |sum, stream| Traffic {
            read: sum.read + stream.read,
            written: sum.written + stream.written,
        })
    }

    /// Bytes moved if each tensor of the launch moved once.
    pub fn compulsory(&self) -> Traffic {
        let product = self
            .product
            .map_or_else(Traffic::default, |tiled| tiled.product().compulsory());
        self.streams.iter().fold(product, |sum, stream| Traffic {
            read: sum.read + stream.read,
            written: sum.written + stream.written,
        })
    }
}
