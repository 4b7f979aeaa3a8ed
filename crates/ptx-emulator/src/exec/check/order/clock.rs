//! A vector clock: which accesses of all the warps of all blocks somebody knows to be done.

use std::sync::Arc;

use super::known::Known;
use super::tree::{Leaf, Tree, join_leaves};

/// Phases of mbarriers that are known to be complete: (mbarrier, phase), sorted.
type Phases = Option<Arc<[(u64, u32)]>>;

/// What a thread knows, or what threads of several blocks know together. Its own block's warps are
/// apart, since they are asked for most.
#[derive(Clone)]
pub(super) struct Clock {
    pub block: u64,
    pub own: Leaf,
    pub others: Tree,
    phases: Phases,
    /// What a fence has made known to the asynchronous proxy, too. Part of what is known.
    proxied: Option<Arc<Proxied>>,
    /// Whether the launch that this one may run beside is known to be complete.
    pub primary: bool,
}

#[derive(Clone)]
struct Proxied {
    own: Leaf,
    others: Tree,
}

/// A clock as one warp of its block has it: of that warp more is known.
#[derive(Clone)]
pub(super) struct View {
    pub clock: Clock,
    pub warp: u32,
    pub known: Known,
}

impl Clock {
    /// Of a block at its start.
    pub fn new(block: u64, warps: usize) -> Self {
        Clock {
            block,
            own: vec![Known::default(); warps].into(),
            others: Tree::default(),
            phases: None,
            proxied: None,
            primary: false,
        }
    }

    /// What is known of a warp.
    pub fn of(&self, block: u64, warp: u32) -> Known {
        let leaf = if block == self.block {
            Some(&self.own)
        } else {
            self.others.get(block)
        };
        known(leaf, warp)
    }

    /// What the asynchronous proxy knows of a warp.
    pub fn proxied(&self, block: u64, warp: u32) -> Known {
        self.proxied.as_ref().map_or(Known::default(), |proxied| {
            let leaf = if block == self.block {
                Some(&proxied.own)
            } else {
                proxied.others.get(block)
            };
            known(leaf, warp)
        })
    }

    /// Learns more of a warp of the own block.
    pub fn raise(&mut self, warp: u32, more: &Known) {
        raise(&mut self.own, warp, more);
    }

    /// Learns what another clock knows.
    pub fn join(&mut self, other: &Clock) {
        if other.block == self.block {
            self.own = join_leaves(&self.own, &other.own);
        }
        self.join_rest(other);
    }

    /// Learns what another clock knows, but nothing of its block where that is the own one.
    pub fn join_rest(&mut self, other: &Clock) {
        self.primary |= other.primary;
        if other.block != self.block {
            self.others.learn(other.block, &other.own);
            if let Some(own) = other.others.get(self.block) {
                self.own = join_leaves(&self.own, own);
            }
        }
        if !self.others.is_same(&other.others) {
            self.others.join(&other.others);
        }
        self.phases = join_phases(&self.phases, &other.phases);
        let Some(theirs) = &other.proxied else {
            return;
        };
        let own = self.proxied.get_or_insert_with(|| {
            let none: Leaf = vec![Known::default(); self.own.len()].into();
            Arc::new(Proxied {
                own: none,
                others: Tree::default(),
            })
        });
        if Arc::ptr_eq(own, theirs) {
            return;
        }
        let own = Arc::make_mut(own);
        if other.block == self.block {
            own.own = join_leaves(&own.own, &theirs.own);
        } else {
            own.others.learn(other.block, &theirs.own);
            if let Some(known) = theirs.others.get(self.block) {
                own.own = join_leaves(&own.own, known);
            }
        }
        own.others.join(&theirs.others);
    }

    pub fn learn(&mut self, view: &View) {
        self.join(&view.clock);
        if view.clock.block == self.block {
            raise(&mut self.own, view.warp, &view.known);
            return;
        }
        let mut leaf = view.clock.own.clone();
        raise(&mut leaf, view.warp, &view.known);
        self.others.learn(view.clock.block, &leaf);
    }

    /// Without the phases, which mean nothing outside of the cluster.
    pub fn without_phases(mut self) -> Self {
        self.phases = None;
        self
    }

    pub fn knows_phase(&self, mbarrier: u64, phase: u32) -> bool {
        let phases = self.phases.as_deref().unwrap_or_default();
        phases
            .binary_search_by_key(&mbarrier, |&(id, _)| id)
            .is_ok_and(|at| phases[at].1 >= phase)
    }

    pub fn learn_phase(&mut self, mbarrier: u64, phase: u32) {
        self.phases = join_phases(&self.phases, &Some(Arc::new([(mbarrier, phase)])));
    }
}

impl View {
    /// `fence.proxy.async`: what is known so far is known to the asynchronous proxy, too. Of the
    /// warp itself that counts for all `lanes`, whether or not they know of each other.
    pub fn proxy(&self, lanes: u32, step: u32) -> Clock {
        let mut own = self.clock.own.clone();
        let mut known = self.known;
        known.raise(lanes, step);
        raise(&mut own, self.warp, &known);
        Clock {
            proxied: Some(Arc::new(Proxied {
                own,
                others: self.clock.others.clone(),
            })),
            ..self.clock.clone()
        }
    }

    /// Whether another view of the same warp differs in what it knows of that warp at most.
    pub fn is_beside(&self, other: &View) -> bool {
        let (a, b) = (&self.clock, &other.clock);
        let same = |a: &Option<Arc<Proxied>>, b: &Option<Arc<Proxied>>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        a.block == b.block
            && self.warp == other.warp
            && Arc::ptr_eq(&a.own, &b.own)
            && a.others.is_same(&b.others)
            && same(&a.proxied, &b.proxied)
            && a.phases == b.phases
            && a.primary == b.primary
    }
}

fn known(leaf: Option<&Leaf>, warp: u32) -> Known {
    leaf.and_then(|leaf| leaf.get(warp as usize).copied())
        .unwrap_or_default()
}

/// Nothing is copied where nothing is new.
fn raise(leaf: &mut Leaf, warp: u32, more: &Known) {
    let Some(now) = leaf.get(warp as usize) else {
        return;
    };
    let mut both = *now;
    both.join(more);
    if both != *now {
        Arc::make_mut(leaf)[warp as usize] = both;
    }
}

fn join_phases(a: &Phases, b: &Phases) -> Phases {
    let (x, y) = match (a, b) {
        (None, _) => return b.clone(),
        (_, None) => return a.clone(),
        (Some(x), Some(y)) => (x, y),
    };
    let knows = |all: &[(u64, u32)], &(id, phase): &(u64, u32)| {
        all.binary_search_by_key(&id, |&(id, _)| id)
            .is_ok_and(|at| all[at].1 >= phase)
    };
    if Arc::ptr_eq(x, y) || y.iter().all(|entry| knows(x, entry)) {
        return a.clone();
    }
    let mut all: Vec<_> = x.iter().chain(y.iter()).copied().collect();
    all.sort_unstable_by_key(|&(id, phase)| (id, std::cmp::Reverse(phase)));
    all.dedup_by_key(|(id, _)| *id);
    Some(all.into())
}
