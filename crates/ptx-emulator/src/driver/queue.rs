//! Work that streams have not done yet: because the setting `STREAMS` makes them late, or because it
//! waits for a number in memory ([`Work::Memory`]) and what else is to be done before it.
//!
//! A piece of work is done when the host waits for it, or for something behind it. Memory is freed
//! at once, with all that the order of its stream puts before. So what nothing orders before the
//! free meets memory that is gone, and what nothing orders behind a write reads what was there
//! before: in every run, and not only by chance.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::Outcome;
use super::abi::report;
use super::code::Code;
use super::memory_ops::Operation;
use super::running::{self, Streams};
use super::state::{Driver, Handle};
use super::stream::{self, is_default};
use super::work::{self, Work};

/// How long the host waits for another thread to change what a stream waits for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The number of a piece of work. What a piece waits for has a lower one.
pub(super) type Point = u64;

/// One order of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Line {
    Legacy(Handle),
    /// A context's stream of one thread.
    PerThread(Handle, ThreadId),
    Created(Handle),
}

#[derive(Default)]
pub(super) struct Queue {
    last: Point,
    pending: BTreeMap<Point, Piece>,
    tails: HashMap<Line, Tail>,
}

/// What the next piece of a line waits for.
struct Tail {
    context: Handle,
    /// Whether it and the legacy stream wait for each other.
    blocking: bool,
    points: Vec<Point>,
}

struct Piece {
    context: Handle,
    what: What,
    after: Vec<Point>,
}

enum What {
    Work(Work),
    /// A copy from ordinary host memory, which may change or end after the call.
    Staged {
        to: u64,
        bytes: Vec<u8>,
    },
}

/// A stream as the queue knows it.
#[derive(Clone, Copy)]
struct Place {
    line: Line,
    context: Handle,
    blocking: bool,
}

impl Place {
    fn of(driver: &Driver, context: Handle, stream: Handle) -> Self {
        let line = if !is_default(stream) {
            Line::Created(stream)
        } else if stream == stream::PER_THREAD {
            Line::PerThread(context, std::thread::current().id())
        } else {
            Line::Legacy(context)
        };
        let blocking = is_default(stream) || driver.state().is_blocking(stream);
        Self {
            line,
            context,
            blocking,
        }
    }
}

/// Gives work to a stream, to be done late.
pub(super) fn submit(driver: &Driver, context: Handle, stream: Handle, work: Work) -> Outcome {
    let place = Place::of(driver, context, stream);
    let is_copy = !matches!(
        work,
        Work::Launch(_) | Work::Call { .. } | Work::Memory(_) | Work::Free(_)
    );
    let waits = match &work {
        // A copy into ordinary memory is over when the call returns.
        Work::ToHost { to, bytes, .. } => !driver.state().is_pinned(*to, *bytes),
        Work::OnHost { .. } => true,
        Work::Rows(rows)
            if rows.is_pageable(|host, bytes| driver.state().is_pinned(host, bytes)) =>
        {
            true
        }
        _ => is_copy && running::streams() == Streams::LatestKernels,
    };
    let what = match work {
        Work::ToDevice { to, from, bytes } if !driver.state().is_pinned(from, bytes) => {
            let bytes = from.bytes(bytes)?.to_vec();
            What::Staged { to, bytes }
        }
        work => What::Work(work),
    };
    let point = driver.queue().push(place, what);
    if waits {
        finish(driver, &[point]);
    }
    go_on(driver);
    driver.state().usable(context)
}

/// Whether a stream has work that it has not done, or waits for some.
pub(super) fn is_busy(driver: &Driver, context: Handle, stream: Handle) -> bool {
    let is_empty = driver.queue().pending.is_empty();
    !is_empty && !points(driver, context, stream).is_empty()
}

/// Does what waits for a number in memory that may have changed, and all behind it. Late streams do
/// nothing before the host waits for them.
pub(super) fn go_on(driver: &Driver) {
    if running::streams() == Streams::Now {
        let mut queue = driver.queue();
        let all: Vec<Point> = queue.pending.keys().copied().collect();
        queue.finish(driver, &all);
    }
}

