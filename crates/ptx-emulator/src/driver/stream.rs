//! Streams.

use std::ffi::c_void;

use super::abi::{Host, In, Out};
use super::capture::Capture;
use super::code::Code;
use super::queue;
use super::state::{Driver, Event, Handle, State, Stream, current, driver};
use super::task::Task;
use super::work::{self, HostFunction, Work, submit};
use super::{Outcome, api};

pub(super) const LEAST_PRIORITY: i32 = 0;
pub(super) const GREATEST_PRIORITY: i32 = -5;
pub(super) const NON_BLOCKING: u32 = 1;
/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`; handle 0 is the legacy one, too.
const LEGACY: Handle = 1;
pub(super) const PER_THREAD: Handle = 2;

/// The stream that a handle means to the forms of calls whose default stream is the calling
/// thread's own.
pub(super) fn per_thread(stream: Handle) -> Handle {
    if stream == 0 { PER_THREAD } else { stream }
}

pub(super) fn is_default(stream: Handle) -> bool {
    stream == 0 || stream == LEGACY || stream == PER_THREAD
}

impl State {
    /// A created stream, in a context that still works.
    pub fn stream(&self, handle: Handle) -> Outcome<Stream> {
        let stream = self
            .streams
            .get(&handle)
            .copied()
            .ok_or(Code::INVALID_HANDLE)?;
        self.usable(stream.context)?;
        Ok(stream)
    }

    /// Marks a capture as failed.
    pub fn invalidate(&mut self, capture: Handle) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
    }

    /// A capture that a blocking stream of a context is part of.
    pub fn blocking_capture(&self, context: Handle) -> Option<Handle> {
        self.streams.values().find_map(|stream| {
            let blocking = stream.context == context && stream.flags & NON_BLOCKING == 0;
            stream.capture.filter(|_| blocking)
        })
    }

    /// The legacy stream waits for all blocking streams, so it can't be used while one of them
    /// captures.
    fn use_legacy(&mut self, context: Handle) -> Outcome {
        match self.blocking_capture(context) {
            Some(capture) => {
                self.invalidate(capture);
                Err(Code::CAPTURE_IMPLICIT)
            }
            None => Ok(()),
        }
    }
}

/// If the stream is capturing, records what `task` gives and returns true.
pub(super) fn record(
    driver: &Driver,
    context: Handle,
    stream: Handle,
    task: impl FnOnce(&mut State) -> Outcome<Option<Task>>,
) -> Outcome<bool> {
    let mut state = driver.state();
    state.usable(context)?;
    if is_default(stream) {
        if stream != PER_THREAD {
            state.use_legacy(context)?;
        }
        return Ok(false);
    }
    let Some(capture) = state.stream(stream)?.capture else {
        return Ok(false);
    };
    let is_valid = |capture: &Capture| !capture.invalid;
    if !state.captures.get(&capture).is_some_and(is_valid) {
        return Err(Code::CAPTURE_INVALIDATED);
    }
    let task = task(&mut state)?;
    if let Some((capture, task)) = state.captures.get_mut(&capture).zip(task) {
        capture.record(stream, task);
    }
    Ok(true)
}

/// Refuses a call that a capturing stream can't take, and ends the hope of that capture.
pub(super) fn not_capturing(driver: &Driver, context: Handle, stream: Handle) -> Outcome {
    let mut state = driver.state();
    state.usable(context)?;
    if is_default(stream) {
        return if stream == PER_THREAD {
            Ok(())
        } else {
            state.use_legacy(context)
        };
    }
    match state.stream(stream)?.capture {
        None => Ok(()),
        Some(capture) => {
            state.invalidate(capture);
            Err(Code::CAPTURE_UNSUPPORTED)
        }
    }
}

/// The context whose work a stream does.
pub(super) fn context_of(driver: &Driver, current: Handle, stream: Handle) -> Outcome<Handle> {
    if is_default(stream) {
        return Ok(current);
    }
    Ok(driver.state().stream(stream)?.context)
}

fn create(out: Out<Handle>, flags: u32, priority: i32) -> Outcome {
    let (driver, context) = current()?;
    if out.is_null() || flags & !NON_BLOCKING != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let mut state = driver.state();
    let handle = state.handle();
    let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
    state.streams.insert(
        handle,
        Stream {
            context,
            flags,
            priority,
            capture: None,
        },
    );
    out.set(handle)
}

/// `CUstreamCallback`, with the stream and the code of its work.
type Callback = unsafe extern "C" fn(Handle, u32, *mut c_void);

/// What a stream calls for `cuStreamAddCallback`.
struct Called {
    callback: Callback,
    stream: Handle,
    argument: Host,
}

/// Calls a callback with the arguments that it expects.
///
/// # Safety
/// `called` is a [`Called`] in a box of its own, which nobody uses any more.
unsafe extern "C" fn call_back(called: *mut c_void) {
    // SAFETY: by this function's contract.
    let called = unsafe { Box::from_raw(called.cast::<Called>()) };
    let argument = std::ptr::with_exposed_provenance_mut(called.argument.address());
    // SAFETY: the caller of `cuStreamAddCallback` gave the function and its argument for this call.
    unsafe { (called.callback)(called.stream, 0, argument) };
}

fn add_callback(stream: Handle, callback: Callback, argument: Host) -> Outcome {
    let (driver, context) = current()?;
    // Captures take host functions, no callbacks.
    not_capturing(driver, context, stream)?;
    let context = context_of(driver, context, stream)?;
    let called = Box::new(Called {
        callback,
        stream,
        argument,
    });
    let argument = Host::new(Box::into_raw(called).cast());
    work::give(
        driver,
        context,
        stream,
        Work::Call {
            function: call_back,
            argument,
        },
    )
}

/// Attributes of streams: ACCESS_POLICY_WINDOW, SYNCHRONIZATION_POLICY, PRIORITY,
/// MEM_SYNC_DOMAIN_MAP, MEM_SYNC_DOMAIN.
const ATTRIBUTES: [u32; 5] = [1, 3, PRIORITY, 9, 10];
const PRIORITY: u32 = 8;

fn attribute(stream: Handle, attribute: u32) -> Outcome<[u32; 16]> {
    let (driver, context) = current()?;
    context_of(driver, context, stream)?;
    if !ATTRIBUTES.contains(&attribute) {
        return Err(Code::INVALID_VALUE);
    }
    let state = driver.state();
    let mut value = state
        .stream_attributes
        .get(&(stream, attribute))
        .copied()
        .unwrap_or_default();
    if attribute == PRIORITY {
        let priority = state
            .streams
            .get(&stream)
            .map_or(LEAST_PRIORITY, |stream| stream.priority);
        value[0] = priority.cast_unsigned();
    }
    Ok(value)
}

/// All are hints but the priority, which the stream tells when it is asked.
fn set_attribute(stream: Handle, attribute: u32, value: [u32; 16]) -> Outcome {
    let (driver, context) = current()?;
    context_of(driver, context, stream)?;
    if !ATTRIBUTES.contains(&attribute) {
        return Err(Code::INVALID_VALUE);
    }
    let mut state = driver.state();
    if attribute == PRIORITY {
        let priority = value[0].cast_signed();
        if !(GREATEST_PRIORITY..=LEAST_PRIORITY).contains(&priority) {
            return Err(Code::INVALID_VALUE);
        }
        if let Some(stream) = state.streams.get_mut(&stream) {
            stream.priority = priority;
        }
    }
    state.stream_attributes.insert((stream, attribute), value);
    Ok(())
}

/// Makes later work of a stream wait for an event.
pub(super) fn wait(stream: Handle, event: Handle) -> Outcome {
    let (driver, context) = current()?;
    let context = context_of(driver, context, stream)?;
    let points = {
        let state = driver.state();
        let event = state.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        event.points.clone()
    };
    join(driver, stream, event)?;
    if !points.is_empty() {
        queue::wait(driver, context, stream, &points);
    }
    Ok(())
}

/// Makes a stream that waits for a captured event part of the capture, and refuses waits that a
/// capture forbids.
fn join(driver: &Driver, stream: Handle, event: Handle) -> Outcome {
    let mut state = driver.state();
    let own = if is_default(stream) {
        None
    } else {
        state.stream(stream)?.capture
    };
    let captured = match state.events.get(&event).ok_or(Code::INVALID_HANDLE)? {
        Event {
            captured: Some(point),
            ..
        } => Some(point.clone()),
        Event { recorded: None, .. } => return Ok(()),
        _ => None,
    };
    match (captured, own) {
        (None, None) => Ok(()),
        (None, Some(capture)) => {
            state.invalidate(capture);
            Err(Code::CAPTURE_ISOLATION)
        }
        (Some((capture, _)), Some(own)) if capture != own => {
            state.invalidate(capture);
            state.invalidate(own);
            Err(Code::CAPTURE_MERGE)
        }
        (Some((capture, _)), None) if is_default(stream) => {
            state.invalidate(capture);
            Err(Code::CAPTURE_IMPLICIT)
        }
        (Some((handle, point)), _) => {
            state
                .captures
                .get_mut(&handle)
                .ok_or(Code::CAPTURED_EVENT)?
                .join(stream, &point);
            if let Some(stream) = state.streams.get_mut(&stream) {
                stream.capture = Some(handle);
            }
            Ok(())
        }
    }
}

api! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) {
        create(stream, flags, LEAST_PRIORITY)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        create(stream, flags, priority)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        let driver = driver()?;
        let mut state = driver.state();
        let removed = state.streams.remove(&stream).ok_or(Code::INVALID_HANDLE)?;
        state.stream_attributes.retain(|&(owner, _), _| owner != stream);
        if let Some(capture) = removed.capture {
            state.invalidate(capture);
        }
        state.usable(removed.context)
    }

    fn cuStreamSynchronize(stream: Handle) {
        let (driver, context) = current()?;
        not_capturing(driver, context, stream)?;
        let context = context_of(driver, context, stream)?;
        queue::finish_stream(driver, context, stream);
        driver.quiet();
        driver.state().usable(context)
    }

    // Whoever asks again and again waits: the work is done when it is asked for, but for what waits
    // for a number in memory.
    fn cuStreamQuery(stream: Handle) {
        let (driver, context) = current()?;
        not_capturing(driver, context, stream)?;
        let context = context_of(driver, context, stream)?;
        let is_done = queue::try_finish_stream(driver, context, stream);
        driver.state().usable(context)?;
        if is_done { Ok(()) } else { Err(Code::NOT_READY) }
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) {
        if flags != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        wait(stream, event)
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<u32>) {
        let (driver, _) = current()?;
        let value = if is_default(stream) { 0 } else { driver.state().stream(stream)?.flags };
        flags.set(value)
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<i32>) {
        let (driver, _) = current()?;
        let value = if is_default(stream) { LEAST_PRIORITY } else { driver.state().stream(stream)?.priority };
        priority.set(value)
    }

    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        let (driver, current) = current()?;
        context.set(context_of(driver, current, stream)?)
    }

    // There are no green contexts: where one is asked for, it is null.
    fn cuStreamGetCtx_v2(stream: Handle, context: Out<Handle>, green: Out<Handle>) {
        let (driver, current) = current()?;
        let found = context_of(driver, current, stream)?;
        green.set_if_wanted(0);
        context.set(found)
    }

    fn cuStreamGetId(stream: Handle, id: Out<u64>) {
        let (driver, current) = current()?;
        context_of(driver, current, stream)?;
        id.set(stream as u64)
    }

    fn cuStreamGetDevice(stream: Handle, device: Out<i32>) {
        let (driver, current) = current()?;
        context_of(driver, current, stream)?;
        device.set(0)
    }

    fn cuStreamAddCallback(stream: Handle, callback: Option<Callback>, argument: Host, flags: u32) {
        let callback = callback.ok_or(Code::INVALID_VALUE)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        add_callback(stream, callback, argument)
    }

    fn cuStreamGetAttribute(stream: Handle, attribute: u32, value: Out<[u32; 16]>) {
        value.set(self::attribute(stream, attribute)?)
    }

    fn cuStreamSetAttribute(stream: Handle, attribute: u32, value: In<[u32; 16]>) {
        set_attribute(stream, attribute, value.get(0)?)
    }

    fn cuStreamCopyAttributes(to: Handle, from: Handle) {
        for id in ATTRIBUTES {
            set_attribute(to, id, attribute(from, id)?)?;
        }
        Ok(())
    }

    fn cuLaunchHostFunc(stream: Handle, function: Option<HostFunction>, argument: Host) {
        let (driver, context) = current()?;
        let function = function.ok_or(Code::INVALID_VALUE)?;
        submit(driver, context, stream, Work::Call { function, argument })
    }
}
