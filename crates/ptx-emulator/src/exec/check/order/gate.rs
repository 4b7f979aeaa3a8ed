//! Where threads hand each other all that they know: barriers of a block or a cluster, mbarriers.
//!
//! Leniency: what was known at a thread's last fence, and what its strong reads have seen, is
//! handed on, too. So a fence by all threads, a barrier and a relaxed atomic of one of them count
//! as a release of all. The model asks for a fence by the thread of the atomic; hardware doesn't,
//! and much code relies on it.

use std::sync::Arc;

use super::clock::{Clock, View};
use super::mind::{Fences, LEVELS, Mind, Seen, join_fences, join_seen};
use super::tree::Leaf;

/// What those who have come know together.
#[derive(Clone, Default)]
pub(super) struct Gate {
    clock: Option<Clock>,
    /// What most who come know of their block before they come.
    base: Option<Leaf>,
    fenced: Fences,
    seen: Seen,
}

impl Gate {
    /// Lanes come in their step `step`.
    pub(super) fn give(&mut self, mind: &Mind, lanes: u32, step: u32) {
        let view = &mind.view;
        let mut known = view.known;
        known.raise(lanes, step);
        match (&mut self.clock, &self.base) {
            (None, _) => {
                let mut clock = view.clock.clone();
                clock.raise(view.warp, &known);
                self.clock = Some(clock);
                self.base = Some(view.clock.own.clone());
            }
            (Some(clock), Some(base))
                if clock.block == view.clock.block && Arc::ptr_eq(base, &view.clock.own) =>
            {
                clock.join_rest(&view.clock);
                clock.raise(view.warp, &known);
            }
            (Some(clock), _) => clock.learn(&View {
                known,
                ..view.clone()
            }),
        }
        join_fences(&mut self.fenced, &mind.fenced, lanes);
        let is_home = self
            .clock
            .as_ref()
            .is_some_and(|clock| clock.block == view.clock.block);
        for level in usize::from(!is_home)..LEVELS {
            join_seen(&mut self.seen[level], &mind.seen[level]);
        }
    }

    /// A lane comes that gives no more than what it released by a fence.
    pub(super) fn give_released(&mut self, view: &View) {
        match &mut self.clock {
            Some(clock) => clock.learn(view),
            None => {
                let mut clock = view.clock.clone();
                clock.raise(view.warp, &view.known);
                self.clock = Some(clock);
            }
        }
    }

    /// Somebody who has come goes on: what he knows now.
    pub(super) fn mind(&self, warp: u32) -> Option<Mind> {
        let mut mind = Mind::new(self.clock.clone()?, warp);
        mind.fenced = self.fenced.clone();
        mind.seen = self.seen.clone();
        Some(mind)
    }

    /// Somebody learns what those who have come know.
    pub(super) fn take(&self, mind: &mut Mind) {
        let Some(clock) = &self.clock else {
            return;
        };
        mind.acquire(clock);
        join_fences(&mut mind.fenced, &self.fenced, 0);
        let is_home = clock.block == mind.view.clock.block;
        for level in usize::from(!is_home)..LEVELS {
            join_seen(&mut mind.seen[level], &self.seen[level]);
        }
    }

    fn join(&mut self, other: &Gate) {
        let Some(more) = &other.clock else {
            return;
        };
        let Some(clock) = &mut self.clock else {
            *self = other.clone();
            return;
        };
        let is_home = clock.block == more.block;
        clock.join(more);
        join_fences(&mut self.fenced, &other.fenced, 0);
        for level in usize::from(!is_home)..LEVELS {
            join_seen(&mut self.seen[level], &other.seen[level]);
        }
    }
}

/// What is known through an mbarrier or a cluster's barrier: by those who have arrived in the
/// running phase, and by those who see a phase complete.
#[derive(Clone, Default)]
pub(in crate::exec) struct PhaseClock {
    pub(super) pending: Gate,
    pub(super) done: Gate,
    /// The mbarrier's number and the last complete phase.
    pub(super) phase: Option<(u64, u32)>,
}

impl PhaseClock {
    /// The running phase is complete, and with it the asynchronous writes that it waited for. Give
    /// the mbarrier a number that nothing else has, and a new one each time it is initialised;
    /// phases are counted from 0.
    pub fn complete(&mut self, mbarrier: u64, phase: u32) {
        self.turn_over();
        self.phase = Some((mbarrier, phase));
    }

    /// What is known to whoever sees the last phase complete.
    pub(super) fn seen(&self) -> Option<Arc<Clock>> {
        let mut clock = self.done.clock.clone()?;
        if let Some((mbarrier, phase)) = self.phase {
            clock.learn_phase(mbarrier, phase);
        }
        Some(Arc::new(clock))
    }

    /// The running phase of a barrier is complete on which threads arrive, and nothing else.
    pub fn turn_over(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.done.join(&pending);
    }
}

impl std::fmt::Debug for PhaseClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PhaseClock({:?})", self.phase)
    }
}
