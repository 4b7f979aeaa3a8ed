//! Running decoded kernels: modules with their variables, launches, faults.

// Loops over lanes index several arrays alike: they stand for one vector operation.
#![allow(clippy::needless_range_loop)]

mod arrive;
mod async_copy;
mod atomic;
mod bits;
mod block;
mod bulk;
mod check;
mod chosen;
mod cluster;
mod cluster_op;
mod compare;
mod convert;
pub mod count;
mod cycle;
mod exact;
mod exchange;
mod fault;
mod float;
mod fp8;
mod half;
mod int;
mod interpret;
mod late;
mod launch;
mod load_store;
mod matrix;
mod mbarrier;
mod meeting;
mod mma;
mod moves;
#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
mod narrow;
mod poll;
mod print;
mod registers;
mod resident;
mod rounding;
mod row;
mod schedule;
mod space;
mod special;
mod spin;
mod supervisor;
mod tensor_core;
mod trap;
mod warp;
mod wgmma;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use self::check::{LINE as RACE_LINE, Line as RaceLine, TAGS as RACE_TAGS};
pub use self::chosen::{Blocks, BlocksError};
use self::count::KernelCounters;
pub use self::fault::{Fault, FaultKind};
use self::launch::{AlignedParams, Grid, Launch};
use self::print::Printed;
pub use self::print::Printer;
use self::registers::Registers;
pub use self::schedule::{Schedule, ScheduleError};
use self::supervisor::Dependents;
pub use self::supervisor::{Neighbour, Supervisor};
use crate::decode::{Constant, Kernel, KernelInfo, Program};
use crate::device::{DeviceModel, Numerics};
use crate::l2::DramModel;
use crate::memory::{AddressMap, DeviceMemory, MemoryError};

/// Bytes of an allocation in which pointers are looked for.
const LARGEST_WITH_POINTERS: u64 = 1 << 20;

/// A program with its module-scope variables in device memory. Dropping it frees them.
pub struct LoadedModule {
    program: Program,
    memory: Arc<DeviceMemory>,
    /// Address of each module variable, 0 for shared ones.
    homes: Vec<u64>,
}

/// Why a module could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A module's variables have no room.
    #[error("no room for module variable {name}: {source}")]
    Memory {
        /// The module's variable.
        name: String,
        /// Why not.
        source: MemoryError,
    },
}

/// What a launch is given.
#[derive(Debug, Clone, Default)]
pub struct LaunchConfig {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Blocks of a cluster along x, y and z; `None` for what the kernel requires, or no clusters.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// The parameter space's bytes, laid out by the offsets in [`KernelInfo::params`].
    pub params: Vec<u8>,
}

/// How a launch is run.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// How `mma.sync` sums its products.
    pub numerics: Numerics,
    /// Threads that run blocks; 0 for one per core.
    pub workers: usize,
    /// The blocks to run.
    pub blocks: Blocks,
    /// Whether to count what each instruction does.
    pub count: bool,
    /// The model through which DRAM traffic is counted; `None` if it is not.
    pub dram: Option<DramModel>,
    /// Whether to look for races, reads of memory that was never written, divergent barriers and
    /// copies in flight.
    pub checks: bool,
    /// In which order blocks and warps have their turns.
    pub schedule: Schedule,
    /// Whether a `cp.async` lands when it is issued, not when it is waited for.
    pub early_copies: bool,
    /// Whether all blocks are resident together (`cuLaunchCooperativeKernel`): only then does a
    /// kernel find a barrier of the whole grid.
    pub cooperative: bool,
    /// Where the `printf` of kernels goes.
    pub printer: Printer,
    /// Who runs other launches beside it. Without one, a launch that can't go on by itself is a
    /// deadlock.
    pub supervisor: Option<Arc<dyn Supervisor>>,
}

