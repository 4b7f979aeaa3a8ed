//! Clusters and mbarriers: what they order, mbarriers used before their initialisation is known,
//! and blocks that exit while others use their memory.

use super::order::Stamp;
use super::report::thread_of;
use super::{Checks, Me, Party};
use crate::decode::op::{Inst, Op, Window};
use crate::exec::block::Core;
use crate::exec::fault::FaultKind;
use crate::exec::interpret::Run;
use crate::exec::launch::Launch;
use crate::exec::mbarrier::Mbarrier;
use crate::exec::registers::{LANES, lanes};
use crate::exec::space::{Spot, addresses, block_of, peer};
use crate::exec::trap::{Outcome, Trap};

/// An access that a report names.
#[derive(Clone, Copy, Debug)]
pub(in crate::exec) struct Origin {
    stamp: Stamp,
    pc: usize,
}

impl Origin {
    fn party(&self) -> Party {
        Party {
            block: self.stamp.block,
            warp: self.stamp.warp as usize,
            lane: self.stamp.lane as usize,
            pc: self.pc,
        }
    }
}

/// The last use of a block's shared memory by a warp of another block.
#[derive(Clone, Copy, Debug)]
pub(in crate::exec) struct Visitor {
    origin: Origin,
    /// The phase of the cluster's barrier at which its thread has yet to arrive.
    phase: u32,
}

impl Checks {
    fn origin(&self, me: &Me, lane: usize) -> Origin {
        Origin {
            stamp: Stamp {
                block: me.block,
                warp: me.warp as u32,
                lane: lane as u32,
                step: self.clocks.now(me.warp),
            },
            pc: me.pc,
        }
    }

    /// Eight bytes of shared memory hold an mbarrier from now on.
    pub(in crate::exec) fn define_mbarrier(&mut self, at: u32) {
        self.shared.define(u64::from(at), 8, 0xff);
    }

    /// Bytes of shared memory have been written from elsewhere.
    pub(in crate::exec) fn define_bytes(&mut self, at: u32, bytes: u32) {
        for first in (0..bytes).step_by(64) {
            let bytes = (bytes - first).min(64);
            let all = u64::MAX >> (64 - bytes);
            self.shared.define(u64::from(at + first), bytes, all);
        }
    }
}

