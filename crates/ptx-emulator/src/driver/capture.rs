//! Stream capture: the work of one or more streams, recorded in order, and who waits for whom.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::thread::ThreadId;

use super::abi::Out;
use super::code::Code;
use super::state::{Handle, State, current, driver};
use super::stream::{PER_THREAD, is_default};
use super::task::{Graph, Task};
use super::{Outcome, api};

/// For each stream, how many of its pieces of work come before a point.
pub(super) type Clock = BTreeMap<Handle, u64>;

const MODE_GLOBAL: u32 = 0;
const MODE_THREAD_LOCAL: u32 = 1;
const MODE_RELAXED: u32 = 2;

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set for this thread.
    static THREAD_MODE: Cell<u32> = const { Cell::new(MODE_GLOBAL) };
}

pub(super) struct Capture {
    pub context: Handle,
    /// The stream on which it began and must end.
    pub origin: Handle,
    pub invalid: bool,
    nodes: Vec<Recorded>,
    mode: u32,
    thread: ThreadId,
    clocks: BTreeMap<Handle, Clock>,
    /// Places of each stream's nodes.
    lanes: BTreeMap<Handle, Vec<usize>>,
}

struct Recorded {
    task: Task,
    /// Places of the nodes that it waits for.
    after: Vec<usize>,
    /// The point that its stream has come to with it.
    point: Clock,
}

impl Capture {
    fn new(context: Handle, origin: Handle, mode: u32) -> Self {
        Self {
            context,
            origin,
            invalid: false,
            nodes: Vec::new(),
            lanes: BTreeMap::new(),
            mode,
            thread: std::thread::current().id(),
            clocks: BTreeMap::from([(origin, Clock::new())]),
        }
    }

    /// Whether calls that may synchronise implicitly are forbidden to this thread.
    pub fn forbids(&self) -> bool {
        let own = std::thread::current().id() == self.thread;
        match THREAD_MODE.get() {
            MODE_RELAXED => false,
            MODE_THREAD_LOCAL => own && self.mode != MODE_RELAXED,
            _ => self.mode == MODE_GLOBAL || (own && self.mode == MODE_THREAD_LOCAL),
        }
    }

    /// Whether a thread may end it.
    pub fn may_end(&self, thread: ThreadId) -> bool {
        self.mode == MODE_RELAXED || thread == self.thread
    }

    pub fn record(&mut self, stream: Handle, task: Task) {
        let after = self.last_before(stream);
        let clock = self.clocks.entry(stream).or_default();
        *clock.entry(stream).or_default() += 1;
        let point = clock.clone();
        self.lanes.entry(stream).or_default().push(self.nodes.len());
        self.nodes.push(Recorded { task, after, point });
    }

    /// Places of the nodes that the next one of a stream waits for: the last one of each stream
    /// that it knows of, without those that another of these waits for anyway.
    fn last_before(&self, stream: Handle) -> Vec<usize> {
        let known = self.clocks.get(&stream).into_iter().flatten();
        let last = known.filter_map(|(lane, &count)| {
            let place = usize::try_from(count.checked_sub(1)?).ok()?;
            Some((*lane, count, *self.lanes.get(lane)?.get(place)?))
        });
        let last: Vec<(Handle, u64, usize)> = last.collect();
        let is_covered = |&(lane, count, place): &(Handle, u64, usize)| {
            last.iter().any(|&(_, _, other)| {
                let point = self.nodes.get(other).map(|node| &node.point);
                let seen = point.and_then(|point| point.get(&lane));
                other != place && seen.is_some_and(|&seen| seen >= count)
            })
        };
        let needed = last.iter().filter(|node| !is_covered(node));
        needed.map(|&(_, _, place)| place).collect()
    }

    /// The point that a stream has come to.
    pub fn point(&self, stream: Handle) -> Clock {
        self.clocks.get(&stream).cloned().unwrap_or_default()
    }

    /// Makes a stream, old or new to the capture, wait for a point.
    pub fn join(&mut self, stream: Handle, point: &Clock) {
        let clock = self.clocks.entry(stream).or_default();
        for (&other, &count) in point {
            let seen = clock.entry(other).or_default();
            *seen = count.max(*seen);
        }
    }

    /// Whether the origin waits, directly or not, for everything that was recorded.
    pub fn is_joined(&self) -> bool {
        let origin = self.point(self.origin);
        let count = |clock: &Clock, stream| clock.get(stream).copied().unwrap_or(0);
        let mut clocks = self.clocks.iter();
        clocks.all(|(stream, clock)| count(clock, stream) <= count(&origin, stream))
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
        for recorded in &capture.nodes {
            if let Task::Child(child) = recorded.task {
                state.remove_graph(child);
            }
        }
        return Err(if capture.invalid {
            Code::CAPTURE_INVALIDATED
        } else {
            Code::CAPTURE_UNJOINED
        });
    }
    let made = state.handle();
    state.graphs.insert(made, Graph::new(capture.context));
    let mut handles: Vec<Handle> = Vec::with_capacity(capture.nodes.len());
    for Recorded { task, after, .. } in capture.nodes {
        let after: Vec<Handle> = after.iter().map(|&place| handles[place]).collect();
        handles.push(state.add_node(made, task, &after)?);
    }
    graph.set(made)
}

/// `CUstreamCaptureStatus` (none, active, invalidated) and the capture. To ask it of the legacy
/// stream while a blocking one captures is an error, which leaves that capture as it is.
fn capture_status(state: &State, context: Handle, stream: Handle) -> Outcome<(u32, Handle)> {
    if is_default(stream) {
        let is_legacy = stream != PER_THREAD;
        return match state.blocking_capture(context).filter(|_| is_legacy) {
            Some(_) => Err(Code::CAPTURE_IMPLICIT),
            None => Ok((0, 0)),
        };
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
    let (value, capture) = capture_status(&driver.state(), context, stream)?;
    if value == 1 {
        if !only_id {
            return Err(Code::NOT_SUPPORTED);
        }
        id.set_if_wanted(capture as u64);
    }
    status.set(value)
}

api! {
    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        driver()?;
        let new = mode.readable().get(0)?;
        if new > MODE_RELAXED {
            return Err(Code::INVALID_VALUE);
        }
        mode.set(THREAD_MODE.replace(new))
    }

    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) {
        begin_capture(stream, mode)
    }

    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        end_capture(stream, graph)
    }

    fn cuStreamIsCapturing(stream: Handle, status: Out<u32>) {
        let (driver, context) = current()?;
        let found = capture_status(&driver.state(), context, stream)?.0;
        status.set(found)
    }

    // The graph and the dependencies of a capture have no handles before its end.
    fn cuStreamGetCaptureInfo_v2(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>,
        dependencies: Out<usize>, count: Out<usize>,
    ) {
        capture_info(stream, status, id, graph.is_null() && dependencies.is_null() && count.is_null())
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>,
        dependencies: Out<usize>, edges: Out<usize>, count: Out<usize>,
    ) {
        let only_id = graph.is_null() && dependencies.is_null() && edges.is_null() && count.is_null();
        capture_info(stream, status, id, only_id)
    }
}
