//! The clocks of a block: what each lane of each warp knows.

use super::Stamp;
use super::clock::Clock;
use super::gate::{Gate, PhaseClock};
use super::mind::{LEVELS, Mind, Seen, join_seen, level};
use super::place::{Gift, Places, Reach, Span};
use crate::decode::op::{Order, Scope};
use crate::exec::check::Me;
use crate::exec::registers;

/// Block barriers.
const BARRIERS: usize = 16;

struct WarpClock {
    step: u32,
    /// Lanes that have not exited.
    live: u32,
    /// All lanes that the warp had at its start, by what they know.
    minds: Vec<(u32, Mind)>,
}

/// Where a block is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::exec) struct Home {
    /// Number of the block in the grid.
    pub block: u64,
    /// Number of its cluster.
    pub cluster: u64,
}

pub(in crate::exec) struct Clocks {
    home: Home,
    narrow: bool,
    warps: Vec<WarpClock>,
    gates: [Gate; BARRIERS],
    /// Warps that have exited.
    exited: Gate,
    /// Of the block's shared memory.
    places: Places,
    /// Whether the block has executed a fence, an atomic operation or a strong load that isn't
    /// volatile.
    heeds_order: bool,
}

/// A strong access of one lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strong {
    pub lane: usize,
    pub span: Span,
    pub order: Order,
    pub scope: Scope,
}

impl WarpClock {
    /// Lanes for a record: those that have exited are where the others are.
    fn widened(&self, lanes: u32) -> u32 {
        if lanes & self.live == self.live {
            u32::MAX
        } else {
            lanes
        }
    }

    fn end_step(&mut self) {
        self.step = self.step.saturating_add(1);
    }

    /// Changes what some lanes know.
    fn update(&mut self, lanes: u32, mut change: impl FnMut(&mut Mind, u32)) {
        for at in 0..self.minds.len() {
            let (mask, mind) = &mut self.minds[at];
            let here = *mask & lanes;
            if here == *mask {
                change(mind, here);
            } else if here != 0 {
                *mask &= !here;
                let mut own = mind.clone();
                change(&mut own, here);
                self.minds.push((here, own));
            }
        }
    }

    /// Lanes meet: each knows what any of them knew.
    fn meet(&mut self, lanes: u32) {
        let wide = self.widened(lanes);
        let step = self.step;
        self.end_step();
        if let [(_, mind)] = self.minds.as_mut_slice()
            && wide == u32::MAX
        {
            mind.meet_all(step);
            return;
        }
        let mut met: Option<(u32, Mind)> = None;
        self.minds.retain_mut(|(mask, mind)| {
            let here = *mask & wide;
            if here == 0 {
                return true;
            }
            match &mut met {
                Some((all, whole)) => {
                    whole.meet(*all, mind, here, step);
                    *all |= here;
                }
                None => met = Some((here, mind.clone())),
            }
            *mask &= !here;
            *mask != 0
        });
        if let Some((all, mut mind)) = met {
            if wide == u32::MAX {
                mind.meet_all(step);
            } else {
                let alone = mind.clone();
                mind.meet(all, &alone, all, step);
            }
            self.minds.push((all, mind));
        }
    }
}

impl Clocks {
    /// Of no block yet. `narrow`: an operation of the kernel has a narrower scope than the device.
    pub fn new(narrow: bool) -> Self {
        Clocks {
            home: Home::default(),
            narrow,
            warps: Vec::new(),
            gates: Default::default(),
            exited: Gate::default(),
            places: Places::default(),
            heeds_order: false,
        }
    }

    /// For a new block of so many threads.
    pub fn start(&mut self, home: Home, threads: u32) {
        self.heeds_order = false;
        let clock = Clock::new(home.block, threads.div_ceil(32) as usize);
        self.home = home;
        self.warps.clear();
        for warp in 0..threads.div_ceil(32) {
            let left = threads - 32 * warp;
            let live = if left >= 32 {
                u32::MAX
            } else {
                (1 << left) - 1
            };
            self.warps.push(WarpClock {
                step: 1,
                live,
                minds: vec![(live, Mind::new(clock.clone(), warp))],
            });
        }
        self.gates.fill_with(Gate::default);
        self.exited = Gate::default();
        self.places.clear();
    }

    /// Whether the block has done anything by which it might take care of the order in which it
    /// sees others' volatile stores.
    pub fn heeds_order(&self) -> bool {
        self.heeds_order
    }

    pub fn home(&self) -> Home {
        self.home
    }

    /// The step of an access that a warp makes now.
    pub fn now(&self, warp: usize) -> u32 {
        self.warps[warp].step
    }

    fn which(&self, me: &Me, lanes: u32, knows: impl Fn(&Mind) -> bool) -> u32 {
        let mut out = 0;
        for (mask, mind) in &self.warps[me.warp].minds {
            if mask & lanes != 0 && knows(mind) {
                out |= mask & lanes;
            }
        }
        out
    }

