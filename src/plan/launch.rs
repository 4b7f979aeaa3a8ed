//! One kernel launch of a plan.

use std::fmt;

use super::{DeviceProps, Tile, Variant};
use crate::{Error, Result};

/// One kernel launch of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// The kernel.
    pub variant: Variant,
    /// Blocks of the grid.
    pub blocks: u32,
    /// Threads per block.
    pub threads: u32,
    /// Dynamic shared memory per block, bytes.
    pub shared_bytes: u32,
    /// Blocks of a cluster, which run at the same time and share their shared memory; 1 is none.
    pub cluster: u32,
    /// Whether the kernel may start before the one before it on the stream has ended, and waits
    /// for that one's results itself.
    pub programmatic: bool,
    /// How the blocks of a GEMM go through its output.
    pub schedule: Option<Schedule>,
    /// Why this variant, grid and schedule.
    pub reason: String,
    /// Of the variant among [`Variant::all`].
    pub(crate) index: usize,
}

/// How the persistent blocks of a GEMM go through the tiles of its output: block b takes items b,
/// b + blocks, ... of tiles x splits.
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
    /// Of the device.
    pub multiprocessors: u32,
    /// Tile columns of a band: tiles are taken along the columns of a band first, then down its
    /// rows, band after band.
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

    /// Items of the mean multiprocessor, over those of the busiest.
    pub fn wave_efficiency(&self) -> f64 {
        let multiprocessors = u64::from(self.multiprocessors);
        self.items() as f64 / (self.items().div_ceil(multiprocessors) * multiprocessors) as f64
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
        let efficiency = 100.0 * self.wave_efficiency();
        write!(
            f,
            ", waves {efficiency:.1} % of {} multiprocessors",
            self.multiprocessors
        )
    }
}

/// What a launch asks for beside its grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaunchAttribute {
    /// Clusters of so many blocks, along the grid.
    Cluster {
        /// Blocks of a cluster.
        blocks: u32,
    },
    /// Programmatic dependent launch: see [`Launch::programmatic`].
    Programmatic,
}

impl LaunchAttribute {
    /// As many as a launch can have.
    pub const MOST: usize = 2;
}

impl Launch {
    /// The attributes of the launch; none for clusters of one block that wait for the launch before.
    pub fn attributes(&self) -> impl Iterator<Item = LaunchAttribute> + use<> {
        let cluster = (self.cluster > 1).then_some(LaunchAttribute::Cluster {
            blocks: self.cluster,
        });
        let programmatic = self.programmatic.then_some(LaunchAttribute::Programmatic);
        cluster.into_iter().chain(programmatic)
    }

    pub(super) fn new(
        variant: Variant,
        blocks: u64,
        schedule: Option<Schedule>,
        reason: String,
        problem: &dyn fmt::Display,
        device: &DeviceProps,
    ) -> Result<Self> {
        // CUDA C++ Programming Guide, "Compute Capabilities": 2^31 - 1 blocks along x.
        let blocks = checked_count(blocks, i32::MAX as u64, problem)?;
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
            blocks,
            threads: variant.threads(),
            shared_bytes,
            cluster: 1,
            programmatic: false,
            schedule,
            reason,
            index: variant.index(),
        })
    }
}

/// A count of blocks or of a GEMM's items that a launch can have.
pub(super) fn checked_count(blocks: u64, limit: u64, problem: &dyn fmt::Display) -> Result<u32> {
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
            "{}: {} blocks of {} threads, {} B shared: {}",
            self.variant, self.blocks, self.threads, self.shared_bytes, self.reason
        )
    }
}