impl Default for LaunchOptions {
    fn default() -> Self {
        LaunchOptions {
            numerics: Numerics::F32Fma,
            workers: 0,
            blocks: Blocks::All,
            count: false,
            dram: None,
            checks: true,
            schedule: Schedule::Fair,
            early_copies: false,
            cooperative: false,
            printer: Printer::default(),
            supervisor: None,
        }
    }
}

/// What a launch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchReport {
    /// Blocks that were run.
    pub blocks: u64,
    /// Instructions, one for all lanes of a warp that run it together.
    pub warp_instructions: u64,
    /// Multiplications and additions of `mma` instructions.
    pub mma_flops: u64,
    /// Warps' arrivals at block barriers.
    pub barriers: u64,
    /// `setmaxnreg` executed by part of a warp only, against the PTX ISA; some kernels do it.
    pub partial_setmaxnreg: u64,
    /// `None` unless [`LaunchOptions::count`] asked for them.
    pub counters: Option<Box<KernelCounters>>,
}

impl LoadedModule {
    /// Places the module's variables in `memory`.
    ///
    /// # Errors
    /// [`LoadError`] where they don't fit.
    pub fn load(program: Program, memory: &Arc<DeviceMemory>) -> Result<Self, LoadError> {
        let mut module = LoadedModule {
            program,
            memory: Arc::clone(memory),
            homes: Vec::new(),
        };
        for global in &module.program.globals {
            let Some(global) = global else {
                module.homes.push(0);
                continue;
            };
            let fail = |source| LoadError::Memory {
                name: global.name.clone(),
                source,
            };
            let va = memory
                .alloc_aligned(global.size, global.align)
                .map_err(fail)?;
            module.homes.push(va);
            memory.write(va, &global.init).map_err(fail)?;
            // What has no initial value is zero.
            memory.define_all(va, global.size);
        }
        for (global, &va) in module.program.globals.iter().zip(&module.homes) {
            let Some(global) = global else {
                continue;
            };
            for &(offset, constant) in &global.links {
                let value = match constant {
                    Constant::Bits(bits) => bits,
                    Constant::Variable(index, addend) => {
                        let home = module.homes.get(index).copied().unwrap_or(0);
                        home.wrapping_add(addend.cast_unsigned())
                    }
                    _ => continue,
                };
                let done = memory.write(va + offset, &value.to_le_bytes());
                done.map_err(|source| LoadError::Memory {
                    name: global.name.clone(),
                    source,
                })?;
            }
        }
        Ok(module)
    }

    /// What a launch of `name` needs to know.
    pub fn kernel(&self, name: &str) -> Option<&KernelInfo> {
        self.program.kernels().find(|kernel| kernel.name == name)
    }

    /// Whether a kernel has instructions by which it could wait for another launch.
    pub(crate) fn may_wait(&self, name: &str) -> bool {
        let mut kernels = self.program.kernels.iter();
        kernels.any(|kernel| kernel.info.name == name && kernel.may_wait)
    }

    /// Every kernel of the module.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelInfo> {
        self.program.kernels()
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn module_global(&self, name: &str) -> Option<(u64, u64)> {
        let globals = self.program.globals.iter().zip(&self.homes);
        globals
            .filter_map(|(global, &va)| Some((global.as_ref()?, va)))
            .find(|(global, _)| global.name == name)
            .map(|(global, va)| (va, global.size))
    }

