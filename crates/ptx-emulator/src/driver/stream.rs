//! Streams, and beginning and ending a capture on one.

use std::sync::Arc;

use super::abi::{Host, Out};
use super::capture::{Capture, MODE_RELAXED};
use super::code::Code;
use super::state::{Driver, Event, Graph, Handle, State, Stream, current, driver};
use super::work::{HostFunction, Work, submit};
use super::{Outcome, api};

pub(super) const LEAST_PRIORITY: i32 = 0;
pub(super) const GREATEST_PRIORITY: i32 = -5;
const NON_BLOCKING: u32 = 1;
/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`; handle 0 is the legacy one, too.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;

/// The stream that a handle means to the forms of calls whose default stream is the calling
/// thread's own.
pub(super) fn per_thread(stream: Handle) -> Handle {
    if stream == 0 { PER_THREAD } else { stream }
}

fn is_default(stream: Handle) -> bool {
    stream == 0 || stream == LEGACY || stream == PER_THREAD
}

impl State {
    /// A created stream, in a context that still works.
    fn stream(&self, handle: Handle) -> Outcome<Stream> {
        let stream = self
            .streams
            .get(&handle)
            .copied()
            .ok_or(Code::INVALID_HANDLE)?;
        self.usable(stream.context)?;
        Ok(stream)
    }

    /// Marks a capture as failed.
    fn invalidate(&mut self, capture: Handle) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
    }

    /// The legacy stream waits for all blocking streams, so it can't be used while one of them
    /// captures.
    fn use_legacy(&mut self, context: Handle) -> Outcome {
        let capturing = self.streams.values().find_map(|stream| {
            let blocking = stream.context == context && stream.flags & NON_BLOCKING == 0;
            stream.capture.filter(|_| blocking)
        });
        match capturing {
            Some(capture) => {
                self.invalidate(capture);
                Err(Code::CAPTURE_IMPLICIT)
            }
            None => Ok(()),
        }
    }
}

/// If the stream is capturing, records the work and returns true.
pub(super) fn record(
    driver: &Driver,
    context: Handle,
    stream: Handle,
    work: &[Work],
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
    let capture = state
        .captures
        .get_mut(&capture)
        .filter(|capture| !capture.invalid);
    capture
        .ok_or(Code::CAPTURE_INVALIDATED)?
        .record(stream, work);
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

/// Makes later work of a stream wait for an event. Outside of captures everything recorded is
/// already done.
fn wait(stream: Handle, event: Handle) -> Outcome {
    let (driver, _) = current()?;
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

fn begin_capture(handle: Handle, mode: u32) -> Outcome {
    let (driver, _) = current()?;
    if mode > MODE_RELAXED {
        return Err(Code::INVALID_VALUE);
    }
    if is_default(handle) {
        return Err(Code::CAPTURE_UNSUPPORTED);
    }
    let mut state = driver.state();
    let stream = state.stream(handle)?;
    if stream.capture.is_some() {
        return Err(Code::ILLEGAL_STATE);
    }
    let capture = state.handle();
    state
        .captures
        .insert(capture, Capture::new(stream.context, handle, mode));
    if let Some(stream) = state.streams.get_mut(&handle) {
        stream.capture = Some(capture);
    }
    Ok(())
}

fn end_capture(handle: Handle, graph: Out<Handle>) -> Outcome {
    let (driver, _) = current()?;
    let mut state = driver.state();
    let key = state.stream(handle)?.capture.ok_or(Code::ILLEGAL_STATE)?;
    let capture = state.captures.get(&key).ok_or(Code::ILLEGAL_STATE)?;
    if capture.origin != handle {
        state.invalidate(key);
        return Err(Code::CAPTURE_UNMATCHED);
    }
    if !capture.may_end(std::thread::current().id()) {
        return Err(Code::CAPTURE_WRONG_THREAD);
    }
    let capture = state.captures.remove(&key).ok_or(Code::ILLEGAL_STATE)?;
    for stream in state
        .streams
        .values_mut()
        .filter(|stream| stream.capture == Some(key))
    {
        stream.capture = None;
    }
    if capture.invalid || !capture.is_joined() {
        graph.set_if_wanted(0);
        return Err(if capture.invalid {
            Code::CAPTURE_INVALIDATED
        } else {
            Code::CAPTURE_UNJOINED
        });
    }
    let made = state.handle();
    let nodes: Arc<[Handle]> = capture.work.iter().map(|_| state.handle()).collect();
    state.nodes.extend(nodes.iter().map(|&node| (node, made)));
    let whole = Graph {
        context: capture.context,
        work: Arc::new(capture.work),
        nodes,
    };
    state.graphs.insert(made, whole);
    graph.set(made)
}

/// `CUstreamCaptureStatus` (none, active, invalidated) and the capture.
fn capture_status(state: &mut State, context: Handle, stream: Handle) -> Outcome<(u32, Handle)> {
    if is_default(stream) {
        if stream != PER_THREAD {
            state.use_legacy(context)?;
        }
        return Ok((0, 0));
    }
    Ok(match state.stream(stream)?.capture {
        None => (0, 0),
        Some(capture) => match state.captures.get(&capture) {
            Some(found) if !found.invalid => (1, capture),
            _ => (2, capture),
        },
    })
}

fn capture_info(stream: Handle, status: Out<u32>, id: Out<u64>, only_id: bool) -> Outcome {
    let (driver, context) = current()?;
    if status.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let (value, capture) = capture_status(&mut driver.state(), context, stream)?;
    if value == 1 {
        if !only_id {
            return Err(Code::NOT_SUPPORTED);
        }
        id.set_if_wanted(capture as u64);
    }
    status.set(value)
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
        driver.idle();
        let context = context_of(driver, context, stream)?;
        driver.state().usable(context)
    }

    fn cuStreamQuery(stream: Handle) {
        let (driver, context) = current()?;
        not_capturing(driver, context, stream)
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

    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) {
        begin_capture(stream, mode)
    }

    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        end_capture(stream, graph)
    }

    fn cuStreamIsCapturing(stream: Handle, status: Out<u32>) {
        let (driver, context) = current()?;
        let mut state = driver.state();
        status.set(capture_status(&mut state, context, stream)?.0)
    }

    // The graph and the dependencies of a capture have no handles before its end.
    fn cuStreamGetCaptureInfo_v2(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<usize>, count: Out<usize>,
    ) {
        capture_info(stream, status, id, graph.is_null() && dependencies.is_null() && count.is_null())
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<usize>, edges: Out<usize>, count: Out<usize>,
    ) {
        let only_id = graph.is_null() && dependencies.is_null() && edges.is_null() && count.is_null();
        capture_info(stream, status, id, only_id)
    }
}