    /// Which of `lanes` of the warp know the access to be done.
    pub fn knows(&self, me: &Me, lanes: u32, stamp: Stamp) -> u32 {
        let Stamp {
            block,
            warp,
            lane,
            step,
        } = stamp;
        if block != me.block {
            return self.which(me, lanes, |mind| {
                mind.view.clock.of(block, warp).covers(lane, step)
            });
        }
        if warp as usize != me.warp {
            return self.which(me, lanes, |mind| {
                mind.view.clock.of(block, warp).covers(lane, step)
            });
        }
        lanes & 1 << lane | self.which(me, lanes, |mind| mind.view.known.covers(lane, step))
    }

    /// Whether it is sure, at a glance, that all lanes of the warp know what any lane of the
    /// stamp's warp did in that step.
    pub fn all_know(&self, me: &Me, stamp: Stamp) -> bool {
        let Stamp {
            block, warp, step, ..
        } = stamp;
        let is_own = block == me.block && warp as usize == me.warp;
        self.warps[me.warp].minds.iter().all(|(_, mind)| {
            let known = if is_own {
                mind.view.known
            } else {
                mind.view.clock.of(block, warp)
            };
            known.covers_all(step)
        })
    }

    /// The same for an access by the generic proxy, as seen by the asynchronous one: a
    /// `fence.proxy.async` lies between the two.
    pub fn knows_proxied(&self, me: &Me, lanes: u32, stamp: Stamp) -> u32 {
        let proxied = self.which(me, lanes, |mind| {
            let known = mind.view.clock.proxied(stamp.block, stamp.warp);
            known.covers(stamp.lane, stamp.step)
        });
        self.knows(me, proxied, stamp)
    }

    /// Which of `lanes` of the warp know a phase of an mbarrier to be complete, and with it the
    /// asynchronous writes that it waited for. `mbarrier` is the number given to
    /// [`PhaseClock::complete`].
    pub fn knows_phase(&self, me: &Me, lanes: u32, mbarrier: u64, phase: u32) -> u32 {
        self.which(me, lanes, |mind| {
            mind.view.clock.knows_phase(mbarrier, phase)
        })
    }

    /// Which of `lanes` know the launch that this one may run beside to be complete.
    pub fn knows_primary(&self, me: &Me, lanes: u32) -> u32 {
        self.which(me, lanes, |mind| mind.view.clock.primary)
    }

    /// `griddepcontrol.wait`: all accesses of the launch that this one may run beside are done.
    pub fn learn_primary(&mut self, warp: usize, lanes: u32) {
        self.warps[warp].update(lanes, |mind, _| mind.view.clock.primary = true);
    }

    /// An operation that the lanes do together, and that orders their accesses.
    pub fn meet(&mut self, warp: usize, lanes: u32) {
        self.warps[warp].meet(lanes);
    }

    /// A fence between threads.
    pub fn fence(&mut self, warp: usize, lanes: u32, order: Order, scope: Scope) {
        self.heeds_order = true;
        let warp = &mut self.warps[warp];
        let step = warp.step;
        warp.update(lanes, |mind, _| mind.fence(order, scope, step));
        warp.end_step();
    }

    /// `fence.proxy.async`: what the lanes know is known to the asynchronous proxy, too.
    pub fn fence_proxy(&mut self, warp: usize, lanes: u32) {
        let warp = &mut self.warps[warp];
        let step = warp.step;
        warp.update(lanes, |mind, here| {
            mind.view.clock = mind.view.proxy(here, step);
        });
        warp.end_step();
    }

    /// Lanes arrive at an mbarrier or at the cluster's barrier with `.release`, from whichever
    /// block of the cluster. [`Clocks::end_step`] must follow, once for all lanes of an
    /// instruction.
    pub fn arrive_phase(&mut self, warp: usize, lanes: u32, phases: &mut PhaseClock) {
        give(&self.warps[warp], lanes, &mut phases.pending);
    }

    /// Lanes arrive with `.relaxed`: they give what they had at their last fences.
    pub fn arrive_phase_relaxed(&mut self, warp: usize, lanes: u32, phases: &mut PhaseClock) {
        let warp = &self.warps[warp];
        for lane in registers::lanes(lanes) {
            let mind = warp.minds.iter().find(|(mask, _)| mask >> lane & 1 == 1);
            let view = mind.and_then(|(_, mind)| {
                // An mbarrier has no scopes here.
                mind.released(level(Scope::Cta), Order::Relaxed, lane, warp.step)
            });
            if let Some(view) = view {
                phases.pending.give_released(&view);
            }
        }
    }

    /// Lanes see with `.relaxed` that the last phase is complete: a later fence of theirs takes
    /// what is known through it.
    pub fn observe_phase_relaxed(&mut self, warp: usize, lanes: u32, phases: &PhaseClock) {
        let seen = phases.seen();
        self.warps[warp].update(lanes, |mind, _| {
            join_seen(&mut mind.seen[level(Scope::Cta)], &seen);
        });
    }