    /// Nobody will know what a launch writes: every byte that it may reach counts as written. That
    /// is what its parameters and the module's variables point to, and what pointers there do.
    fn trust_reachable(&self, map: &AddressMap, params: &[u8]) {
        let mut reached = HashSet::new();
        let mut left: Vec<u64> = self.homes.clone();
        left.extend(
            params
                .windows(8)
                .filter_map(|w| Some(u64::from_le_bytes(*w.first_chunk()?))),
        );
        while let Some(va) = left.pop() {
            let Some(found) = map.find(va).filter(|found| reached.insert(found.base)) else {
                continue;
            };
            found.shadow.trust();
            // Larger ones hold no pointers.
            if found.size <= LARGEST_WITH_POINTERS {
                left.extend(found.words());
            }
        }
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// The first [`Fault`] that a thread ran into.
    pub fn launch(
        &self,
        kernel: &str,
        config: &LaunchConfig,
        device: &DeviceModel,
        options: &LaunchOptions,
    ) -> Result<LaunchReport, Fault> {
        let found = self.program.kernels.iter().find(|k| k.info.name == kernel);
        let refused = |message: String| Fault {
            kind: FaultKind::InvalidLaunch,
            kernel: kernel.to_owned(),
            place: Default::default(),
            file: None,
            block: [0; 3],
            thread: [0; 3],
            message,
            counters: None,
        };
        let found = found.ok_or_else(|| refused("the module has no such kernel".to_owned()))?;
        check(&found.info, config, device).map_err(refused)?;
        let cluster = cluster::shape(&found.info, config, device).map_err(refused)?;
        let described = |counters: KernelCounters| KernelCounters {
            kernel: kernel.to_owned(),
            grid: config.grid,
            block: config.block,
            dynamic_shared: config.dynamic_shared,
            launches: 1,
            blocks: config.grid.iter().map(|&n| u64::from(n)).product(),
            ..counters
        };
        let workspace =
            Workspace::new(found, &self.memory, options.cooperative).map_err(refused)?;
        let map = self.memory.snapshot();
        let checked = options.checks && options.blocks == Blocks::All;
        if !checked {
            self.trust_reachable(&map, &config.params);
        }
        for value in config.params.chunks_exact(8) {
            let address = value
                .iter()
                .rev()
                .fold(0, |all, &byte| all << 8 | u64::from(byte));
            if let Some(found) = map.find(address) {
                found.shadow.note_use();
            }
        }
        if options.blocks == Blocks::None {
            let counters = options
                .count
                .then(|| Box::new(described(KernelCounters::default())));
            return Ok(LaunchReport {
                counters,
                ..LaunchReport::default()
            });
        }
        let shared_bytes = found.dynamic_shared_at + config.dynamic_shared;
        let value = |constant: Constant| match constant {
            Constant::Bits(bits) => bits,
            Constant::Variable(index, offset) => {
                let home = self.homes.get(index).copied().unwrap_or(0);
                home.wrapping_add(offset.cast_unsigned())
            }
            Constant::DynamicShared(offset) => {
                u64::from(found.dynamic_shared_at).wrapping_add(offset.cast_unsigned())
            }
            Constant::ReservedShared(offset) => {
                u64::from(shared_bytes.next_multiple_of(16)) + u64::from(offset)
            }
            Constant::StackStart => u64::from(found.stack_at),
            // The address of the grid's workspace, in halves.
            Constant::Environment(1) => workspace.address >> 32,
            Constant::Environment(2) => workspace.address & u64::from(u32::MAX),
            Constant::Environment(_) => 0,
        };
        let grid_blocks = config.grid.iter().map(|&n| u64::from(n)).product();
        let parallel = options.schedule.is_parallel() && options.workers != 1;
        let mut launch = Launch {
            kernel: found,
            files: &self.program.files,
            grid: Grid {
                grid: config.grid,
                block: config.block,
                cluster,
                is_clustered: config.cluster.or(found.info.req_cluster).is_some(),
                dynamic_shared: config.dynamic_shared,
                shared_bytes,
                multiprocessors: device.multiprocessors.max(1),
                started: Instant::now(),
            },
            params: AlignedParams::new(&config.params),
            start: Registers::new(found, value),
            numerics: options.numerics,
            memory: &self.memory,
            map,
            schedule: options.schedule,
            early_copies: options.early_copies,
            maps: bulk::ChangedMaps::default(),
            places: check::SharedPlaces::default(),
            checks: checked.then(|| {
                let primary = options
                    .supervisor
                    .as_ref()
                    .and_then(|other| other.primary());
                let tag = self.memory.race_tag();
                Arc::new(match primary {
                    Some(Neighbour(primary)) => check::Between::beside(tag, &primary),
                    None => check::Between::new(tag, parallel),
                })
            }),
            chosen: &options.blocks,
            count: options.count,
            dram: options.dram.as_ref(),
            printed: Printed::new(&options.printer),
            supervisor: options.supervisor.as_deref(),
            dependents: Dependents::new(options.blocks.count(grid_blocks)),
        };
        let described =
            |counters: Option<Box<_>>| counters.map(|counters| Box::new(described(*counters)));
        match launch.run(device, options) {
            Ok(report) => Ok(LaunchReport {
                counters: described(report.counters),
                ..report
            }),
            Err(fault) => Err(Fault {
                counters: described(fault.counters).map(|counters| {
                    Box::new(KernelCounters {
                        faulted: 1,
                        ..*counters
                    })
                }),
                ..*fault
            }),
        }
    }
}

/// What a cooperative launch gives a kernel that asks for it: memory for the barrier of the grid.
struct Workspace<'a> {
    memory: &'a DeviceMemory,
    /// 0 if there is none.
    address: u64,
}

