//! What lanes of a warp know that know the same, and what their fences make of it.
//!
//! A fence before a strong write makes that write release what was known at the fence; a fence
//! after a strong read makes known what the read has seen (release and acquire patterns, section
//! 8.8). Both hold only within the smaller scope of the two. So a mind keeps apart what reaches
//! the block, the cluster and the device.

use std::sync::Arc;

use super::clock::{Clock, View};
use crate::decode::op::{Order, Scope};

/// Whom an operation reaches: the block, the cluster, the device.
pub(super) const LEVELS: usize = 3;

pub(super) fn level(scope: Scope) -> usize {
    match scope {
        Scope::Cta => 0,
        Scope::Cluster => 1,
        Scope::Gpu | Scope::Sys => 2,
    }
}

/// What was known at a fence. A lane's own accesses count up to `step`.
#[derive(Clone)]
pub(super) struct Fenced {
    view: View,
    step: u32,
}

/// For each level.
pub(super) type Fences = [Option<Arc<Fenced>>; LEVELS];
pub(super) type Seen = [Option<Arc<Clock>>; LEVELS];

#[derive(Clone)]
pub(super) struct Mind {
    /// What is known. Each lane knows all of its own accesses besides.
    pub view: View,
    /// At the last fence whose scope includes the level.
    pub fenced: Fences,
    /// What strong reads of the level have seen since, for a fence to make it known.
    pub seen: Seen,
}

impl Fenced {
    fn of(view: &View, lanes: u32, step: u32) -> View {
        let mut view = view.clone();
        view.known.raise(lanes, step);
        view
    }

    /// For all who know of the accesses of `lanes` before their fence.
    pub fn common(self: &Arc<Self>, lanes: u32) -> Arc<Fenced> {
        if self.step == 0 {
            return self.clone();
        }
        Arc::new(Fenced {
            view: Self::of(&self.view, lanes, self.step),
            step: 0,
        })
    }

    fn join(self: &Arc<Self>, other: &Arc<Fenced>) -> Arc<Fenced> {
        if Arc::ptr_eq(self, other) {
            return self.clone();
        }
        let mut both = Fenced::clone(self);
        if self.view.is_beside(&other.view) {
            both.view.known.join(&other.view.known);
        } else {
            both.view.clock.learn(&other.view);
        }
        Arc::new(both)
    }
}

fn is_same<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

pub(super) fn is_same_seen(a: &Seen, b: &Seen) -> bool {
    a.iter().zip(b).all(|(a, b)| is_same(a, b))
}

/// Joins what `lanes` had at their fences.
pub(super) fn join_fences(into: &mut Fences, from: &Fences, lanes: u32) {
    let before = into.clone();
    for level in (0..LEVELS).rev() {
        let Some(fenced) = &from[level] else {
            continue;
        };
        let above = level + 1;
        if above < LEVELS
            && is_same(&from[level], &from[above])
            && is_same(&before[level], &before[above])
        {
            into[level] = into[above].clone();
            continue;
        }
        let common = fenced.common(lanes);
        into[level] = Some(match &before[level] {
            Some(own) => own.join(&common),
            None => common,
        });
    }
}

pub(super) fn join_seen(into: &mut Option<Arc<Clock>>, from: &Option<Arc<Clock>>) {
    match (into.as_mut(), from) {
        (_, None) => {}
        (None, Some(_)) => *into = from.clone(),
        (Some(own), Some(more)) => {
            if !Arc::ptr_eq(own, more) {
                Arc::make_mut(own).join(more);
            }
        }
    }
}

impl Mind {
    pub fn new(clock: Clock, warp: u32) -> Self {
        let known = clock.of(clock.block, warp);
        Mind {
            view: View { clock, warp, known },
            fenced: [const { None }; LEVELS],
            seen: [const { None }; LEVELS],
        }
    }

    pub fn acquire(&mut self, clock: &Clock) {
        let View {
            clock: own,
            warp,
            known,
        } = &mut self.view;
        own.join(clock);
        known.join(&own.of(own.block, *warp));
    }

    /// A fence of lanes in their step `step`.
    pub fn fence(&mut self, order: Order, scope: Scope, step: u32) {
        let level = level(scope);
        if order.acquires() {
            for at in 0..=level {
                if let Some(seen) = self.seen[at].take() {
                    self.acquire(&seen);
                }
            }
        }
        if order.releases() {
            let fenced = Arc::new(Fenced {
                view: self.view.clone(),
                step,
            });
            self.fenced[..=level].fill(Some(fenced));
        }
    }

    /// What a strong write of a lane in step `step` releases to a level, if anything.
    pub fn released(&self, level: usize, order: Order, lane: usize, step: u32) -> Option<View> {
        if order.releases() {
            return Some(Fenced::of(&self.view, 1 << lane, step));
        }
        let fenced = self.fenced[level].as_ref()?;
        Some(Fenced::of(&fenced.view, 1 << lane, fenced.step))
    }

    /// A strong read finds what was released to its levels.
    pub fn observe(&mut self, found: &Seen, order: Order) {
        for (seen, found) in self.seen.iter_mut().zip(found) {
            if !order.acquires() {
                join_seen(seen, found);
            }
        }
        if order.acquires() {
            for clock in found.iter().flatten() {
                self.acquire(clock);
            }
        }
    }

    /// What two minds know, whose lanes have just met in their step `step`.
    pub fn meet(&mut self, lanes: u32, other: &Mind, others: u32, step: u32) {
        self.view.known.raise(lanes, step);
        self.acquire(&other.view.clock);
        self.view.known.join(&other.view.known);
        self.view.known.raise(others, step);
        let own = std::mem::take(&mut self.fenced);
        join_fences(&mut self.fenced, &own, lanes);
        join_fences(&mut self.fenced, &other.fenced, others);
        for (seen, more) in self.seen.iter_mut().zip(&other.seen) {
            join_seen(seen, more);
        }
    }

    /// All lanes of the warp have met, which know the same otherwise.
    pub fn meet_all(&mut self, step: u32) {
        self.view.known.raise(u32::MAX, step);
        if self.fenced.iter().flatten().any(|fenced| fenced.step != 0) {
            let own = std::mem::take(&mut self.fenced);
            join_fences(&mut self.fenced, &own, u32::MAX);
        }
    }
}
