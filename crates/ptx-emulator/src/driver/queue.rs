//! Work that streams have not done yet, where the setting `STREAMS` makes them late.
//!
//! A piece of work is done when the host waits for it, or for something behind it. Memory is freed
//! at once, with all that the order of its stream puts before. So what nothing orders before the
//! free meets memory that is gone, and what nothing orders behind a write reads what was there
//! before: in every run, and not only by chance.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::thread::ThreadId;

use super::Outcome;
use super::abi::report;
use super::code::Code;
use super::running::{self, Streams};
use super::state::{Driver, Handle};
use super::stream::{self, is_default};
use super::work::{self, Work};

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
    let is_copy = !matches!(work, Work::Launch(_) | Work::Call { .. });
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
    let mut queue = driver.queue();
    let point = queue.push(place, what);
    if waits {
        queue.finish(driver, &[point]);
    }
    driver.state().usable(context)
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
    let place = Place::of(driver, context, stream);
    let mut queue = driver.queue();
    let points = queue.behind(place);
    queue.finish(driver, &points);
}

/// Does all work up to points.
pub(super) fn finish(driver: &Driver, points: &[Point]) {
    driver.queue().finish(driver, points);
}

/// Does all work of a context, and what it waits for.
pub(super) fn finish_context(driver: &Driver, context: Handle) {
    let mut queue = driver.queue();
    let of_context = queue.pending.iter();
    let of_context = of_context.filter(|(_, piece)| piece.context == context);
    let points: Vec<Point> = of_context.map(|(&point, _)| point).collect();
    queue.finish(driver, &points);
}

/// Does all work.
pub(super) fn finish_all(driver: &Driver) {
    let mut queue = driver.queue();
    let points: Vec<Point> = queue.pending.keys().copied().collect();
    queue.finish(driver, &points);
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

    /// Does pieces of work and all that they wait for.
    fn finish(&mut self, driver: &Driver, points: &[Point]) {
        let mut wanted = BTreeSet::new();
        let mut open = points.to_vec();
        while let Some(point) = open.pop() {
            if let Some(piece) = self.pending.get(&point)
                && wanted.insert(point)
            {
                open.extend(&piece.after);
            }
        }
        for point in wanted {
            if let Some(piece) = self.pending.remove(&point) {
                piece.run(driver);
            }
        }
        let Self { pending, tails, .. } = self;
        tails.retain(|_, tail| {
            tail.points.retain(|point| pending.contains_key(point));
            !tail.points.is_empty()
        });
    }
}

impl Piece {
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
