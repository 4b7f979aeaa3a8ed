//! A launch: blocks handed out to workers, several in flight on each.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::block::{Counts, Stop};
use super::check::{Between, Shadows};
use super::chosen::Blocks;
use super::cluster::Cluster;
use super::count::{Counting, Dram};
use super::fault::Fault;
use super::interpret::Worker;
use super::print::Printed;
use super::registers::Registers;
use super::space::GlobalView;
use super::watch::Watch;
use super::{LaunchOptions, LaunchReport, Schedule};
use crate::decode::Kernel;
use crate::device::{DeviceModel, Numerics};
use crate::l2::DramModel;
use crate::memory::{AddressMap, DeviceMemory};

/// Memory that the resident blocks of a launch may take, unless one for each multiprocessor needs
/// more.
const RESIDENT_BYTES: u64 = 512 << 20;

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
    pub checks: Option<Between>,
    pub schedule: Schedule,
    pub early_copies: bool,
    pub chosen: &'a Blocks,
    pub count: bool,
    pub dram: Option<&'a DramModel>,
    pub printed: Printed<'a>,
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

/// What the workers tell each other.
struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
    fault: Mutex<Option<(u64, Box<Fault>)>>,
    counts: Mutex<Counts>,
    counting: Mutex<Option<Box<Counting>>>,
    watch: Watch,
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

    /// Blocks that may be in flight at once: as many as the device could hold, but not beyond the
    /// host's means.
    fn resident_blocks(&self, device: &DeviceModel) -> u64 {
        let threads = self.grid.threads();
        let each = device
            .resident_blocks(threads, self.grid.shared_bytes, self.kernel.info.registers)
            .max(1);
        let slots = &self.kernel.slots;
        let warp_bytes = 128 * u64::from(slots[0])
            + 256 * u64::from(slots[1])
            + 32 * u64::from(self.kernel.info.local_bytes);
        let block_bytes =
            u64::from(threads.div_ceil(32)) * warp_bytes + u64::from(self.grid.shared_bytes);
        let multiprocessors = u64::from(device.multiprocessors);
        let affordable = RESIDENT_BYTES / block_bytes.max(1);
        (multiprocessors * u64::from(each))
            .min(affordable)
            .max(multiprocessors)
    }

    pub fn run(
        &self,
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
        let resident = (self.resident_blocks(device) / u64::from(self.grid.cluster_size()))
            .div_ceil(workers as u64)
            .max(1) as usize;
        let shared = Shared {
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            fault: Mutex::new(None),
            counts: Mutex::new(Counts::default()),
            counting: Mutex::new(None),
            watch: Watch::new(workers),
        };
        if workers == 1 {
            self.work(&shared, resident);
        } else {
            rayon::scope(|scope| {
                for _ in 0..workers {
                    scope.spawn(|_| self.work(&shared, resident));
                }
            });
        }
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
        if let Some((_, mut fault)) = shared
            .fault
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            fault.counters = counters;
            return Err(fault);
        }
        Ok(LaunchReport {
            blocks: counts.blocks,
            counters,
            warp_instructions: counts.warp_instructions,
            mma_flops: counts.mma_flops,
            barriers: counts.barriers,
        })
    }

    /// One worker: runs a cluster for its turn; one that is not done then waits while others have
    /// theirs.
    fn work(&self, shared: &Shared, resident: usize) {
        let mut worker = Worker {
            global: GlobalView::new(&self.map, self.memory),
            shadows: self.checks.as_ref().map(|_| Shadows::new(&self.map)),
            counting: self
                .count
                .then(|| Box::new(Counting::new(self.kernel, self.dram.is_some()))),
        };
        let mut waiting: VecDeque<Cluster> = VecDeque::new();
        let mut spare: Option<Cluster> = None;
        let mut counts = Counts::default();
        let clusters = self.chosen.count(self.grid.clusters());
        let mut active = true;
        let mut seen = 0;
        while !shared.stop.load(Ordering::Relaxed) {
            let fresh = if waiting.len() < resident {
                Some(shared.next.fetch_add(1, Ordering::Relaxed)).filter(|&index| index < clusters)
            } else {
                None
            };
            let mut cluster = match fresh {
                Some(index) => {
                    let linear = self.chosen.nth(self.schedule.block(index, clusters));
                    let (mut cluster, recycled) = match spare.take() {
                        Some(cluster) => (cluster, true),
                        None => (Cluster::new(self), false),
                    };
                    cluster.begin(self, linear, recycled);
                    cluster
                }
                None => match waiting.pop_front() {
                    Some(cluster) => cluster,
                    None => break,
                },
            };
            let result = cluster.run(self, &mut worker);
            let idle = matches!(result, Ok(Stop::Yield)) && cluster.idle_turns() > 0;
            let stamp = shared.watch.stamp(idle);
            if stamp != seen {
                // Whoever looked before the change may find something now.
                seen = stamp;
                cluster.wake();
                waiting.iter_mut().for_each(Cluster::wake);
            }
            match result {
                Ok(Stop::Yield) => {
                    waiting.push_back(cluster);
                    let all_started = waiting.len() >= resident
                        || shared.next.load(Ordering::Relaxed) >= clusters;
                    let settled =
                        all_started && waiting.iter().all(|cluster| cluster.idle_turns() > 1);
                    shared.watch.turn(&mut active, settled);
                    if settled && shared.watch.is_stuck() {
                        shared.stop.store(true, Ordering::Relaxed);
                        let mut first = shared.fault.lock().unwrap_or_else(PoisonError::into_inner);
                        if first.is_none() {
                            *first = stuck(self, &waiting);
                        }
                    }
                }
                Ok(Stop::Done) => {
                    shared.watch.turn(&mut active, false);
                    let own = cluster.counts();
                    counts.warp_instructions += own.warp_instructions;
                    counts.mma_flops += own.mma_flops;
                    counts.barriers += own.barriers;
                    counts.blocks += own.blocks;
                    spare = Some(cluster);
                }
                Err((linear, fault)) => {
                    shared.stop.store(true, Ordering::Relaxed);
                    let mut first = shared.fault.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|(other, _)| linear < *other) {
                        *first = Some((linear, fault));
                    }
                }
            }
        }
        shared.watch.leave(active);
        let mut total = shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        total.warp_instructions += counts.warp_instructions;
        total.mma_flops += counts.mma_flops;
        total.barriers += counts.barriers;
        total.blocks += counts.blocks;
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

/// All blocks look again and again at what nobody changes.
fn stuck(launch: &Launch<'_>, clusters: &VecDeque<Cluster>) -> Option<(u64, Box<Fault>)> {
    let blocks = || clusters.iter().flat_map(Cluster::running);
    let first = blocks().min_by_key(|block| block.core.linear)?;
    let waiting = blocks().flat_map(|block| {
        let [x, y, z] = block.core.index;
        let places = block.waiting(launch);
        places
            .into_iter()
            .map(move |place| format!("block ({x}, {y}, {z}) {place}"))
    });
    Some((first.core.linear, first.deadlock(launch, waiting)))
}
