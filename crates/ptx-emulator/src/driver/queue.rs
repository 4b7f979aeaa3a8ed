//! Work that streams have not done yet: because the setting `STREAMS` makes them late, because it
//! waits for a number in memory ([`Work::Memory`]) and what else is to be done before it, or
//! because it is a launch that was set aside: it waits for memory that others change, or the launch
//! behind it may start (programmatic dependent launch).
//!
//! A piece of work is done when the host waits for it, or for something behind it. Memory is freed
//! at once, with all that the order of its stream puts before. So what nothing orders before the
//! free meets memory that is gone, and what nothing orders behind a write reads what was there
//! before: in every run, and not only by chance.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::Outcome;
use super::abi::report;
use super::code::Code;
use super::memory_ops::Operation;
use super::running::{self, Streams};
use super::side::{Prerequisite, Running, Stop};
use super::state::{Driver, Handle};
use super::stream::{self, is_default};
use super::work::{self, Launch, Started, Work};

/// How long the host waits for another thread to change what a stream waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for what a kernel waits for.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(2);

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
    /// How often work has changed memory, for launches that wait for that.
    changes: u64,
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
    /// A launch that has started and was set aside.
    Launch(Aside),
    /// A copy from ordinary host memory, which may change or end after the call.
    Staged {
        to: u64,
        bytes: Vec<u8>,
    },
}

