//! A launch: blocks handed out to workers, several in flight on each.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::block::Counts;
use super::bulk::ChangedMaps;
use super::check::{Between, Shadows, SharedPlaces};
use super::chosen::Blocks;
use super::cluster::Cluster;
use super::count::{Counting, Dram};
use super::fault::Fault;
use super::interpret::Worker;
use super::print::Printed;
use super::registers::Registers;
use super::resident::{Ended, Next, Pause, Residents};
use super::schedule::Order;
use super::space::GlobalView;
use super::supervisor::{Dependents, Neighbour, Supervisor};
use super::{LaunchOptions, LaunchReport, Schedule};
use crate::decode::Kernel;
use crate::device::{DeviceModel, Numerics};
use crate::l2::DramModel;
use crate::memory::{AddressMap, DeviceMemory};

/// Memory that the registers, local and shared memory of a launch's resident blocks may take.
const RESIDENT_BYTES: u64 = 4 << 30;

/// Registers that one block may have.
const REGISTER_FILE: u32 = 65_536;

/// The shape of a launch and of the machine.
pub(crate) struct Grid {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks of a cluster; each axis divides the grid's.
    pub cluster: [u32; 3],
    /// Whether the launch or the kernel asked for clusters.
    pub is_clustered: bool,
    pub dynamic_shared: u32,
    /// Static and dynamic together.
    pub shared_bytes: u32,
    pub multiprocessors: u32,
    pub started: Instant,
}

impl Grid {
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }

    /// Blocks of a cluster.
    pub fn cluster_size(&self) -> u32 {
        self.cluster.iter().product()
    }

    /// Whether two blocks, by their numbers in the grid, belong to one cluster.
    pub fn in_one_cluster(&self, one: u64, other: u64) -> bool {
        let [gx, gy, _] = self.grid.map(|n| u64::from(n.max(1)));
        let [cx, cy, cz] = self.cluster.map(|n| u64::from(n.max(1)));
        let cluster = |block: u64| [block % gx / cx, block / gx % gy / cy, block / gx / gy / cz];
        cluster(one) == cluster(other)
    }

    pub fn clusters(&self) -> u64 {
        self.blocks() / u64::from(self.cluster_size().max(1))
    }

    /// Where the block `rank` of a cluster is in the grid.
    pub fn place(&self, cluster: u64, rank: u32) -> [u32; 3] {
        let [cx, cy, _] = self.cluster.map(|n| n.max(1));
        let within = [rank % cx, rank / cx % cy, rank / cx / cy];
        let across: [u64; 3] =
            std::array::from_fn(|a| u64::from(self.grid[a] / self.cluster[a].max(1)));
        let [nx, ny, _] = across.map(|n| n.max(1));
        let at = [cluster % nx, cluster / nx % ny, cluster / nx / ny];
        std::array::from_fn(|a| at[a] as u32 * self.cluster[a] + within[a])
    }

    /// The number of a block: x first, then y, then z.
    pub fn linear(&self, [x, y, z]: [u32; 3]) -> u64 {
        let [gx, gy, _] = self.grid.map(u64::from);
        u64::from(x) + gx * (u64::from(y) + gy * u64::from(z))
    }

    pub fn nanoseconds(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }
}

/// What all workers of a launch share.
pub(crate) struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub files: &'a [(u32, String)],
    pub grid: Grid,
    pub params: AlignedParams,
    /// A warp's registers at the start.
    pub start: Registers,
    pub numerics: Numerics,
    pub memory: &'a DeviceMemory,
    pub map: Arc<AddressMap>,
    /// `None` if checks are off.
    pub checks: Option<Arc<Between>>,
    /// Where threads synchronise through global memory.
    pub places: SharedPlaces,
    pub schedule: Schedule,
    pub early_copies: bool,
    pub maps: ChangedMaps,
    pub chosen: &'a Blocks,
    pub count: bool,
    pub dram: Option<&'a DramModel>,
    pub printed: Printed<'a>,
    pub supervisor: Option<&'a dyn Supervisor>,
    pub dependents: Dependents,
}

/// Parameter bytes, aligned for every access.
pub(crate) struct AlignedParams {
    units: Vec<u128>,
    len: usize,
}

