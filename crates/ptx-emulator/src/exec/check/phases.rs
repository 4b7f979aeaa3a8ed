//! What barriers order whose phases threads wait for: mbarriers, and the cluster's barrier.

use super::Checks;
use super::order::PhaseClock;
use crate::decode::op::{Order, Window};
use crate::exec::block::Core;
use crate::exec::interpret::Run;
use crate::exec::registers::lanes;
use crate::exec::space::Spot;
use crate::exec::trap::Outcome;

impl Checks {
    /// Lanes pass the cluster's barrier.
    pub(in crate::exec) fn pass_cluster(&mut self, warp: u32, lanes: u32, clock: &PhaseClock) {
        self.clocks.observe_phase(warp as usize, lanes, clock);
    }

    /// A warp has waited for its products: each lane knows that they are done.
    pub(in crate::exec) fn give_products(&mut self, warp: usize, clock: &mut PhaseClock) {
        self.clocks.meet(warp, u32::MAX);
        self.clocks.arrive_phase(warp, u32::MAX, clock);
        clock.turn_over();
        self.clocks.end_step(warp);
    }

    /// Lanes know what the warps of their warpgroup knew at their last waits for products, and each
    /// of them that the reads are over which they have ended together.
    pub(in crate::exec) fn take_products(&mut self, warp: usize, lanes: u32, clock: &PhaseClock) {
        self.clocks.meet(warp, lanes);
        self.clocks.observe_phase(warp, lanes, clock);
    }

    /// `griddepcontrol.wait`: the launches that this one may run beside are complete.
    pub(in crate::exec) fn learn_primary(&mut self, warp: u32, lanes: u32) {
        self.clocks.learn_primary(warp as usize, lanes);
    }
}

impl Core {
    /// A thread's copies have landed, and it is about to arrive on an mbarrier.
    pub(in crate::exec) fn give_copies(&mut self, mbarrier: u32, warp: u32, lane: u32) {
        if let (Some(checks), Some(clock)) = (&mut self.checks, self.mbarriers.clock(mbarrier)) {
            checks.clocks.arrive_phase(warp as usize, 1 << lane, clock);
            checks.clocks.end_step(warp as usize);
        }
    }
}

impl Run<'_, '_, '_> {
    /// A lane arrives on an mbarrier: whoever sees the phase complete knows what the lane knows, or
    /// where it arrives without `.release` what it knew at its last fence.
    pub(in crate::exec) fn give_phase(&mut self, spot: Spot, lane: usize, order: Order) -> Outcome {
        let Some(mut checks) = self.core.checks.take() else {
            return Ok(());
        };
        let warp = self.warp.index as usize;
        let done = self.on(spot, lane, |core, at| {
            match core.mbarriers.clock(at) {
                Some(clock) if order.releases() => {
                    checks.clocks.arrive_phase(warp, 1 << lane, clock);
                }
                Some(clock) => checks.clocks.arrive_phase_relaxed(warp, 1 << lane, clock),
                None => {}
            }
            Ok(())
        });
        self.core.checks = Some(checks);
        done
    }

    /// All lanes of an instruction have arrived.
    pub(in crate::exec) fn end_step(&mut self) {
        if let Some(checks) = &mut self.core.checks {
            checks.clocks.end_step(self.warp.index as usize);
        }
    }

    /// Lanes see that phases of mbarriers of their block are complete.
    pub(in crate::exec) fn observe_phases(
        &mut self,
        done: u32,
        window: Window,
        targets: &[u64],
        order: Order,
    ) -> Outcome {
        if self.core.checks.is_none() {
            return Ok(());
        }
        let mut left = done;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let same = lanes(left).filter(|&other| targets[other] == targets[lane]);
            let together = same.fold(0, |all, other| all | 1 << other);
            left &= !together;
            let Spot { offset, .. } = self.mbarrier_spot(window, targets[lane], lane)?;
            let core = &mut *self.core;
            if let (Some(checks), Some(clock)) = (&mut core.checks, core.mbarriers.clock(offset)) {
                let warp = self.warp.index as usize;
                if order.acquires() {
                    checks.clocks.observe_phase(warp, together, clock);
                } else {
                    checks.clocks.observe_phase_relaxed(warp, together, clock);
                }
            }
        }
        Ok(())
    }

    /// Lanes arrive at the cluster's barrier: without `.release` they give what they knew at their
    /// last fences.
    pub(in crate::exec) fn give_cluster(&mut self, active: u32, order: Order) {
        if let Some(checks) = &mut self.core.checks {
            let warp = self.warp.index as usize;
            let clock = &mut self.peers.barrier.clock;
            if order.releases() {
                checks.clocks.arrive_phase(warp, active, clock);
            } else {
                checks.clocks.arrive_phase_relaxed(warp, active, clock);
            }
            checks.clocks.end_step(warp);
        }
    }

    pub(in crate::exec) fn pass_cluster(&mut self, lanes: u32) {
        if let Some(checks) = self.core.checks.as_mut().filter(|_| lanes != 0) {
            checks.pass_cluster(self.warp.index, lanes, &self.peers.barrier.clock);
        }
    }
}
