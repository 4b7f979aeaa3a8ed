//! Memory operations of streams: a stream writes a number, or waits until a number in memory meets
//! a condition.

use std::sync::Arc;

use super::abi::{Host, In, Out, is_device_address, report};
use super::code::Code;
use super::edges::several;
use super::node::set_task;
use super::state::{Driver, Handle, current, driver};
use super::stream::per_thread;
use super::task::Task;
use super::work::{Work, refused, submit};
use super::{Outcome, api};

const AT_LEAST: u32 = 0;
const EQUAL: u32 = 1;
const AND: u32 = 2;
const NOR: u32 = 3;
const FLUSH: u32 = 1 << 30;
const NO_MEMORY_BARRIER: u32 = 1;
/// A batch has fewer operations than this.
const BATCH_END: u32 = 256;

/// `CUstreamBatchMemOpParams`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BatchOperation {
    kind: u32,
    /// The flags of the operations without an address.
    own_flags: u32,
    address: u64,
    value: u64,
    flags: u32,
    padding: u32,
    alias: u64,
    end: u64,
}

/// `CUDA_BATCH_MEM_OP_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BatchParams {
    context: Handle,
    count: u32,
    operations: In<BatchOperation>,
    flags: u32,
}

/// One operation.
#[derive(Clone, Copy)]
pub(super) struct Operation {
    address: u64,
    value: u64,
    is_wide: bool,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Write,
    /// Until the memory meets the condition of this number.
    Wait(u32),
}

impl Operation {
    /// Whether it can be done now: a write always, a wait when its condition holds.
    pub fn is_ready(&self, driver: &Driver) -> bool {
        let What::Wait(condition) = self.what else {
            return true;
        };
        // Memory that is gone is found when the operation is done.
        self.load(driver)
            .is_none_or(|found| self.holds(condition, found))
    }

    fn holds(&self, condition: u32, found: u64) -> bool {
        let Self { value, is_wide, .. } = *self;
        match condition {
            AT_LEAST if is_wide => found.wrapping_sub(value).cast_signed() >= 0,
            AT_LEAST => (found as u32).wrapping_sub(value as u32).cast_signed() >= 0,
            EQUAL => found == value,
            AND => found & value != 0,
            _ if is_wide => !(found | value) != 0,
            _ => !(found as u32 | value as u32) != 0,
        }
    }

    /// Whether only calls and kernels can change the memory.
    pub fn is_on_device(&self) -> bool {
        is_device_address(self.address)
    }

    fn bytes(&self) -> usize {
        if self.is_wide { 8 } else { 4 }
    }

    /// The number in memory; `None` if it is gone.
    fn load(&self, driver: &Driver) -> Option<u64> {
        let mut bytes = [0; 8];
        let place = bytes.get_mut(..self.bytes())?;
        if is_device_address(self.address) {
            driver.memory.read(self.address, place).ok()?;
        } else {
            place.copy_from_slice(self.host().bytes(self.bytes()).ok()?);
        }
        Some(u64::from_le_bytes(bytes))
    }

    fn host(&self) -> Host {
        Host::new(std::ptr::with_exposed_provenance_mut(self.address as usize))
    }

