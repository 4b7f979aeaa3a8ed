//! The driver's one global state: the device, and a table for each kind of handle.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::Outcome;
use super::abi::Host;
use super::capture::{Capture, Clock};
use super::code::Code;
use super::library::{Kernel, Library};
use super::queue::{self, Point, Queue};
use super::stream::NON_BLOCKING;
use super::task::{Executable, Graph};
use super::user_object::UserObject;
use crate::device::DeviceModel;
use crate::exec::LoadedModule;
use crate::memory::DeviceMemory;

/// What C sees as a pointer to an opaque structure.
pub(super) type Handle = usize;

/// The handle of the device's primary context. It stays the same when the context is released and
/// retained again.
pub(super) const PRIMARY: Handle = 0x10;

pub(super) struct Driver {
    pub model: DeviceModel,
    /// Whether to print a line for each launch.
    pub log_launches: bool,
    pub memory: Arc<DeviceMemory>,
    /// Held while the device works: one piece of work at a time.
    pub engine: Mutex<()>,
    /// Threads that have called the driver.
    threads: AtomicUsize,
    /// Locked before the state.
    queue: Mutex<Queue>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    next_handle: Handle,
    pub primary_retains: u32,
    pub primary_flags: u32,
    pub contexts: HashMap<Handle, Context>,
    pub modules: HashMap<Handle, Module>,
    pub functions: HashMap<Handle, Function>,
    pub libraries: HashMap<Handle, Library>,
    pub kernels: HashMap<Handle, Kernel>,
    pub streams: HashMap<Handle, Stream>,
    pub events: HashMap<Handle, Event>,
    pub captures: HashMap<Handle, Capture>,
    pub graphs: HashMap<Handle, Graph>,
    pub executables: HashMap<Handle, Arc<Executable>>,
    /// The graph that a node is part of.
    pub nodes: HashMap<Handle, Handle>,
    pub user_objects: HashMap<Handle, UserObject>,
    /// References that a graph holds to a user object.
    pub graph_objects: HashMap<(Handle, Handle), u64>,
    /// Attributes that were set, by the stream and the attribute.
    pub stream_attributes: HashMap<(Handle, u32), [u32; 16]>,
    pub pools: HashMap<Handle, Pool>,
    /// The pool that `cuMemAllocAsync` takes from; made with the device, never destroyed.
    pub default_pool: Handle,
    pub current_pool: Handle,
    /// Device allocations by their address.
    pub allocations: HashMap<u64, Allocation>,
    /// Page-locked host allocations by their address.
    pub host_allocations: HashMap<usize, HostAllocation>,
}

#[derive(Default)]
pub(super) struct Context {
    pub flags: u32,
    /// The code of the fault after which nothing works any more.
    pub failed: Option<Code>,
    pub limits: HashMap<u32, usize>,
    pub cache_config: u32,
}

pub(super) struct Module {
    pub context: Handle,
    /// The library that it is a context's copy of, or 0.
    pub library: Handle,
    pub loaded: Arc<LoadedModule>,
    pub target: u32,
    pub ptx_version: u32,
    /// Functions handed out, so that asking twice gives the same handle.
    pub functions: HashMap<String, Handle>,
}

/// What the attributes of a function say of its clusters.
#[derive(Clone, Copy, Default)]
pub(super) struct ClusterAttributes {
    /// Required size along each axis, 0 where it is not set.
    pub size: [u32; 3],
    /// More than eight blocks are allowed.
    pub non_portable: bool,
    /// `CUclusterSchedulingPolicy`: a hint.
    pub policy: u32,
}

#[derive(Clone)]
pub(super) struct Function {
    pub context: Handle,
    pub module: Handle,
    pub loaded: Arc<LoadedModule>,
    pub name: Arc<str>,
    pub c_name: Arc<std::ffi::CStr>,
    pub target: u32,
    pub ptx_version: u32,
    /// Set by `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    pub max_dynamic_shared: Option<u32>,
    /// What `cuFuncSetAttribute` says of clusters.
    pub clusters: ClusterAttributes,
    pub carveout: i32,
}

#[derive(Clone, Copy)]
pub(super) struct Stream {
    pub context: Handle,
    pub flags: u32,
    pub priority: i32,
    pub capture: Option<Handle>,
}

pub(super) struct Event {
    pub context: Handle,
    pub flags: u32,
    pub recorded: Option<Instant>,
    /// The work that was not done yet when it was recorded.
    pub points: Vec<Point>,
    /// Where in which capture it was last recorded.
    pub captured: Option<(Handle, Clock)>,
}

#[derive(Default)]
pub(super) struct Pool {
    pub release_threshold: u64,
    pub reuse: [i32; 3],
    pub used: u64,
    pub used_high: u64,
}

pub(super) struct Allocation {
    pub context: Handle,
    pub bytes: u64,
    pub pool: Option<Handle>,
}

