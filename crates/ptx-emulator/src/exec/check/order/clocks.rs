//! What happens before what, between the warps of a block: a vector clock for each warp. A barrier,
//! or an operation on memory that orders threads, hands on what a warp knows of the others.

use super::Stamp;
use crate::exec::check::{Me, WARPS};

pub(in crate::exec) type Clock = [u32; WARPS];

pub(in crate::exec) struct Clocks {
    /// `of[w][u]`: up to which of its own steps warp w knows warp u's accesses to be done.
    of: Vec<Clock>,
    /// What those who have come to a barrier know together.
    gathered: [Clock; 16],
    /// What the warps know that have done an atomic, a fence or a strong access. All of these count
    /// as accesses to one place, so this may order more than the program does, but not less.
    ordered: Clock,
}

fn join(into: &mut Clock, from: &Clock) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

impl Clocks {
    pub fn new(warps: usize) -> Self {
        let mut clocks = Clocks {
            of: vec![[0; WARPS]; warps],
            gathered: [[0; WARPS]; 16],
            ordered: [0; WARPS],
        };
        clocks.reset();
        clocks
    }

    pub fn reset(&mut self) {
        for (warp, clock) in self.of.iter_mut().enumerate() {
            *clock = [0; WARPS];
            clock[warp] = 1;
        }
        self.gathered = [[0; WARPS]; 16];
        self.ordered = [0; WARPS];
    }

    pub fn of(&self, warp: usize) -> &Clock {
        &self.of[warp]
    }

    /// The step of an ordinary access of the warp.
    pub fn now(&self, warp: usize) -> u32 {
        self.of[warp][warp]
    }

    /// The step of a strong access of a lane.
    pub fn strong_step(&self, warp: usize, _lane: usize) -> u32 {
        self.of[warp][warp]
    }

    /// Which of `lanes` of the warp know the access to be done.
    pub fn knows(&self, me: &Me, lanes: u32, stamp: Stamp) -> u32 {
        if stamp.block != me.block {
            return lanes;
        }
        let known = self.of[me.warp][stamp.warp as usize];
        let done = if stamp.warp as usize == me.warp {
            stamp.step < known
        } else {
            stamp.step <= known
        };
        if done {
            lanes
        } else if stamp.warp as usize == me.warp {
            lanes & 1 << stamp.lane
        } else {
            0
        }
    }

    /// The same for an access by the generic proxy, as seen by the asynchronous one: a
    /// `fence.proxy.async` lies between the two.
    pub fn knows_proxied(&self, me: &Me, lanes: u32, stamp: Stamp) -> u32 {
        self.knows(me, lanes, stamp)
    }

    /// Which of `lanes` of the warp know a phase of an mbarrier to be complete, and with it the
    /// asynchronous writes that it waited for. `mbarrier` is a number that nothing else has.
    pub fn knows_phase(&self, _me: &Me, lanes: u32, _mbarrier: u64, _phase: u32) -> u32 {
        lanes
    }

    /// Ends the warp's current step.
    pub fn step(&mut self, warp: usize) {
        self.of[warp][warp] = self.of[warp][warp].saturating_add(1);
    }

    pub fn arrive(&mut self, warp: usize, barrier: usize) {
        join(&mut self.gathered[barrier % 16], &self.of[warp]);
        self.step(warp);
    }

    /// The warp goes on from a barrier that is complete.
    pub fn depart(&mut self, warp: usize, barrier: usize) {
        join(&mut self.of[warp], &self.gathered[barrier % 16]);
    }

    /// The barrier is complete and all have gone.
    pub fn open(&mut self, barrier: usize) {
        self.gathered[barrier % 16] = [0; WARPS];
    }

    pub fn acquire(&mut self, warp: usize) {
        join(&mut self.of[warp], &self.ordered);
    }

    pub fn release(&mut self, warp: usize) {
        join(&mut self.ordered, &self.of[warp]);
        self.step(warp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_orders_what_came_before_it() {
        let mut clocks = Clocks::new(3);
        let before = clocks.of(0)[0];
        clocks.arrive(0, 1);
        let after = clocks.of(0)[0];
        clocks.arrive(1, 1);
        clocks.depart(1, 1);
        assert!(clocks.of(1)[0] >= before && clocks.of(1)[0] < after);
        assert!(clocks.of(2)[0] < before);
    }

    #[test]
    fn only_what_was_released_is_acquired() {
        let mut clocks = Clocks::new(2);
        clocks.acquire(1);
        assert!(clocks.of(1)[0] < clocks.of(0)[0]);
        let before = clocks.of(0)[0];
        clocks.release(0);
        clocks.acquire(1);
        assert!(clocks.of(1)[0] >= before && clocks.of(1)[0] < clocks.of(0)[0]);
    }
}