impl AlignedParams {
    pub fn new(bytes: &[u8]) -> Self {
        let units = bytes
            .chunks(16)
            .map(|chunk| {
                let mut unit = [0; 16];
                unit[..chunk.len()].copy_from_slice(chunk);
                u128::from_ne_bytes(unit)
            })
            .collect();
        AlignedParams {
            units,
            len: bytes.len(),
        }
    }
}

impl std::ops::Deref for AlignedParams {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the units hold at least `len` initialised bytes, and any bytes are valid u8.
        unsafe { std::slice::from_raw_parts(self.units.as_ptr().cast(), self.len) }
    }
}

/// What the workers of a launch share.
struct Shared {
    residents: Residents,
    counts: Mutex<Counts>,
    counting: Mutex<Option<Box<Counting>>>,
}

impl Launch<'_> {
    /// Bytes of a block's shared memory, with what the system reserves, where the kernel uses it,
    /// behind the kernel's own.
    pub fn shared_with_reserved(&self) -> usize {
        let own = self.grid.shared_bytes as usize;
        match self.kernel.reserved_shared as usize {
            0 => own,
            reserved => own.next_multiple_of(16) + reserved,
        }
    }

    pub fn file(&self, index: u32) -> Option<String> {
        self.files
            .iter()
            .find(|(i, _)| *i == index)
            .map(|(_, path)| path.clone())
    }

    /// Registers of each thread at the start: ptxas' figure, or what a multiprocessor has for each
    /// thread of a block.
    pub fn registers_per_thread(&self) -> u32 {
        match self.kernel.info.registers {
            Some(registers) => registers.next_multiple_of(8),
            None => (REGISTER_FILE / self.grid.threads().next_multiple_of(32)).min(255) / 8 * 8,
        }
    }

    /// Clusters that may be resident at once: as many as the device could hold, but not beyond the
    /// host's means. True if it is less for that reason.
    fn resident_clusters(&self, device: &DeviceModel) -> (u64, bool) {
        let threads = self.grid.threads();
        let registers = self.kernel.info.registers;
        let each = device
            .resident_blocks(threads, self.grid.shared_bytes, registers)
            .max(1);
        let size = u64::from(self.grid.cluster_size().max(1));
        let fit = u64::from(device.multiprocessors) * u64::from(each) / size;
        let slots = &self.kernel.slots;
        let warp_bytes = 128 * u64::from(slots[0])
            + 256 * u64::from(slots[1])
            + 32 * u64::from(self.kernel.info.local_bytes);
        let block_bytes =
            u64::from(threads.div_ceil(32)) * warp_bytes + u64::from(self.grid.shared_bytes);
        let affordable = RESIDENT_BYTES / (block_bytes * size).max(1);
        (fit.min(affordable).max(1), affordable < fit)
    }

    /// The report of a launch none of whose threads can go on. `lowered`: fewer clusters than the
    /// device could hold have started.
    fn stuck(&self, residents: &mut Residents, lowered: bool) -> Option<Box<Fault>> {
        let left = residents.left() * u64::from(self.grid.cluster_size());
        let waiting = residents.waiting();
        let blocks = || waiting.iter().flat_map(Cluster::running);
        let places = blocks().flat_map(|block| {
            let [x, y, z] = block.core.index;
            let places = block.waiting(self);
            places
                .into_iter()
                .map(move |place| format!("block ({x}, {y}, {z}) {place}"))
        });
        let places: Vec<String> = places.collect();
        let note = match (left, lowered) {
            (0, _) => String::new(),
            (_, false) => format!(
                "; {left} blocks have not started: the device can't hold more than {} at once",
                blocks().count()
            ),
            (_, true) => format!(
                "; {left} blocks have not started: the emulator has memory for {} at once, fewer \
                 than the device",
                blocks().count()
            ),
        };
        let first = blocks().min_by_key(|block| block.core.linear)?;
        Some(first.deadlock(self, places, &note))
    }

    pub fn run(
        &mut self,
        device: &DeviceModel,
        options: &LaunchOptions,
    ) -> Result<LaunchReport, Box<Fault>> {
        let clusters = self.chosen.count(self.grid.clusters());
        let cores = if !self.schedule.is_parallel() {
            1
        } else if options.workers == 0 {
            rayon::current_num_threads()
        } else {
            options.workers
        };
        let workers = (cores as u64).clamp(1, clusters.max(1)) as usize;
        let (resident, lowered) = self.resident_clusters(device);
        let mut shared = Shared {
            residents: Residents::new(clusters, resident, Order::new(self.schedule)),
            counts: Mutex::new(Counts::default()),
            counting: Mutex::new(None),
        };
        let fault = loop {
            if workers == 1 {
                self.work(&shared);
            } else {
                let launch = &*self;
                rayon::scope(|scope| {
                    for _ in 0..workers {
                        scope.spawn(|_| launch.work(&shared));
                    }
                });
            }
            match (shared.residents.take_pause(), self.supervisor) {
                (None, _) => break shared.residents.take_fault(),
                (Some(Pause::Dependents), supervisor) => {
                    if let Some(supervisor) = supervisor {
                        supervisor.dependents_may_start(self.checks.clone().map(Neighbour));
                    }
                }
                (Some(Pause::Stuck { changed }), Some(supervisor)) if supervisor.stuck(changed) => {
                }
                (Some(Pause::Stuck { .. }), _) => {
                    break self.stuck(&mut shared.residents, lowered);
                }
            }
            // Memory may have been allocated since.
            self.map = self.memory.snapshot();
            shared.residents.resume();
        };
        let counts = shared
            .counts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let counting = shared
            .counting
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let counters = counting.map(|mut counting| {
            let traces = counting.take_traces();
            let mut counters = counting.finish(self.kernel, |index| self.file(index));
            counters.blocks_run = counts.blocks;
            counters.dram = traces.zip(self.dram).map(|(traces, model)| {
                let traffic =
                    model.replay(&traces, device, self.grid.threads(), self.grid.shared_bytes);
                Dram {
                    launches: 1,
                    read_bytes: traffic.read,
                    write_bytes: traffic.written,
                }
            });
            Box::new(counters)
        });
        if let Some(mut fault) = fault {
            fault.counters = counters;
            return Err(fault);
        }
        Ok(LaunchReport {
            blocks: counts.blocks,
            counters,
            warp_instructions: counts.warp_instructions,
            mma_flops: counts.mma_flops,
            barriers: counts.barriers,
            partial_setmaxnreg: counts.partial_setmaxnreg,
        })
    }

    /// One worker: runs a cluster for its turn; one that is not done then waits while others have
    /// theirs.
    fn work(&self, shared: &Shared) {
        let mut worker = Worker {
            global: GlobalView::new(&self.map, self.memory),
            shadows: self.checks.as_ref().map(|_| Shadows::new(&self.map)),
            counting: self
                .count
                .then(|| Box::new(Counting::new(self.kernel, self.dram.is_some()))),
        };
        let mut counts = Counts::default();
        let clusters = self.chosen.count(self.grid.clusters());
        loop {
            let (next, known) = shared.residents.next();
            let mut cluster = match next {
                Next::Start { index, spare, turn } => {
                    let linear = self.chosen.nth(self.schedule.block(index, clusters));
                    let recycled = spare.is_some();
                    let mut cluster = spare.unwrap_or_else(|| Cluster::new(self));
                    cluster.begin(self, linear, recycled);
                    cluster.turn = turn;
                    cluster
                }
                Next::Resume(cluster) => cluster,
                Next::Over => break,
            };
            let ended = cluster.run(self, &mut worker, known);
            if let Ended::Cluster = ended {
                let own = cluster.counts();
                counts.warp_instructions += own.warp_instructions;
                counts.mma_flops += own.mma_flops;
                counts.barriers += own.barriers;
                counts.blocks += own.blocks;
                counts.partial_setmaxnreg += own.partial_setmaxnreg;
            }
            let pauses = self.supervisor.is_some() && self.dependents.may_start();
            shared.residents.give_back(cluster, known, ended, pauses);
        }
        let mut total = shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        total.warp_instructions += counts.warp_instructions;
        total.mma_flops += counts.mma_flops;
        total.barriers += counts.barriers;
        total.blocks += counts.blocks;
        total.partial_setmaxnreg += counts.partial_setmaxnreg;
        if let Some(own) = worker.counting {
            let mut sum = shared
                .counting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match sum.as_mut() {
                Some(sum) => sum.add(*own),
                None => *sum = Some(own),
            }
        }
    }
}
