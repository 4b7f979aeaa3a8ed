//! Running decoded kernels: modules with their variables, launches, faults.

mod fault;

use std::sync::Arc;

pub use self::fault::{Fault, FaultKind};
use crate::decode::{KernelInfo, Program};
use crate::device::{DeviceModel, Numerics};
use crate::memory::{DeviceMemory, MemoryError};

/// A program with its module-scope variables in device memory. Dropping it frees them.
pub struct LoadedModule {
    program: Program,
    memory: Arc<DeviceMemory>,
}

/// Why a module could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("no room for module variable {name}: {source}")]
    Memory { name: String, source: MemoryError },
}

/// What a launch is given.
#[derive(Debug, Clone, Default)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
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
}

impl Default for LaunchOptions {
    fn default() -> Self {
        LaunchOptions {
            numerics: Numerics::F32Fma,
            workers: 0,
        }
    }
}

/// What a launch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaunchReport {
    pub blocks: u64,
    pub warp_instructions: u64,
    /// Multiplications and additions of `mma` instructions.
    pub mma_flops: u64,
    /// Warps' arrivals at block barriers.
    pub barriers: u64,
}

impl LoadedModule {
    /// Places the module's variables in `memory`.
    ///
    /// # Errors
    /// [`LoadError`] where they don't fit.
    pub fn load(program: Program, memory: &Arc<DeviceMemory>) -> Result<Self, LoadError> {
        Ok(LoadedModule {
            program,
            memory: Arc::clone(memory),
        })
    }

    /// What a launch of `name` needs to know.
    pub fn kernel(&self, name: &str) -> Option<&KernelInfo> {
        self.program.kernels().find(|kernel| kernel.name == name)
    }

    /// Every kernel of the module.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelInfo> {
        self.program.kernels()
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn module_global(&self, name: &str) -> Option<(u64, u64)> {
        let _ = (name, &self.memory);
        None
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
        let _ = (config, device, options);
        Err(Fault {
            kind: FaultKind::InvalidLaunch,
            kernel: kernel.to_owned(),
            place: Default::default(),
            file: None,
            block: [0; 3],
            thread: [0; 3],
            message: "the interpreter is not connected yet".to_owned(),
        })
    }
}
