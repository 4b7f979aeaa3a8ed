//! Streams.

use super::abi::{Host, Out};
use super::capture::Capture;
use super::code::Code;
use super::queue;
use super::running::{self, Streams};
use super::state::{Driver, Event, Handle, State, Stream, current, driver};
use super::task::Task;
use super::work::{HostFunction, Work, submit};
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
    if running::streams() != Streams::Now {
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

    // Whoever asks again and again waits: the work is done when it is asked for.
    fn cuStreamQuery(stream: Handle) {
        let (driver, context) = current()?;
        not_capturing(driver, context, stream)?;
        let context = context_of(driver, context, stream)?;
        queue::finish_stream(driver, context, stream);
        driver.state().usable(context)
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

    fn cuLaunchHostFunc(stream: Handle, function: Option<HostFunction>, argument: Host) {
        let (driver, context) = current()?;
        let function = function.ok_or(Code::INVALID_VALUE)?;
        submit(driver, context, stream, Work::Call { function, argument })
    }
}
