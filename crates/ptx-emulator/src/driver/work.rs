//! What a stream can be given to do: run now, or recorded by a capture and run with the graph.

use std::ffi::c_void;
use std::sync::{Arc, OnceLock, PoisonError};

use super::Outcome;
use super::abi::{Host, report};
use super::code::Code;
use super::memory_ops::Operation;
use super::queue;
use super::rows::Rows;
use super::running::{self, Streams, Unwritten};
use super::side::{Prerequisite, Running, Stop};
use super::state::{Driver, Handle, State};
use super::task::Task;
use crate::exec::{Fault, FaultKind, LaunchConfig, LaunchOptions, LoadedModule};
use crate::memory::{DeviceMemory, MemoryError};

/// One piece of work.
#[derive(Clone)]
pub(super) enum Work {
    ToDevice {
        to: u64,
        from: Host,
        bytes: usize,
    },
    ToHost {
        to: Host,
        from: u64,
        bytes: usize,
    },
    OnDevice {
        to: u64,
        from: u64,
        bytes: u64,
    },
    OnHost {
        to: Host,
        from: Host,
        bytes: usize,
    },
    Rows(Box<Rows>),
    Fill(Fill),
    /// Numbers that are written and waited for, in this order.
    Memory(Arc<[Operation]>),
    /// Ends an allocation.
    Free(u64),
    Launch(Arc<Launch>),
    Call {
        function: HostFunction,
        argument: Host,
    },
}

/// Rows of device memory to fill with copies of an element.
#[derive(Clone, Copy)]
pub(super) struct Fill {
    pub to: u64,
    /// The element; of its bytes, the first `element_bytes` count.
    pub element: [u8; 4],
    pub element_bytes: usize,
    /// Elements of a row.
    pub width: u64,
    pub rows: u64,
    /// Bytes from the start of a row to the start of the next.
    pub pitch: u64,
}

impl Fill {
    /// Whether it is one that a program may ask for. The pitch of a single row is not used.
    pub fn check(&self) -> Outcome {
        let each = self.element_bytes as u64;
        let row = self.width.checked_mul(each).ok_or(Code::INVALID_VALUE)?;
        let has_pitch = self.rows > 1;
        let wrong = !self.to.is_multiple_of(each)
            || has_pitch && (self.pitch < row || !self.pitch.is_multiple_of(each));
        if wrong {
            Err(Code::INVALID_VALUE)
        } else {
            Ok(())
        }
    }

    fn run(&self, memory: &DeviceMemory) -> Result<(), MemoryError> {
        let element = self.element.get(..self.element_bytes).unwrap_or_default();
        (0..self.rows).try_for_each(|row| {
            let to = self.to.wrapping_add(row.wrapping_mul(self.pitch));
            memory.fill(to, element, self.width)
        })
    }
}

/// A function of the host program that a stream calls.
pub(super) type HostFunction = unsafe extern "C" fn(*mut c_void);

pub(super) struct Launch {
    pub function: Handle,
    pub loaded: Arc<LoadedModule>,
    pub kernel: Arc<str>,
    pub config: LaunchConfig,
    pub cooperative: bool,
    /// Whether it may start before the launch before it in its stream has ended.
    pub programmatic: bool,
    /// Where each parameter lies in `config.params`, for a program that asks a graph's node.
    pub pointers: OnceLock<Vec<usize>>,
}

/// Gives work to a stream: it is recorded if the stream is capturing, and otherwise done when this
/// returns, unless streams are late.
pub(super) fn submit(driver: &Driver, context: Handle, stream: Handle, work: Work) -> Outcome {
    let task = |_: &mut State| Ok(Some(Task::Work(work.clone())));
    if super::stream::record(driver, context, stream, task)? {
        return Ok(());
    }
    give(driver, context, stream, work)
}

