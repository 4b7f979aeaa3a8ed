//! Stream capture: the work of one or more streams, recorded in order, and who waits for whom.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::thread::ThreadId;

use super::abi::Out;
use super::api;
use super::code::Code;
use super::state::{Handle, driver};
use super::work::Work;

/// For each stream, how many of its pieces of work come before a point.
pub(super) type Clock = BTreeMap<Handle, u64>;

const MODE_GLOBAL: u32 = 0;
const MODE_THREAD_LOCAL: u32 = 1;
pub(super) const MODE_RELAXED: u32 = 2;

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set for this thread.
    static THREAD_MODE: Cell<u32> = const { Cell::new(MODE_GLOBAL) };
}

pub(super) struct Capture {
    pub context: Handle,
    /// The stream on which it began and must end.
    pub origin: Handle,
    pub invalid: bool,
    pub work: Vec<Work>,
    mode: u32,
    thread: ThreadId,
    clocks: BTreeMap<Handle, Clock>,
}

impl Capture {
    pub fn new(context: Handle, origin: Handle, mode: u32) -> Self {
        Self {
            context,
            origin,
            invalid: false,
            work: Vec::new(),
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

    pub fn record(&mut self, stream: Handle, work: &[Work]) {
        let clock = self.clocks.entry(stream).or_default();
        *clock.entry(stream).or_default() += work.len() as u64;
        self.work.extend_from_slice(work);
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

api! {
    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        driver()?;
        let new = mode.readable().get(0)?;
        if new > MODE_RELAXED {
            return Err(Code::INVALID_VALUE);
        }
        mode.set(THREAD_MODE.replace(new))
    }
}
