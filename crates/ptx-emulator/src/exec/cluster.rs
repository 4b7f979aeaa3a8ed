//! A cluster: blocks that run together and reach each other's shared memory. Its blocks take turns
//! on one worker. A launch without clusters has clusters of one block.

use super::LaunchConfig;
use super::block::{Block, Core, Counts, Stop};
use super::check::PhaseClock;
use super::interpret::Worker;
use super::launch::Launch;
use super::resident::Ended;
use crate::decode::KernelInfo;
use crate::device::DeviceModel;

/// The barrier of a cluster's threads.
#[derive(Default)]
pub(crate) struct ClusterBarrier {
    /// Phases that are complete.
    pub phase: u32,
    /// Threads that have arrived in the current phase.
    pub arrived: u32,
    /// Threads that have not exited.
    pub live: u32,
    /// What is known by those who pass it.
    pub clock: PhaseClock,
}

impl ClusterBarrier {
    pub fn arrive(&mut self, threads: u32) {
        self.arrived += threads;
        self.complete_if_due();
    }

    /// Threads exit, some of which may have arrived in the current phase.
    pub fn exit(&mut self, threads: u32, arrived: u32) {
        self.live -= threads;
        self.arrived -= arrived;
        self.complete_if_due();
    }

    fn complete_if_due(&mut self) {
        if self.arrived > 0 && self.arrived == self.live {
            self.phase = self.phase.wrapping_add(1);
            self.arrived = 0;
            self.clock.turn_over();
        }
    }
}

pub(crate) struct Cluster {
    /// By rank.
    pub blocks: Vec<Block>,
    /// Blocks that have ended; their shared memory stays until the cluster has.
    done: Vec<bool>,
    /// The number of its turn, counted with those of clusters that started before.
    pub turn: u64,
    /// The number of changes of memory that its blocks have seen.
    known: u64,
    /// The number of changes at which it last found that none of its blocks can go on.
    pub looked_in_vain_at: Option<u64>,
    /// The block whose turn comes first.
    first: usize,
    barrier: ClusterBarrier,
}

/// The other blocks of a running block's cluster.
pub(crate) struct Peers<'p> {
    rank: usize,
    before: &'p mut [Block],
    after: &'p mut [Block],
    pub barrier: &'p mut ClusterBarrier,
}

impl Peers<'_> {
    /// The same peers for a shorter time.
    pub fn reborrow(&mut self) -> Peers<'_> {
        Peers {
            rank: self.rank,
            before: &mut *self.before,
            after: &mut *self.after,
            barrier: &mut *self.barrier,
        }
    }

    /// Rank of the running block.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Blocks of the cluster, the running one included.
    pub fn size(&self) -> usize {
        self.before.len() + 1 + self.after.len()
    }

    /// As [`Self::core`], to look at.
    pub fn look(&self, rank: usize) -> Option<&Core> {
        let block = match rank.checked_sub(self.rank + 1) {
            Some(at) => self.after.get(at),
            None => self.before.get(rank),
        };
        block.map(|block| &block.core)
    }

    /// Another block of the cluster; `None` for the running one and for a rank that there is not.
    pub fn core(&mut self, rank: usize) -> Option<&mut Core> {
        let block = match rank.checked_sub(self.rank + 1) {
            Some(at) => self.after.get_mut(at),
            None => self.before.get_mut(rank),
        };
        block.map(|block| &mut block.core)
    }
}

impl Cluster {
    pub fn new(launch: &Launch<'_>) -> Cluster {
        let size = launch.grid.cluster_size() as usize;
        Cluster {
            blocks: (0..size).map(|_| Block::new(launch)).collect(),
            done: vec![false; size],
            turn: 0,
            known: 0,
            looked_in_vain_at: None,
            first: 0,
            barrier: ClusterBarrier::default(),
        }
    }

    /// Puts the cluster's blocks at the kernel's start.
    pub fn begin(&mut self, launch: &Launch<'_>, linear: u64, recycled: bool) {
        for (rank, block) in self.blocks.iter_mut().enumerate() {
            block.begin(launch, linear, rank as u32, recycled);
        }
        self.done.fill(false);
        self.looked_in_vain_at = None;
        self.first = 0;
        self.barrier = ClusterBarrier {
            live: launch.grid.threads() * launch.grid.cluster_size(),
            ..ClusterBarrier::default()
        };
    }