/// What has been given to a stream so far, as an event records it.
pub(super) fn points(driver: &Driver, context: Handle, stream: Handle) -> Vec<Point> {
    let place = Place::of(driver, context, stream);
    driver.queue().behind(place)
}

/// Makes what a stream is given from now on wait for points.
pub(super) fn wait(driver: &Driver, context: Handle, stream: Handle, points: &[Point]) {
    let place = Place::of(driver, context, stream);
    let mut queue = driver.queue();
    let mut tail = queue.behind(place);
    tail.extend(points);
    queue.set_tail(place, tail);
}

/// Does what a stream was given so far, and what that waits for.
pub(super) fn finish_stream(driver: &Driver, context: Handle, stream: Handle) {
    let points = points(driver, context, stream);
    finish(driver, &points);
}

/// As [`finish_stream`], but gives up at what waits for a number in memory. Whether all is done.
pub(super) fn try_finish_stream(driver: &Driver, context: Handle, stream: Handle) -> bool {
    let points = points(driver, context, stream);
    try_finish(driver, &points)
}

/// Does all work up to points, as far as it can be done. Whether all is.
pub(super) fn try_finish(driver: &Driver, points: &[Point]) -> bool {
    let mut queue = driver.queue();
    queue.finish(driver, points);
    !points.iter().any(|point| queue.pending.contains_key(point))
}