/// Gives work to a stream that is not capturing.
pub(super) fn give(driver: &Driver, context: Handle, stream: Handle, work: Work) -> Outcome {
    if let Work::Memory(operations) = &work
        && operations.len() != 1
    {
        let mut each = operations.iter();
        return each.try_for_each(|&operation| {
            give(driver, context, stream, Work::Memory([operation].into()))
        });
    }
    match running::streams() {
        Streams::Now if work.is_ready(driver) && !queue::is_busy(driver, context, stream) => {
            if let Work::Launch(launch) = &work
                && launch.may_wait()
            {
                return queue::launch(driver, context, stream, launch);
            }
            let done = run(driver, context, &work);
            queue::go_on(driver);
            done
        }
        _ => queue::submit(driver, context, stream, work),
    }
}

/// Frees memory behind what a stream has yet to do: now, if that is nothing.
pub(super) fn free(driver: &Driver, context: Handle, stream: Handle, address: u64) -> Outcome {
    let work = Work::Free(address);
    if queue::is_busy(driver, context, stream) {
        return queue::submit(driver, context, stream, work);
    }
    run(driver, context, &work)
}

impl Work {
    /// Whether it can be done now, as far as it waits for memory.
    pub fn is_ready(&self, driver: &Driver) -> bool {
        match self {
            Work::Memory(operations) => operations.iter().all(|next| next.is_ready(driver)),
            _ => true,
        }
    }
}

/// Does a piece of work now.
pub(super) fn run(driver: &Driver, context: Handle, work: &Work) -> Outcome {
    if let Work::Call { function, argument } = *work {
        // SAFETY: the caller of `cuLaunchHostFunc` gave the function and its argument for exactly
        // this call.
        unsafe { function(std::ptr::with_exposed_provenance_mut(argument.address())) };
        return Ok(());
    }
    let engine = driver.engine.lock().unwrap_or_else(PoisonError::into_inner);
    let memory = &driver.memory;
    let done = match work {
        Work::ToDevice { to, from, bytes } => memory.write(*to, from.bytes(*bytes)?),
        Work::ToHost { to, from, bytes } => {
            let done = to_host(driver, *from, to.bytes_mut(*bytes)?);
            return done.map_err(|code| broken(driver, context, code));
        }
        Work::OnDevice { to, from, bytes } => memory.copy(*to, *from, *bytes),
        Work::OnHost { to, from, bytes } => {
            to.copy_from(*from, *bytes)?;
            Ok(())
        }
        Work::Rows(rows) => {
            return rows
                .run(driver)
                .map_err(|code| broken(driver, context, code));
        }
        Work::Fill(fill) => fill.run(memory),
        Work::Memory(operations) => {
            return operations.iter().try_for_each(|next| next.run(driver));
        }
        Work::Free(address) => return super::memory::free(driver, *address),
        Work::Launch(launch) => {
            let options = super::counters::options(driver, launch.cooperative)?;
            let result = launch.run(driver, &options);
            drop(engine);
            return result.map_err(|fault| fail(driver, context, &fault));
        }
        Work::Call { .. } => Ok(()),
    };
    done.map_err(refused)
}

/// What became of a launch.
pub(super) enum Started<T> {
    Over(Outcome),
    /// It was set aside.
    Aside(T, Stop),
}

/// Starts a launch that may wait for others. `before`: the launches that its `griddepcontrol.wait`
/// waits for.
pub(super) fn start(
    driver: &Driver,
    context: Handle,
    launch: &Arc<Launch>,
    before: Vec<Prerequisite>,
) -> Outcome<Started<Running>> {
    let options = super::counters::options(driver, launch.cooperative)?;
    let lives = super::state::driver()?;
    let engine = driver.engine.lock().unwrap_or_else(PoisonError::into_inner);
    let (running, stop) = Running::start(lives, Arc::clone(launch), options, before);
    drop(engine);
    Ok(match stop {
        Stop::Over(_) => Started::Over(over(driver, context, stop)),
        stop => Started::Aside(running, stop),
    })
}

/// Goes on with a launch that was set aside.
pub(super) fn go_on(driver: &Driver, context: Handle, running: &Running) -> Started<()> {
    let engine = driver.engine.lock().unwrap_or_else(PoisonError::into_inner);
    let stop = running.go_on();
    drop(engine);
    match stop {
        Stop::Over(_) => Started::Over(over(driver, context, stop)),
        stop => Started::Aside((), stop),
    }
}