struct Aside {
    running: Running,
    launch: Arc<Launch>,
    /// The number of changes at which it could not go on; `None` if it could, but lets the launch
    /// behind it start first.
    stuck_at: Option<u64>,
    /// Whether the launch behind it may start.
    allows_dependents: bool,
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

/// After work that may have changed memory: does what waits for that, and all behind it. Late
/// streams do nothing before the host waits for them.
pub(super) fn go_on(driver: &Driver) {
    let mut queue = driver.queue();
    queue.changes += 1;
    if running::streams() == Streams::Now && !queue.pending.is_empty() {
        let pieces = queue.pending.iter();
        let points: Vec<Point> = pieces
            .filter(|(_, piece)| !piece.lets_others_start())
            .map(|(&point, _)| point)
            .collect();
        queue.finish(driver, &points);
    }
}

/// Starts a launch in a stream that has nothing else to do.
pub(super) fn launch(
    driver: &Driver,
    context: Handle,
    stream: Handle,
    launch: &Arc<Launch>,
) -> Outcome {
    let place = Place::of(driver, context, stream);
    let done = match work::start(driver, context, launch, Vec::new())? {
        Started::Over(done) => done,
        Started::Aside(running, stop) => {
            let mut queue = driver.queue();
            let mut aside = Aside {
                running,
                launch: Arc::clone(launch),
                stuck_at: None,
                allows_dependents: false,
            };
            queue.set_aside(&mut aside, &stop);
            queue.push(place, What::Launch(aside));
            Ok(())
        }
    };
    go_on(driver);
    done
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

/// Does all work up to points. What waits for memory may be helped by another thread of the
/// program; if it is not for [`PATIENCE`], or there is no other, the contexts fail.
pub(super) fn finish(driver: &Driver, points: &[Point]) {
    let start = Instant::now();
    while !try_finish(driver, points) {
        let is_hopeless = !driver.has_other_threads() && driver.queue().is_hopeless(points);
        let patience = driver.queue().launch_patience(points);
        let patience = patience.unwrap_or(if is_hopeless {
            Duration::ZERO
        } else {
            PATIENCE
        });
        if start.elapsed() >= patience {
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

    /// Does pieces of work and all that they wait for. Where that waits for memory, all else that
    /// can be done is done, too, and what can't is left.
    fn finish(&mut self, driver: &Driver, points: &[Point]) {
        let mut wanted = self.with_before(points);
        while !wanted.is_empty() {
            // A launch that lets the one behind it start goes on when nothing else can.
            let is_next = |point: Point, others_first: bool| {
                let piece = self.pending.get(&point);
                self.is_ready(driver, point)
                    && !(others_first && piece.is_some_and(Piece::lets_others_start))
            };
            let find = |others_first: bool| {
                let mut points = wanted.iter().copied();
                points.find(|&point| is_next(point, others_first))
            };
            let all = || {
                let mut points = self.pending.keys().copied();
                points.find(|&point| is_next(point, true))
            };
            let Some(next) = find(true).or_else(all).or_else(|| find(false)) else {
                break;
            };
            if self.run(driver, next) {
                wanted.remove(&next);
            }
        }
        let Self { pending, tails, .. } = self;
        tails.retain(|_, tail| {
            tail.points.retain(|point| pending.contains_key(point));
            !tail.points.is_empty()
        });
    }

    /// Does a piece of work. False if it was set aside.
    fn run(&mut self, driver: &Driver, point: Point) -> bool {
        let Some(mut piece) = self.pending.remove(&point) else {
            return true;
        };
        let before = piece.after.iter();
        let before = before.filter_map(|point| self.pending.get(point)?.prerequisite());
        let stop = piece.run(driver, before.collect());
        if let (What::Launch(aside), Some(stop)) = (&mut piece.what, stop) {
            self.set_aside(aside, &stop);
            self.pending.insert(point, piece);
            return false;
        }
        self.changes += 1;
        true
    }

    /// Notes why a launch was set aside.
    fn set_aside(&mut self, aside: &mut Aside, stop: &Stop) {
        match stop {
            Stop::Stuck { changed } => {
                self.changes += u64::from(*changed);
                aside.stuck_at = Some(self.changes);
            }
            _ => {
                self.changes += 1;
                aside.stuck_at = None;
                aside.allows_dependents = true;
            }
        }
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
            let is_early = piece.may_start_early();
            let is_before = |point: &Point| {
                let piece = self.pending.get(point);
                piece.is_some_and(|piece| !(is_early && piece.allows_dependents()))
            };
            let is_first = !piece.after.iter().any(is_before);
            let is_met = match &piece.what {
                What::Launch(aside) => aside.stuck_at != Some(self.changes),
                _ => piece.is_met(driver),
            };
            is_first && (is_met || driver.state().usable(piece.context).is_err())
        })
    }

    /// How long another thread, which may not have called the driver yet, may take to change what a
    /// launch waits for; `None` if no launch waits.
    fn launch_patience(&self, points: &[Point]) -> Option<Duration> {
        let is_launch = |point: &Point| {
            let piece = self.pending.get(point);
            piece.is_some_and(|piece| matches!(piece.what, What::Launch(_)))
        };
        let waits = self.with_before(points).iter().any(is_launch);
        waits.then_some(LAUNCH_PATIENCE)
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
            let is_stuck = |piece: &&Piece| match &piece.what {
                What::Launch(aside) => aside.stuck_at.is_some(),
                _ => false,
            };
            if self.pending.get(&point).filter(is_stuck).is_some() {
                if let Some(Piece {
                    context,
                    what: What::Launch(aside),
                    ..
                }) = self.pending.remove(&point)
                {
                    // The fault is reported, and the context fails.
                    let _ = work::over(driver, context, aside.running.give_up());
                }
                continue;
            }
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

    /// Whether it is a launch that could go on, but lets the one behind it start first.
    fn lets_others_start(&self) -> bool {
        matches!(&self.what, What::Launch(aside) if aside.stuck_at.is_none())
    }

    fn allows_dependents(&self) -> bool {
        matches!(&self.what, What::Launch(aside) if aside.allows_dependents)
    }

    /// Whether it is a launch that may start once the one before it allows that.
    fn may_start_early(&self) -> bool {
        match &self.what {
            What::Work(Work::Launch(launch)) => launch.programmatic,
            What::Launch(aside) => aside.launch.programmatic,
            _ => false,
        }
    }

    /// A launch that has started, as one behind it knows it.
    fn prerequisite(&self) -> Option<Prerequisite> {
        match &self.what {
            What::Launch(aside) => Some(aside.running.prerequisite()),
            _ => None,
        }
    }

    /// Does the work, or goes on with it. Why it stopped, if it was set aside. `before`: the
    /// launches before it that have not ended.
    fn run(&mut self, driver: &Driver, before: Vec<Prerequisite>) -> Option<Stop> {
        let context = self.context;
        if driver.state().usable(context).is_err() {
            return None;
        }
        let done = match &self.what {
            What::Work(work) => match (is_loaded(driver, work), work) {
                (Err(code), _) => Err(code),
                (Ok(()), Work::Launch(launch)) if launch.may_wait() || !before.is_empty() => {
                    match work::start(driver, context, launch, before) {
                        Ok(Started::Aside(running, stop)) => {
                            self.what = What::Launch(Aside {
                                running,
                                launch: Arc::clone(launch),
                                stuck_at: None,
                                allows_dependents: false,
                            });
                            return Some(stop);
                        }
                        Ok(Started::Over(done)) => done,
                        Err(code) => Err(code),
                    }
                }
                (Ok(()), work) => work::run(driver, context, work),
            },
            What::Launch(aside) => match work::go_on(driver, context, &aside.running) {
                Started::Over(done) => done,
                Started::Aside((), stop) => return Some(stop),
            },
            What::Staged { to, bytes } => driver.memory.write(*to, bytes).map_err(work::refused),
        };
        // The call that gave the work to its stream has returned long ago.
        if done.is_err()
            && let Some(context) = driver.state().contexts.get_mut(&context)
        {
            context.failed.get_or_insert(Code::ILLEGAL_ADDRESS);
        }
        None
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