/// Its bytes: a counter, of which the runtime's headers use the second word.
const WORKSPACE_BYTES: usize = 64;

impl<'a> Workspace<'a> {
    fn new(kernel: &Kernel, memory: &'a DeviceMemory, wanted: bool) -> Result<Self, String> {
        let mut workspace = Workspace { memory, address: 0 };
        if wanted && kernel.asks_for_workspace() {
            let fail = |error: MemoryError| format!("no room for the grid's barrier: {error}");
            workspace.address = memory.alloc(WORKSPACE_BYTES as u64).map_err(fail)?;
            memory
                .write(workspace.address, &[0; WORKSPACE_BYTES])
                .map_err(fail)?;
        }
        Ok(workspace)
    }
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        if self.address != 0 {
            // It was allocated in `new`, and nobody else knows it.
            let _ = self.memory.free(self.address);
        }
    }
}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        for &va in self.homes.iter().filter(|&&va| va != 0) {
            // It was allocated by `load`; nobody else frees module variables, and if somebody did,
            // nothing is left to do.
            let _ = self.memory.free(va);
        }
    }
}

/// Why a launch is impossible.
fn check(info: &KernelInfo, config: &LaunchConfig, device: &DeviceModel) -> Result<(), String> {
    let product = |shape: [u32; 3]| shape.iter().map(|&n| u64::from(n)).product::<u64>();
    let threads = product(config.block);
    let [bx, by, bz] = config.block;
    if threads == 0 || threads > u64::from(device.max_threads_per_block) || bz > 64 {
        return Err(format!(
            "a block of {bx} x {by} x {bz} threads; 1 to {} are allowed, 64 in z",
            device.max_threads_per_block
        ));
    }
    let [gx, gy, gz] = config.grid;
    if product(config.grid) == 0 || gx > i32::MAX as u32 || gy > 65_535 || gz > 65_535 {
        return Err(format!(
            "a grid of {gx} x {gy} x {gz} blocks; 1 to 2147483647 x 65535 x 65535 are allowed"
        ));
    }
    if info.max_ntid.is_some_and(|most| threads > product(most)) {
        return Err(format!(
            "{threads} threads in a block; the kernel was compiled for at most {:?}",
            info.max_ntid
        ));
    }
    if info.req_ntid.is_some_and(|only| only != config.block) {
        return Err(format!(
            "a block of {:?} threads; the kernel requires {:?}",
            config.block, info.req_ntid
        ));
    }
    let shared = u64::from(info.static_shared) + u64::from(config.dynamic_shared);
    if shared > u64::from(device.max_shared_optin) {
        return Err(format!(
            "{shared} bytes of shared memory; {} are allowed",
            device.max_shared_optin
        ));
    }
    if config.params.len() != info.param_bytes as usize {
        return Err(format!(
            "{} bytes of parameters; the kernel has {}",
            config.params.len(),
            info.param_bytes
        ));
    }
    Ok(())
}
