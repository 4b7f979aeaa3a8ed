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
    /// The number of blocks in the grid.
    pub blocks: u32,
    /// Threads per block.
    pub threads: u32,
    /// Dynamic shared memory per block, in bytes.
    pub shared_bytes: u32,
    /// The number of blocks in a cluster. They run at the same time and can access each other's
    /// shared memory. 1 means no clusters.
    pub cluster: u32,
    /// Whether the kernel may start before the previous one on the stream has ended. The kernel
    /// then waits for the previous results itself.
    pub programmatic: bool,
    /// The order in which the blocks of a GEMM compute its output.
    pub schedule: Option<Schedule>,
    /// The reason for this variant, grid and schedule.
    pub reason: String,
    /// The index of the variant in [`Variant::all`].
    pub(crate) index: usize,
}

/// The order in which the persistent blocks of a GEMM compute its tiles. There are tiles · splits
/// work items, and block b computes items b, b + blocks, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schedule {
    /// The tile of a block.
    pub tile: Tile,
    /// Tiles along the rows of the output.
    pub tiles_m: u32,
    /// Tiles along the columns of the outputs of all projections.
    pub tiles_n: u32,
    /// Blocks of the grid that compute tiles. Further blocks may sum partial gradients.
    pub blocks: u32,
    /// Blocks that share a tile, each with a part of K.
    pub splits: u32,
    /// Tile rows, one below the other, that the blocks of a cluster compute together. They share
    /// the columns of the weight. 1 means no clusters.
    pub cluster: u32,
    /// The multiprocessors that the plan divides its work over.
    pub multiprocessors: u32,
    /// The number of tile columns in a band. Tiles are computed along the columns of a band first,
    /// then down its rows, band after band.
    pub group_n: u32,
    /// Whether there is more than one turn. Every other turn then walks K backwards.
    pub serpentine: bool,
}

impl Schedule {
    /// The number of tiles.
    pub fn tiles(&self) -> u64 {
        u64::from(self.tiles_m) * u64::from(self.tiles_n)
    }

    /// The number of work items: tiles, or parts of split tiles. Clusters compute whole groups of
    /// tile rows, so some of the last group's may lie outside of the output.
    pub fn items(&self) -> u64 {
        let rows = self.tiles_m.next_multiple_of(self.cluster);
        u64::from(rows) * u64::from(self.tiles_n) * u64::from(self.splits)
    }

    /// The mean number of items per multiprocessor divided by that of the busiest one.
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
        write!(f, " by {} blocks", self.blocks)?;
        if self.cluster > 1 {
            write!(f, " in clusters of {}", self.cluster)?;
        }
        write!(f, ", bands of {}", self.group_n)?;
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

/// An attribute of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaunchAttribute {
    /// The grid is divided into clusters.
    Cluster {
        /// The number of blocks in a cluster.
        blocks: u32,
    },
    /// Programmatic dependent launch: see [`Launch::programmatic`].
    Programmatic,
}

impl LaunchAttribute {
    /// The largest number of attributes that a launch can have.
    pub const MOST: usize = 2;
}

impl Launch {
    /// The attributes of the launch. There are none without clusters and programmatic launch.
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
            cluster: schedule.map_or(1, |schedule| schedule.cluster),
            programmatic: false,
            schedule,
            reason,
            index: variant.index(),
        })
    }
}

/// Checks a number of blocks or of work items against the limit of a launch.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, ForwardPlan, Problem};

    #[test]
    fn a_launch_asks_for_what_it_has() {
        let problem = Problem::new(64, 64, 64, 8, DType::BF16).unwrap();
        let plan = ForwardPlan::new(&problem, &DeviceProps::h100()).unwrap();
        let mut launch = plan.launches()[0].clone();
        assert!(launch.attributes().eq([]));
        launch.cluster = 2;
        let cluster = LaunchAttribute::Cluster { blocks: 2 };
        assert!(launch.attributes().eq([cluster]));
        launch.programmatic = true;
        assert!(
            launch
                .attributes()
                .eq([cluster, LaunchAttribute::Programmatic])
        );
        assert_eq!(launch.attributes().count(), LaunchAttribute::MOST);
    }
}