    /// Gives each block that has not ended a turn. `known`: the number of changes of memory that
    /// ended turns have told of. A finding comes with the block's number.
    pub fn run(&mut self, launch: &Launch<'_>, worker: &mut Worker<'_>, known: u64) -> Ended {
        if self.known != known {
            self.known = known;
            self.blocks.iter_mut().for_each(Block::wake);
        }
        let before = self.changes();
        let size = self.blocks.len();
        for step in 0..size {
            let rank = (self.first + step) % size;
            if self.done[rank] {
                continue;
            }
            let (before, rest) = self.blocks.split_at_mut(rank);
            let Some((block, after)) = rest.split_first_mut() else {
                continue;
            };
            if let Some(counting) = &mut worker.counting {
                counting.enter(block.core.linear, std::mem::take(&mut block.trace));
            }
            let mut peers = Peers {
                rank,
                before,
                after,
                barrier: &mut self.barrier,
            };
            let changes = block.core.changes;
            match block.run(launch, worker, &mut peers) {
                Ok(Stop::Yield) => {}
                Ok(Stop::Done) => self.done[rank] = true,
                Err(fault) => return Ended::Fault(block.core.linear, fault),
            }
            let has_changed = block.core.changes != changes;
            if let Some(counting) = &mut worker.counting
                && !self.done[rank]
            {
                block.trace = counting.leave();
            }
            if has_changed {
                // The others may find something now.
                let others = self.blocks.iter_mut().enumerate();
                others
                    .filter(|&(other, _)| other != rank)
                    .for_each(|(_, block)| block.wake());
            }
        }
        if self.done.iter().all(|&done| done) {
            return Ended::Cluster;
        }
        Ended::Turn {
            changed: self.changes() != before,
        }
    }

    fn changes(&self) -> u64 {
        let blocks = self.blocks.iter();
        blocks.fold(0, |sum, block| sum.wrapping_add(block.core.changes))
    }

    /// The blocks that have not ended.
    pub fn running(&self) -> impl Iterator<Item = &Block> {
        let all = self.blocks.iter().zip(&self.done);
        all.filter(|(_, done)| !**done).map(|(block, _)| block)
    }

    /// Whether none of its blocks can go on before something changes.
    pub fn is_idle(&self) -> bool {
        self.running().all(|block| block.is_idle)
    }

    /// What its blocks did.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for block in &self.blocks {
            sum.warp_instructions += block.core.counts.warp_instructions;
            sum.mma_flops += block.core.counts.mma_flops;
            sum.barriers += block.core.counts.barriers;
            sum.partial_setmaxnreg += block.core.counts.partial_setmaxnreg;
            sum.blocks += 1;
        }
        sum
    }
}

/// The most blocks of a cluster; more than eight need the function's attribute for clusters of a
/// size that not every device has.
pub(crate) const MOST_BLOCKS: u32 = 16;

/// The clusters of a launch, or why it is impossible.
pub(super) fn shape(
    info: &KernelInfo,
    config: &LaunchConfig,
    device: &DeviceModel,
) -> Result<[u32; 3], String> {
    let Some(cluster) = config.cluster.or(info.req_cluster) else {
        if info.explicit_cluster {
            return Err(
                "the kernel needs clusters (.explicitcluster); the launch says none".into(),
            );
        }
        return Ok([1; 3]);
    };
    if let Some(required) = info.req_cluster.filter(|&required| required != cluster) {
        return Err(format!(
            "clusters of {cluster:?} blocks; the kernel requires {required:?}"
        ));
    }
    let size = cluster
        .iter()
        .fold(1_u32, |size, &n| size.saturating_mul(n));
    if size == 0 || size > MOST_BLOCKS {
        return Err(format!(
            "clusters of {cluster:?} blocks; 1 to {MOST_BLOCKS} blocks are allowed"
        ));
    }
    if let Some(most) = info.max_cluster_rank.filter(|&most| size > most) {
        return Err(format!(
            "clusters of {cluster:?} blocks; the kernel was compiled for at most {most}"
        ));
    }
    let (major, minor) = device.compute_capability;
    if size > 1 && major < 9 {
        return Err(format!(
            "clusters of {cluster:?} blocks on a device of compute capability {major}.{minor}; 9.0 \
             is needed"
        ));
    }
    let grid = config.grid;
    if (0..3).any(|axis| !grid[axis].is_multiple_of(cluster[axis])) {
        return Err(format!(
            "clusters of {cluster:?} blocks in a grid of {grid:?}; each axis must divide the grid's"
        ));
    }
    Ok(cluster)
}