    pub fn run(&self, driver: &Driver) -> Outcome {
        if let What::Wait(_) = self.what {
            return self.load(driver).map(|_| ()).ok_or(Code::ILLEGAL_ADDRESS);
        }
        let bytes = self.value.to_le_bytes();
        let bytes = bytes.get(..self.bytes()).unwrap_or_default();
        if is_device_address(self.address) {
            return driver.memory.write(self.address, bytes).map_err(refused);
        }
        self.host().bytes_mut(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// What it waits for, and what is there, for a report.
    pub fn describe(&self, driver: &Driver) -> String {
        let condition = match self.what {
            What::Write => return "a write".to_owned(),
            What::Wait(AT_LEAST) => "at least",
            What::Wait(EQUAL) => "equal to",
            What::Wait(AND) => "with a bit of",
            What::Wait(_) => "without a bit of its own or of",
        };
        let found = self.load(driver).unwrap_or_default();
        let Self { address, value, .. } = self;
        format!("the number at {address:#x}, which is {found}, to be {condition} {value}")
    }

    fn check(self, driver: &Driver) -> Outcome<Self> {
        let bytes = self.bytes();
        let is_there = if is_device_address(self.address) {
            let range = driver.memory.range(self.address);
            range.is_some_and(|(start, size)| self.address - start + bytes as u64 <= size)
        } else {
            driver.state().is_pinned(self.host(), bytes)
        };
        if !is_there || !self.address.is_multiple_of(bytes as u64) {
            report(format_args!(
                "operation refused: {:#x} is no multiple of {bytes} in device or page-locked memory",
                self.address
            ));
            return Err(Code::INVALID_VALUE);
        }
        Ok(self)
    }
}

fn wait(
    driver: &Driver,
    address: u64,
    value: u64,
    flags: u32,
    is_wide: bool,
) -> Outcome<Operation> {
    if flags & FLUSH != 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    if flags > NOR {
        return Err(Code::INVALID_VALUE);
    }
    let what = What::Wait(flags);
    Operation {
        address,
        value,
        is_wide,
        what,
    }
    .check(driver)
}

/// Only the first version of the calls knows a flag.
fn write(
    driver: &Driver,
    address: u64,
    value: u64,
    (flags, known): (u32, u32),
    is_wide: bool,
) -> Outcome<Operation> {
    if flags & !known != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let what = What::Write;
    Operation {
        address,
        value,
        is_wide,
        what,
    }
    .check(driver)
}

fn enqueue(stream: Handle, operation: impl FnOnce(&Driver) -> Outcome<Operation>) -> Outcome {
    let (driver, context) = current()?;
    let operation = operation(driver)?;
    submit(driver, context, stream, Work::Memory([operation].into()))
}

fn narrow(value: u32) -> u64 {
    u64::from(value)
}

/// Checks all operations of a batch.
fn batch(
    driver: &Driver,
    operations: In<BatchOperation>,
    count: u32,
    known: u32,
) -> Outcome<Arc<[Operation]>> {
    let mut checked = Vec::new();
    if count >= BATCH_END {
        return Err(Code::INVALID_VALUE);
    }
    for index in 0..count as usize {
        let BatchOperation {
            kind,
            own_flags,
            address,
            value,
            flags,
            ..
        } = operations.get(index)?;
        let low = value & 0xffff_ffff;
        checked.push(match kind {
            1 => wait(driver, address, low, flags, false)?,
            2 => write(driver, address, low, (flags, known), false)?,
            3 => return Err(Code::NOT_SUPPORTED), // FLUSH_REMOTE_WRITES
            4 => wait(driver, address, value, flags, true)?,
            5 => write(driver, address, value, (flags, known), true)?,
            // A barrier, of the system (0) or of the device (1): the operations are done in order.
            6 if own_flags <= 1 => continue,
            _ => return Err(Code::INVALID_VALUE),
        });
    }
    Ok(checked.into())
}

fn enqueue_batch(
    stream: Handle,
    operations: In<BatchOperation>,
    count: u32,
    flags: u32,
    known: u32,
) -> Outcome {
    let (driver, context) = current()?;
    if flags != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let operations = batch(driver, operations, count, known)?;
    submit(driver, context, stream, Work::Memory(operations))
}

fn batch_task(driver: &Driver, params: &BatchParams) -> Outcome<Task> {
    if params.flags != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let operations = batch(driver, params.operations, params.count, 0)?;
    Ok(Task::Work(Work::Memory(operations)))
}

/// The operations of the calls' first version, whose writes may go without a barrier.
const FIRST: u32 = NO_MEMORY_BARRIER;
const SECOND: u32 = 0;

/// The forms of the calls: of the first and of the second version, each with the legacy and with
/// the per-thread default stream.
macro_rules! forms {
    ($(($wait32:ident, $wait64:ident, $write32:ident, $write64:ident, $batch:ident, $known:ident, $of:expr);)*) => {
        api! {
            $(
                fn $wait32(stream: Handle, address: u64, value: u32, flags: u32) {
                    enqueue($of(stream), |driver| wait(driver, address, narrow(value), flags, false))
                }

                fn $wait64(stream: Handle, address: u64, value: u64, flags: u32) {
                    enqueue($of(stream), |driver| wait(driver, address, value, flags, true))
                }

                fn $write32(stream: Handle, address: u64, value: u32, flags: u32) {
                    let write = |driver: &Driver| {
                        write(driver, address, narrow(value), (flags, $known), false)
                    };
                    enqueue($of(stream), write)
                }

                fn $write64(stream: Handle, address: u64, value: u64, flags: u32) {
                    let write = |driver: &Driver| write(driver, address, value, (flags, $known), true);
                    enqueue($of(stream), write)
                }

                fn $batch(stream: Handle, count: u32, operations: In<BatchOperation>, flags: u32) {
                    enqueue_batch($of(stream), operations, count, flags, $known)
                }
            )*

            fn cuGraphAddBatchMemOpNode(
                node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<BatchParams>,
            ) {
                let driver = driver()?;
                driver.state().graph(graph)?;
                let after = several(after, count)?;
                if node.is_null() {
                    return Err(Code::INVALID_VALUE);
                }
                let task = batch_task(driver, &params.get(0)?)?;
                let made = driver.state().add_node(graph, task, &after)?;
                node.set(made)
            }

            fn cuGraphBatchMemOpNodeSetParams(node: Handle, params: In<BatchParams>) {
                let driver = driver()?;
                let task = batch_task(driver, &params.get(0)?)?;
                let mut state = driver.state();
                let node = state.node_mut(node)?;
                if node.task.node_type() != task.node_type() {
                    return Err(Code::INVALID_VALUE);
                }
                node.task = task;
                Ok(())
            }

            fn cuGraphExecBatchMemOpNodeSetParams(executable: Handle, node: Handle, params: In<BatchParams>) {
                let (driver, _) = current()?;
                let task = batch_task(driver, &params.get(0)?)?;
                set_task(&mut driver.state(), executable, node, task)
            }
        }
    };
}

fn legacy(stream: Handle) -> Handle {
    stream
}

forms! {
    (cuStreamWaitValue32, cuStreamWaitValue64, cuStreamWriteValue32, cuStreamWriteValue64, cuStreamBatchMemOp, FIRST, legacy);
    (cuStreamWaitValue32_ptsz, cuStreamWaitValue64_ptsz, cuStreamWriteValue32_ptsz, cuStreamWriteValue64_ptsz, cuStreamBatchMemOp_ptsz, FIRST, per_thread);
    (cuStreamWaitValue32_v2, cuStreamWaitValue64_v2, cuStreamWriteValue32_v2, cuStreamWriteValue64_v2, cuStreamBatchMemOp_v2, SECOND, legacy);
    (cuStreamWaitValue32_v2_ptsz, cuStreamWaitValue64_v2_ptsz, cuStreamWriteValue32_v2_ptsz, cuStreamWriteValue64_v2_ptsz, cuStreamBatchMemOp_v2_ptsz, SECOND, per_thread);
}