pub(super) struct HostAllocation {
    pub context: Handle,
    /// The program's own memory, which it has registered.
    pub is_registered: bool,
    pub flags: u32,
    pub layout: std::alloc::Layout,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

thread_local! {
    /// The context stack of this thread; the last one is current.
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    /// Whether this thread is counted among those that have called the driver.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Starts the driver; the first call decides the device.
pub(super) fn initialise(model: DeviceModel, log_launches: bool) {
    DRIVER.get_or_init(|| {
        let mut state = State {
            next_handle: PRIMARY,
            ..State::default()
        };
        let pool = state.handle();
        state.pools.insert(pool, Pool::default());
        state.default_pool = pool;
        state.current_pool = pool;
        Driver {
            memory: Arc::new(DeviceMemory::new(model.memory_bytes)),
            model,
            log_launches,
            engine: Mutex::new(()),
            threads: AtomicUsize::new(0),
            queue: Mutex::default(),
            state: Mutex::new(state),
        }
    });
}

pub(super) fn is_initialised() -> bool {
    DRIVER.get().is_some()
}

/// The driver, once `cuInit` succeeded.
pub(super) fn driver() -> Outcome<&'static Driver> {
    DRIVER.get().ok_or(Code::NOT_INITIALIZED)
}

/// The driver for a call that names a device.
pub(super) fn driver_of(device: i32) -> Outcome<&'static Driver> {
    let driver = driver()?;
    if device == 0 {
        Ok(driver)
    } else {
        Err(Code::INVALID_DEVICE)
    }
}

/// The driver and the current context, which must be alive and free of faults.
pub(super) fn current() -> Outcome<(&'static Driver, Handle)> {
    let driver = driver()?;
    if !COUNTED.replace(true) {
        driver.threads.fetch_add(1, Ordering::Relaxed);
    }
    let context = current_context().ok_or(Code::INVALID_CONTEXT)?;
    driver.state().usable(context)?;
    Ok((driver, context))
}

pub(super) fn current_context() -> Option<Handle> {
    STACK.with_borrow(|stack| stack.last().copied())
}

pub(super) fn with_stack<T>(change: impl FnOnce(&mut Vec<Handle>) -> T) -> T {
    STACK.with_borrow_mut(change)
}

impl Driver {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the device has nothing to do.
    pub fn idle(&self) {
        queue::finish_all(self);
        self.quiet();
    }

    /// Waits until the device does nothing, whatever it still has to do.
    pub fn quiet(&self) {
        drop(self.engine.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether more than one thread of the program has used the driver, so that another may do
    /// what this one waits for.
    pub fn has_other_threads(&self) -> bool {
        self.threads.load(Ordering::Relaxed) > 1
    }

    /// Architecture number: 80 for compute capability 8.0.
    pub fn sm(&self) -> u32 {
        let (major, minor) = self.model.compute_capability;
        major * 10 + minor
    }
}

impl State {
    /// A handle never given before: handles of all kinds differ.
    pub fn handle(&mut self) -> Handle {
        self.next_handle += 0x10;
        self.next_handle
    }

    /// Checks that a context is alive and had no fault.
    pub fn usable(&self, context: Handle) -> Outcome {
        let context = self
            .contexts
            .get(&context)
            .ok_or(Code::CONTEXT_IS_DESTROYED)?;
        context.failed.map_or(Ok(()), Err)
    }

    /// Whether a created stream and the legacy one wait for each other.
    pub fn is_blocking(&self, stream: Handle) -> bool {
        let stream = self.streams.get(&stream);
        stream.is_some_and(|stream| stream.flags & NON_BLOCKING == 0)
    }

    /// Whether host memory is page-locked, so that a copy may go on after its call.
    pub fn is_pinned(&self, host: Host, bytes: usize) -> bool {
        self.host_allocations.iter().any(|(&start, allocation)| {
            let offset = host.address().checked_sub(start);
            offset
                .and_then(|offset| offset.checked_add(bytes))
                .is_some_and(|end| end <= allocation.layout.size())
        })
    }

    /// Whether a stream capture forbids calls that could synchronise implicitly: one begun in
    /// global mode forbids them to all threads, one in thread-local mode to its own, unless the
    /// calling thread set a mode that allows them.
    pub fn unsafe_call(&mut self) -> Outcome {
        for capture in self.captures.values_mut() {
            if capture.forbids() {
                capture.invalid = true;
                return Err(Code::CAPTURE_UNSUPPORTED);
            }
        }
        Ok(())
    }

    /// Drops everything that belongs to a context, the context included.
    pub fn destroy_context(&mut self, context: Handle, memory: &DeviceMemory) {
        super::counters_file::write(true);
        self.contexts.remove(&context);
        self.functions
            .retain(|_, function| function.context != context);
        self.modules.retain(|_, module| module.context != context);
        for library in self.libraries.values_mut() {
            library.modules.remove(&context);
        }
        self.captures
            .retain(|_, capture| capture.context != context);
        self.streams.retain(|_, stream| stream.context != context);
        self.events.retain(|_, event| event.context != context);
        self.graphs.retain(|_, graph| graph.context != context);
        self.executables.retain(|_, graph| graph.context != context);
        let Self { graphs, nodes, .. } = self;
        nodes.retain(|_, graph| graphs.contains_key(graph));
        let addresses: Vec<u64> = self.allocations_of(context);
        for address in addresses {
            self.forget_allocation(address);
            // The table says it is live, so this can't fail.
            let _ = memory.free(address);
        }
        let hosts: Vec<usize> = self
            .host_allocations
            .iter()
            .filter(|(_, a)| a.context == context)
            .map(|(&a, _)| a)
            .collect();
        for host in hosts {
            super::memory::free_host(self, host);
        }
    }

    fn allocations_of(&self, context: Handle) -> Vec<u64> {
        self.allocations
            .iter()
            .filter(|(_, a)| a.context == context)
            .map(|(&address, _)| address)
            .collect()
    }

    /// Takes a device allocation off the books.
    pub fn forget_allocation(&mut self, address: u64) -> Option<Allocation> {
        let allocation = self.allocations.remove(&address)?;
        if let Some(pool) = allocation.pool.and_then(|pool| self.pools.get_mut(&pool)) {
            pool.used = pool.used.saturating_sub(allocation.bytes);
        }
        Some(allocation)
    }
}
