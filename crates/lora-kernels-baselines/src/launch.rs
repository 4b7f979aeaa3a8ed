//! One launch of one kernel: how to run it, and what it does.

use ptx_emulator::device::DeviceModel;
use ptx_emulator::l2::{self, Product, Raster, Schedule, Traffic};

use super::Buffer;

/// A kernel's argument.
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

/// A product (m, n) = (m, k) · (k, n) of bf16 matrices by tiles, in bands of eight rows of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiled {
    pub m: u64,
    pub n: u64,
    pub k: u64,
    /// Rows and columns of the output and depth of a step.
    pub tile: (u64, u64, u64),
}

impl Tiled {
    /// Rows of tiles in a band.
    pub const GROUP_M: u64 = 8;

    /// How `blocks` blocks at once go through it.
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

    /// The product alone.
    pub fn product(self) -> Product {
        Product {
            m: self.m,
            n: self.n,
            k: self.k,
            element_bytes: 2,
        }
    }
}

/// Bytes of a tensor that a launch reads or writes, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    pub buffer: Buffer,
    pub read: u64,
    pub written: u64,
}

/// A kernel's launch: a line of blocks.
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
    /// Multiplications and additions on the tensor cores.
    pub mma_flops: u64,
    /// The product that decides the launch's traffic. Its operands and its output are not among
    /// `streams`.
    pub product: Option<Tiled>,
    /// All else that it reads and writes.
    pub streams: Vec<Stream>,
}

impl Launch {
    /// Every buffer that it reads or writes.
    pub fn buffers(&self) -> impl Iterator<Item = Buffer> {
        self.arguments.iter().filter_map(|argument| match argument {
            Argument::Buffer(buffer) => Some(*buffer),
            _ => None,
        })
    }

    /// Blocks that run at once on a device, as far as threads and shared memory decide.
    pub fn resident_blocks(&self, device: &DeviceModel) -> u64 {
        let each = device.blocks_per_multiprocessor(self.threads, self.shared_bytes);
        u64::from(each.max(1)) * u64::from(device.multiprocessors)
    }

    /// Bytes between L2 and DRAM: the product by the emulator's model of an L2 that is empty at
    /// first, everything else once.
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

    /// Bytes if each of its tensors moved once.
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