    /// Lanes see with `.acquire` that the last phase of such a barrier is complete.
    pub fn observe_phase(&mut self, warp: usize, lanes: u32, phases: &PhaseClock) {
        self.warps[warp].update(lanes, |mind, _| {
            phases.done.take(mind);
            if let Some((mbarrier, phase)) = phases.phase {
                mind.view.clock.learn_phase(mbarrier, phase);
            }
        });
    }

    /// Lanes arrive at a barrier of the block.
    pub fn arrive(&mut self, warp: usize, lanes: u32, barrier: usize) {
        let gate = &mut self.gates[barrier % BARRIERS];
        give(&self.warps[warp], lanes, gate);
        self.warps[warp].end_step();
    }

    /// Lanes that have arrived go on from a barrier that is complete. `of_all`: it was one of all
    /// threads of the block, which counts those that have exited as having arrived.
    pub fn depart(&mut self, warp: usize, lanes: u32, barrier: usize, of_all: bool) {
        let gate = &self.gates[barrier % BARRIERS];
        let Some(mut mind) = gate.mind(warp as u32) else {
            return;
        };
        if of_all {
            self.exited.take(&mut mind);
        }
        let minds = &mut self.warps[warp].minds;
        let mut gone = 0;
        minds.retain_mut(|(mask, _)| {
            gone |= *mask & lanes;
            *mask &= !lanes;
            *mask != 0
        });
        minds.push((gone, mind));
    }

    /// The barrier is complete and all have gone.
    pub fn open(&mut self, barrier: usize) {
        self.gates[barrier % BARRIERS] = Gate::default();
    }

    /// Lanes exit.
    pub fn exit(&mut self, warp: usize, lanes: u32) {
        let clock = &mut self.warps[warp];
        clock.live &= !lanes;
        if clock.live == 0 {
            give(clock, u32::MAX, &mut self.exited);
        }
    }

    fn reach(&self, level: usize) -> Reach {
        Reach {
            block: self.home.block,
            cluster: self.home.cluster,
            level,
            narrow: self.narrow,
        }
    }

    fn mind(&self, warp: usize, lane: usize) -> Option<&Mind> {
        let minds = &self.warps[warp].minds;
        let found = minds.iter().find(|(mask, _)| mask >> lane & 1 == 1);
        found.map(|(_, mind)| mind)
    }

    fn gift(&self, warp: usize, strong: &Strong) -> Gift {
        let mut gift = [const { None }; LEVELS];
        let step = self.warps[warp].step;
        if let Some(mind) = self.mind(warp, strong.lane) {
            for (at, gift) in gift.iter_mut().enumerate().take(level(strong.scope) + 1) {
                *gift = mind.released(at, strong.order, strong.lane, step);
            }
        }
        gift
    }

    /// Strong loads of lanes have read what they found.
    pub(super) fn loaded(&mut self, warp: usize, found: &[(usize, Seen)], order: Order) {
        self.heeds_order |= order != Order::Volatile;
        let mut left: Vec<&(usize, Seen)> = found
            .iter()
            .filter(|(_, seen)| seen.iter().any(Option::is_some))
            .collect();
        // Lanes that have found the same go on knowing the same.
        while let Some((_, seen)) = left.first().copied() {
            let mut lanes = 0;
            left.retain(|(lane, other)| {
                let same = super::mind::is_same_seen(seen, other);
                lanes |= u32::from(same) << lane;
                !same
            });
            self.warps[warp].update(lanes, |mind, _| mind.observe(seen, order));
        }
    }

    pub(super) fn look(&self, strong: &Strong, places: &mut Places) -> Seen {
        places.look(strong.span, self.reach(level(strong.scope)))
    }

    pub(super) fn store(&mut self, warp: usize, strong: &Strong, places: &mut Places) {
        let gift = self.gift(warp, strong);
        places.replace(strong.span, self.reach(level(strong.scope)), &gift);
    }

    pub(super) fn update(&mut self, warp: usize, strong: &Strong, places: &mut Places) {
        self.heeds_order = true;
        let seen = self.look(strong, places);
        self.loaded(warp, &[(strong.lane, seen)], strong.order);
        let gift = self.gift(warp, strong);
        places.add(strong.span, self.reach(level(strong.scope)), &gift);
    }

    /// Ends the step of a warp that has released something.
    pub fn end_step(&mut self, warp: usize) {
        self.warps[warp].end_step();
    }

    /// With the places of the block's own shared memory.
    pub(super) fn with_places<R>(&mut self, f: impl FnOnce(&mut Self, &mut Places) -> R) -> R {
        let mut places = std::mem::take(&mut self.places);
        let result = f(self, &mut places);
        self.places = places;
        result
    }
}

fn give(warp: &WarpClock, lanes: u32, gate: &mut Gate) {
    let step = warp.step;
    let wide = warp.widened(lanes);
    for (mask, mind) in &warp.minds {
        let here = mask & wide;
        if here != 0 {
            // A mind that is alone stands for the lanes that have exited, too.
            let here = if warp.minds.len() == 1 && wide == u32::MAX {
                wide
            } else {
                here
            };
            gate.give(mind, here, step);
        }
    }
}