/// The code of a launch that has ended.
pub(super) fn over(driver: &Driver, context: Handle, stop: Stop) -> Outcome {
    match stop {
        Stop::Over(Some(result)) => result.map_err(|fault| fail(driver, context, &fault)),
        Stop::Over(None) => Err(Code::UNKNOWN),
        _ => Ok(()),
    }
}

impl Launch {
    /// Whether it could wait for another launch, or let one start.
    pub fn may_wait(&self) -> bool {
        self.loaded.may_wait(&self.kernel)
    }

    pub fn run(&self, driver: &Driver, options: &LaunchOptions) -> Result<(), Fault> {
        let result = self
            .loaded
            .launch(&self.kernel, &self.config, &driver.model, options);
        let counters = match &result {
            Ok(done) => &done.counters,
            Err(fault) => &fault.counters,
        };
        if let Some(counters) = counters {
            super::counters::record(counters);
        }
        let done = result?;
        if done.partial_setmaxnreg > 0 {
            report(format_args!(
                "warning: {} executes setmaxnreg by part of a warp; the PTX ISA asks for all threads \
                 of the warpgroup",
                self.kernel
            ));
        }
        if driver.log_launches {
            let LaunchConfig {
                grid,
                block,
                dynamic_shared,
                ..
            } = &self.config;
            let kernel = &self.kernel;
            report(format_args!(
                "{kernel} grid {grid:?} block {block:?} dynamic shared {dynamic_shared}: {} blocks, {} warp instructions, \
                 {} mma flops, {} barriers",
                done.blocks, done.warp_instructions, done.mma_flops, done.barriers
            ));
        }
        Ok(())
    }
}

/// Copies device memory to the host and looks for what nothing has written.
pub(super) fn to_host(driver: &Driver, from: u64, to: &mut [u8]) -> Outcome {
    let rule = running::unwritten();
    if rule == Unwritten::Off {
        return driver.memory.read(from, to).map_err(refused);
    }
    let found = driver.memory.read_marked(from, to).map_err(refused)?;
    let Some(found) = found.filter(|found| rule == Unwritten::Report && found.is_used) else {
        return Ok(());
    };
    report(format_args!(
        "uninitialised: a copy of {} bytes to the host has {} bytes that no copy, fill or kernel has \
         written, the first ones at {:#x}, byte {} of the {} at {:#x} (setting UNWRITTEN: \"fill\" \
         lets them pass as 0xff bytes)",
        to.len(),
        found.bytes,
        found.va,
        found.va - found.base,
        found.size,
        found.base
    ));
    Err(Code::LAUNCH_FAILED)
}

/// After a finding the context is unusable, as after a kernel's fault.
fn broken(driver: &Driver, context: Handle, code: Code) -> Code {
    if code == Code::LAUNCH_FAILED
        && let Some(context) = driver.state().contexts.get_mut(&context)
    {
        context.failed.get_or_insert(code);
    }
    code
}

/// The code of a memory call that failed, with the reason on stderr.
pub(super) fn refused(error: MemoryError) -> Code {
    report(format_args!("{error}"));
    match error {
        MemoryError::OutOfMemory { .. } => Code::OUT_OF_MEMORY,
        MemoryError::Unmapped { .. } | MemoryError::NotAllocated { .. } => Code::INVALID_VALUE,
    }
}

/// A kernel's fault: the report on stderr; the context is unusable from here on, unless nothing
/// ran.
fn fail(driver: &Driver, context: Handle, fault: &Fault) -> Code {
    report(format_args!("{fault}"));
    let code = match fault.kind {
        FaultKind::IllegalAddress => Code::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Code::MISALIGNED_ADDRESS,
        FaultKind::IllegalInstruction => Code::ILLEGAL_INSTRUCTION,
        FaultKind::Assert => Code::ASSERT,
        FaultKind::LaunchFailed => Code::LAUNCH_FAILED,
        FaultKind::InvalidLaunch => return Code::INVALID_VALUE,
    };
    if let Some(context) = driver.state().contexts.get_mut(&context) {
        context.failed = Some(code);
    }
    code
}
