//! One kernel launch of a plan.

use std::fmt;

use super::{DeviceProps, Tile, Variant};
use crate::{Error, Problem, Result};

/// One kernel launch of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// The kernel.
    pub variant: Variant,
    /// Blocks along x and y.
    pub grid: (u32, u32),
    /// Threads per block.
    pub threads: u32,
    /// Dynamic shared memory per block, bytes.
    pub shared_bytes: u32,
    /// How the blocks of a GEMM go through its output.
    pub schedule: Option<Schedule>,
    /// Why this variant, grid and schedule.
    pub reason: String,
    /// Of the variant among [`Variant::all`].
    pub(crate) index: usize,
}

/// How the persistent blocks of a GEMM go through the tiles of its output: block b takes items b, b + blocks, ... of tiles x splits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schedule {
    /// Rows and columns of a tile, and depth of a step.
    pub tile: Tile,
    /// Tiles along the rows of the output.
    pub tiles_m: u32,
    /// Tiles along the columns of the output, of all projections.
    pub tiles_n: u32,
    /// Blocks of the grid that multiply; others may follow, which sum partial gradients.
    pub blocks: u32,
    /// Blocks that share a tile, each with a part of the depth.
    pub splits: u32,
    /// Blocks that the device is expected to hold at once.
    pub places: u32,
    /// Tile columns of a band: tiles are taken along the columns of a band first, then down its rows, band after band.
    pub group_n: u32,
    /// Whether there is more than one turn, of which every other walks the depth backwards.
    pub serpentine: bool,
}

impl Schedule {
    /// Tiles of the output.
    pub fn tiles(&self) -> u64 {
        u64::from(self.tiles_m) * u64::from(self.tiles_n)
    }

    /// What the blocks take turns at: tiles, or parts of them.
    pub fn items(&self) -> u64 {
        self.tiles() * u64::from(self.splits)
    }

    /// Places of the device that are busy, over all its places in all turns.
    pub fn wave_efficiency(&self) -> f64 {
        let places = u64::from(self.places);
        self.items() as f64 / (self.items().div_ceil(places) * places) as f64
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} tiles", self.tiles_m, self.tiles_n)?;
        if self.splits > 1 {
            write!(f, " in {} splits", self.splits)?;
        }
        write!(f, " by {} blocks, bands of {}", self.blocks, self.group_n)?;
        if self.serpentine {
            f.write_str(", serpentine")?;
        }
        Ok(())
    }
}

impl Launch {
    pub(super) fn new(
        variant: Variant,
        grid: (u64, u64),
        schedule: Option<Schedule>,
        reason: String,
        problem: &Problem,
        device: &DeviceProps,
    ) -> Result<Self> {
        // CUDA C++ Programming Guide, "Compute Capabilities": 2^31 - 1 blocks along x, 65535 along y.
        let grid = (
            checked_count(grid.0, i32::MAX as u64, problem)?,
            checked_count(grid.1, 65535, problem)?,
        );
        let shared_bytes = variant.shared_bytes();
        if shared_bytes > device.shared_per_block() {
            return Err(Error::Device {
                what: "shared memory per block",
                needed: format!("{shared_bytes} bytes by {variant}"),
                available: format!("{} bytes", device.shared_per_block()),
            });
        }
        Ok(Self {
            variant,
            grid,
            threads: variant.threads(),
            shared_bytes,
            schedule,
            reason,
            index: variant.index().unwrap_or(usize::MAX),
        })
    }
}

/// A count of blocks or of a GEMM's items that a launch can have.
pub(super) fn checked_count(blocks: u64, limit: u64, problem: &Problem) -> Result<u32> {
    u32::try_from(blocks)
        .ok()
        .filter(|&blocks| u64::from(blocks) <= limit)
        .ok_or_else(|| Error::Grid {
            problem: problem.to_string(),
            blocks,
            limit,
        })
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} grid {}x{} threads {} shared {} B: {}",
            self.variant, self.grid.0, self.grid.1, self.threads, self.shared_bytes, self.reason
        )
    }
}