impl Run<'_, '_, '_> {
    fn mbarrier_of<'a>(
        core: &'a mut Core,
        peers: &'a mut crate::exec::cluster::Peers<'_>,
        spot: Spot,
        lane: usize,
    ) -> Result<(Option<&'a mut Checks>, Option<&'a mut Mbarrier>), Box<Trap>> {
        if spot.rank == core.rank {
            let found = core.mbarriers.find_mut(spot.offset);
            return Ok((core.checks.as_deref_mut(), found));
        }
        let other = peer(peers, spot.rank, lane)?;
        Ok((
            core.checks.as_deref_mut(),
            other.mbarriers.find_mut(spot.offset),
        ))
    }

    /// Before lanes use mbarriers: each must know of the initialisation.
    pub(in crate::exec) fn check_mbarriers(
        &mut self,
        active: u32,
        spots: &[Spot; LANES],
    ) -> Outcome {
        if self.core.checks.is_none() {
            return Ok(());
        }
        let mut left = active;
        while left != 0 {
            let lane = left.trailing_zeros() as usize % LANES;
            let spot = spots[lane];
            let same = left & crate::exec::registers::collect(|lane| spots[lane] == spot);
            left &= !same;
            let me = Me {
                block: self.core.linear,
                warp: self.warp.index as usize,
                pc: self.group.pc as usize,
            };
            let (Some(checks), Some(mbarrier)) =
                Self::mbarrier_of(self.core, &mut self.peers, spot, lane)?
            else {
                continue;
            };
            if let Some(origin) = mbarrier.origin {
                let missing = same & !checks.clocks.knows(&me, same, origin.stamp);
                if missing != 0 {
                    return Err(uninitialised(self.launch, spot, missing, origin));
                }
            }
        }
        Ok(())
    }

    /// Notes that lanes use the mbarriers of other blocks. Asynchronous operations do not: what
    /// waits for them is their completion, not the thread that issued them.
    pub(in crate::exec) fn visit_mbarriers(
        &mut self,
        active: u32,
        spots: &[Spot; LANES],
    ) -> Outcome {
        let mut ranks = [self.core.rank; LANES];
        for lane in lanes(active) {
            ranks[lane] = spots[lane].rank;
        }
        self.visit_all(active, &ranks)
    }

    /// A lane has initialised an mbarrier of the block.
    pub(in crate::exec) fn initialised(&mut self, at: u32, lane: usize) {
        let me = Me {
            block: self.core.linear,
            warp: self.warp.index as usize,
            pc: self.group.pc as usize,
        };
        let Some(checks) = self.core.checks.as_deref_mut() else {
            return;
        };
        checks.define_mbarrier(at);
        if let Some(mbarrier) = self.core.mbarriers.find_mut(at) {
            mbarrier.origin = Some(checks.origin(&me, lane));
        }
    }

    /// A warp uses the shared memory of another block.
    fn visit(&mut self, rank: u32, origin: Origin, lane: usize) -> Outcome {
        let current = self.peers.barrier.phase;
        let arrived = self.warp.arrived.of(current) >> lane & 1;
        let visitor = Visitor {
            origin,
            phase: current.wrapping_add(arrived),
        };
        let core = peer(&mut self.peers, rank, lane)?;
        let who = |other: &Visitor| (other.origin.stamp.block, other.origin.stamp.warp);
        match core
            .visitors
            .iter_mut()
            .find(|other| who(other) == who(&visitor))
        {
            Some(known) => *known = visitor,
            None => core.visitors.push(visitor),
        }
        Ok(())
    }

    /// Notes that a load, a store or an atomic uses the shared memory of other blocks.
    pub(super) fn visit_peers(&mut self, inst: &Inst, active: u32) -> Outcome {
        let window = match inst.op {
            Op::Load(access) | Op::Store(access) => access.window,
            Op::Atomic(atomic) => atomic.window,
            _ => return Ok(()),
        };
        if !matches!(window, Window::Cluster | Window::Generic) {
            return Ok(());
        }
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        let mut ranks = [self.core.rank; LANES];
        for lane in lanes(active) {
            if let Some((Some(rank), _)) = block_of(window, targets[lane]) {
                ranks[lane] = rank;
            }
        }
        self.visit_all(active, &ranks)
    }

    fn visit_all(&mut self, active: u32, ranks: &[u32; LANES]) -> Outcome {
        let Some(checks) = self.core.checks.as_deref() else {
            return Ok(());
        };
        let me = Me {
            block: self.core.linear,
            warp: self.warp.index as usize,
            pc: self.group.pc as usize,
        };
        let mut found = Vec::new();
        for lane in lanes(active).filter(|&lane| ranks[lane] != self.core.rank) {
            if !found.iter().any(|&(rank, _, _)| rank == ranks[lane]) {
                found.push((ranks[lane], checks.origin(&me, lane), lane));
            }
        }
        for (rank, origin, lane) in found {
            self.visit(rank, origin, lane)?;
        }
        Ok(())
    }

    /// Lanes exit: what they know to be done no longer needs the block.
    pub(in crate::exec) fn see_off(&mut self, active: u32) {
        let me = Me {
            block: self.core.linear,
            warp: self.warp.index as usize,
            pc: self.group.pc as usize,
        };
        if let Some(checks) = self.core.checks.as_deref()
            && !self.core.visitors.is_empty()
        {
            let clocks = &checks.clocks;
            let is_known = |v: &Visitor| clocks.knows(&me, active, v.origin.stamp) != 0;
            self.core.visitors.retain(|visitor| !is_known(visitor));
        }
    }
}

/// Lanes of the block go on from the cluster's barrier in this phase: what came before it is done.
pub(in crate::exec) fn passed(core: &mut Core, phase: u32) {
    core.visitors
        .retain(|visitor| visitor.phase.wrapping_sub(phase).cast_signed() > 0);
}

/// All threads of the block have exited, and nothing orders a use of its memory by another block
/// before that.
pub(in crate::exec) fn visited(launch: &Launch<'_>, core: &Core) -> Option<Box<Trap>> {
    let visitor = core.visitors.first()?;
    let message = format!(
        "the block exits while others of its cluster may use its shared memory: nothing orders before \
         its exit the use by {}; wait for it, by barrier.cluster for example",
        thread_of(launch, None, visitor.origin.party())
    );
    Some(Trap::new(FaultKind::LaunchFailed, 0, message))
}

#[cold]
fn uninitialised(launch: &Launch<'_>, spot: Spot, missing: u32, origin: Origin) -> Box<Trap> {
    let message = format!(
        "race: mbarrier at {:#x} of shared memory of the block of rank {} is used with nothing to \
         order that after its mbarrier.init by {}",
        spot.offset,
        spot.rank,
        thread_of(launch, None, origin.party())
    );
    Trap::new(
        FaultKind::LaunchFailed,
        missing.trailing_zeros() as usize % LANES,
        message,
    )
}