/// Does all work up to points. What waits for a number in memory may be helped by another thread of
/// the program; if it is not for [`PATIENCE`], or there is no other, the contexts fail.
pub(super) fn finish(driver: &Driver, points: &[Point]) {
    let start = Instant::now();
    while !try_finish(driver, points) {
        let is_hopeless = !driver.has_other_threads() && driver.queue().is_hopeless(points);
        if is_hopeless || start.elapsed() > PATIENCE {
            driver.queue().fail(driver, points);
            continue;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Does all work of a context, and what it waits for.
pub(super) fn finish_context(driver: &Driver, context: Handle) {
    let points: Vec<Point> = {
        let queue = driver.queue();
        let pending = queue.pending.iter();
        let of_context = pending.filter(|(_, piece)| piece.context == context);
        of_context.map(|(&point, _)| point).collect()
    };
    finish(driver, &points);
}

/// Does all work.
pub(super) fn finish_all(driver: &Driver) {
    let points: Vec<Point> = driver.queue().pending.keys().copied().collect();
    finish(driver, &points);
}

impl Queue {
    /// The points that the next piece of work at a place waits for.
    fn behind(&self, place: Place) -> Vec<Point> {
        let is_before = |line: &Line, tail: &Tail| {
            *line == place.line
                || tail.context == place.context
                    && match place.line {
                        Line::Legacy(_) => tail.blocking,
                        _ => place.blocking && *line == Line::Legacy(place.context),
                    }
        };
        let before = self.tails.iter();
        let before = before.filter(|(line, tail)| is_before(line, tail));
        let points = before.flat_map(|(_, tail)| &tail.points).copied();
        let mut points: Vec<Point> = points
            .filter(|point| self.pending.contains_key(point))
            .collect();
        points.sort_unstable();
        points.dedup();
        points
    }

    fn set_tail(&mut self, place: Place, points: Vec<Point>) {
        let Place {
            line,
            context,
            blocking,
        } = place;
        let tail = Tail {
            context,
            blocking,
            points,
        };
        self.tails.insert(line, tail);
    }

    fn push(&mut self, place: Place, what: What) -> Point {
        let after = self.behind(place);
        self.last += 1;
        let context = place.context;
        let piece = Piece {
            context,
            what,
            after,
        };
        self.pending.insert(self.last, piece);
        self.set_tail(place, vec![self.last]);
        self.last
    }

    /// Does pieces of work and all that they wait for. Where that waits for a number in memory, all
    /// else that can be done is done, too, and what can't is left.
    fn finish(&mut self, driver: &Driver, points: &[Point]) {
        let mut wanted = self.with_before(points);
        while !wanted.is_empty() {
            let next = wanted
                .iter()
                .copied()
                .find(|&point| self.is_ready(driver, point));
            let next = next.or_else(|| {
                let pending: Vec<Point> = self.pending.keys().copied().collect();
                pending
                    .into_iter()
                    .find(|&point| self.is_ready(driver, point))
            });
            let Some(piece) = next.and_then(|point| self.pending.remove(&point)) else {
                break;
            };
            wanted.retain(|point| Some(*point) != next);
            piece.run(driver);
        }
        let Self { pending, tails, .. } = self;
        tails.retain(|_, tail| {
            tail.points.retain(|point| pending.contains_key(point));
            !tail.points.is_empty()
        });
    }

    /// Pieces of work and all that they wait for, in an order in which they may be done.
    fn with_before(&self, points: &[Point]) -> BTreeSet<Point> {
        let mut wanted = BTreeSet::new();
        let mut open = points.to_vec();
        while let Some(point) = open.pop() {
            if let Some(piece) = self.pending.get(&point)
                && wanted.insert(point)
            {
                open.extend(&piece.after);
            }
        }
        wanted
    }

    /// Whether a piece of work can be done now.
    fn is_ready(&self, driver: &Driver, point: Point) -> bool {
        self.pending.get(&point).is_some_and(|piece| {
            let is_first = !piece
                .after
                .iter()
                .any(|point| self.pending.contains_key(point));
            is_first && (piece.is_met(driver) || driver.state().usable(piece.context).is_err())
        })
    }

    /// Whether nobody but another thread can change what the work waits for: the program itself
    /// could change page-locked memory.
    fn is_hopeless(&self, points: &[Point]) -> bool {
        let wanted = self.with_before(points);
        let pieces = wanted.iter().filter_map(|point| self.pending.get(point));
        pieces
            .filter_map(Piece::operation)
            .all(|operation| operation.is_on_device())
    }

    /// Gives up work that waits for what nobody does: its contexts fail.
    fn fail(&mut self, driver: &Driver, points: &[Point]) {
        for point in self.with_before(points) {
            let Some(piece) = self
                .pending
                .get(&point)
                .filter(|piece| !piece.is_met(driver))
            else {
                continue;
            };
            if let Some(operation) = piece.operation() {
                let what = operation.describe(driver);
                report(format_args!(
                    "deadlock: a stream waits for {what}, and nothing else is left to do"
                ));
            }
            if let Some(context) = driver.state().contexts.get_mut(&piece.context) {
                context.failed.get_or_insert(Code::LAUNCH_FAILED);
            }
        }
    }
}

impl Piece {
    /// The operation on memory that it is.
    fn operation(&self) -> Option<&Operation> {
        match &self.what {
            What::Work(Work::Memory(operations)) => operations.first(),
            _ => None,
        }
    }

    /// Whether what it waits for in memory is there.
    fn is_met(&self, driver: &Driver) -> bool {
        self.operation()
            .is_none_or(|operation| operation.is_ready(driver))
    }

    fn run(&self, driver: &Driver) {
        let Self { context, what, .. } = self;
        if driver.state().usable(*context).is_err() {
            return;
        }
        let done = match what {
            What::Work(work) => {
                is_loaded(driver, work).and_then(|()| work::run(driver, *context, work))
            }
            What::Staged { to, bytes } => driver.memory.write(*to, bytes).map_err(work::refused),
        };
        // The call that gave the work to its stream has returned long ago.
        if done.is_err()
            && let Some(context) = driver.state().contexts.get_mut(context)
        {
            context.failed.get_or_insert(Code::ILLEGAL_ADDRESS);
        }
    }
}

/// A kernel whose module was unloaded before it ran.
fn is_loaded(driver: &Driver, work: &Work) -> Outcome {
    if let Work::Launch(launch) = work
        && !driver.state().functions.contains_key(&launch.function)
    {
        report(format_args!(
            "{} ran after its module was unloaded",
            launch.kernel
        ));
        return Err(Code::ILLEGAL_ADDRESS);
    }
    Ok(())
}
