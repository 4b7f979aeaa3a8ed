//! The instructions on mbarriers.

use super::fault::FaultKind;
use super::interpret::{Next, Run};
use super::late::{CopyArrival, Late};
use super::mbarrier::{Arrival, Awaited, of_state};
use super::registers::{LANES, lanes};
use super::space::{Spot, addresses, peer};
use super::trap::{Outcome, Trap};
use crate::decode::op::{Inst, Mbarrier, MbarrierOp, Window};

impl Run<'_, '_, '_> {
    pub(super) fn mbarrier(
        &mut self,
        inst: &Inst,
        active: u32,
        how: Mbarrier,
    ) -> Result<Next, Box<Trap>> {
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        let value = if inst.s[1].is_some() {
            self.warp.regs.any(inst.s[1])
        } else {
            [1; LANES]
        };
        if let MbarrierOp::Wait { parity, suspends } = how.op {
            return self.wait_for(inst, active, &targets, &value, (parity, suspends, how));
        }
        let spots = self.mbarrier_spots(how.window, &targets, active)?;
        let copies = matches!(how.op, MbarrierOp::ArriveWhenCopied { .. });
        if copies && self.core.checks.is_some() {
            // They land unseen; whoever sees the phase complete knows that they have.
            self.check_copied(active);
        }
        if how.op != MbarrierOp::Init {
            self.check_mbarriers(active, &spots)?;
            self.visit_mbarriers(active, &spots)?;
        }
        if how.window == Window::Cluster && matches!(how.op, MbarrierOp::Arrive { .. }) {
            self.products_of_all(active);
        }
        let mut states = [0; LANES];
        for lane in lanes(active) {
            let spot = spots[lane];
            let count = value[lane] as u32;
            match how.op {
                MbarrierOp::Init => {
                    self.on(spot, lane, |core, at| core.init_mbarrier(at, count))?;
                    self.initialised(spot.offset, lane);
                }
                MbarrierOp::Invalidate => {
                    self.on(spot, lane, |core, at| core.invalidate_mbarrier(at))?;
                }
                MbarrierOp::ExpectTx => {
                    self.on(spot, lane, |core, at| core.expect_tx(at, count))?
                }
                MbarrierOp::CompleteTx => {
                    self.on(spot, lane, |core, at| core.complete_tx(at, count))?;
                }
                MbarrierOp::Arrive {
                    expects,
                    drops,
                    no_complete,
                } => {
                    let arrival = Arrival {
                        count: if expects { 1 } else { count },
                        expects: if expects { count } else { 0 },
                        drops,
                        no_complete,
                    };
                    self.give_phase(spot, lane, how.order)?;
                    states[lane] =
                        self.on(spot, lane, |core, at| core.arrive_mbarrier(at, arrival))?;
                }
                MbarrierOp::ArriveWhenCopied { increments } => {
                    self.arrive_when_copied(spot.offset, lane, increments)?;
                }
                MbarrierOp::Wait { .. } => {}
            }
        }
        if let MbarrierOp::Arrive { .. } = how.op {
            self.end_step();
        }
        if inst.d[0].is_some() {
            self.warp.regs.set_wide(inst.d[0], active, &states);
        }
        Ok(Next::Step)
    }

    fn mbarrier_spots(
        &mut self,
        window: Window,
        targets: &[u64; LANES],
        active: u32,
    ) -> Result<[Spot; LANES], Box<Trap>> {
        let mut spots = [Spot { rank: 0, offset: 0 }; LANES];
        for lane in lanes(active) {
            spots[lane] = self.mbarrier_spot(window, targets[lane], lane)?;
        }
        Ok(spots)
    }

    /// The mbarrier at an address. Its eight bytes lie in shared memory.
    pub(super) fn mbarrier_spot(
        &mut self,
        window: Window,
        va: u64,
        lane: usize,
    ) -> Result<Spot, Box<Trap>> {
        if !va.is_multiple_of(8) {
            let message = format!("an mbarrier at {va:#x}, which is not a multiple of 8");
            return Err(Trap::new(FaultKind::Misaligned, lane, message));
        }
        self.shared_spot(window, va, 8, lane)
    }

    /// Where `bytes` bytes of shared memory lie, of this block or another one of the cluster.
    pub(super) fn shared_spot(
        &mut self,
        window: Window,
        va: u64,
        bytes: u32,
        lane: usize,
    ) -> Result<Spot, Box<Trap>> {
        let own = self.core.shared.len();
        super::space::shared_spot(window, va, bytes, lane, own, &mut self.peers)
    }

    /// Does something to the mbarrier at `spot`.
    pub(super) fn on<T>(
        &mut self,
        spot: Spot,
        lane: usize,
        act: impl FnOnce(&mut super::block::Core, u32) -> Result<T, String>,
    ) -> Result<T, Box<Trap>> {
        let Spot { rank, offset } = spot;
        let is_own = rank == self.core.rank;
        let core = if is_own {
            &mut *self.core
        } else {
            peer(&mut self.peers, rank, lane)?
        };
        let done = act(core, offset);
        // What another block waits for has changed, as this one sees it, too.
        self.core.changes += u64::from(!is_own);
        done.map_err(|what| mbarrier_fault(spot, is_own, lane, &what))
    }

    fn wait_for(
        &mut self,
        inst: &Inst,
        active: u32,
        targets: &[u64; LANES],
        value: &[u64; LANES],
        (parity, suspends, how): (bool, bool, Mbarrier),
    ) -> Result<Next, Box<Trap>> {
        let spots = self.mbarrier_spots(how.window, targets, active)?;
        self.check_mbarriers(active, &spots)?;
        self.visit_mbarriers(active, &spots)?;
        let mut done = 0;
        for lane in lanes(active) {
            let spot = spots[lane];
            let awaited = if parity {
                Awaited::Parity(value[lane] as u32)
            } else {
                Awaited::Phase(of_state(value[lane]).0)
            };
            if let Awaited::Parity(parity @ 2..) = awaited {
                let message = format!("phase parity {parity}; it is 0 or 1");
                return Err(Trap::new(FaultKind::IllegalInstruction, lane, message));
            }
            if spot.rank != self.core.rank {
                let message = format!(
                    "a wait on an mbarrier of the block of rank {}; a thread waits on those of its \
                     own block only",
                    spot.rank
                );
                return Err(Trap::new(FaultKind::IllegalAddress, lane, message));
            }
            let at = spot.offset;
            self.check_overtaken(at, awaited, lane)?;
            let mut is_done = self.on(spot, lane, |core, at| core.test_mbarrier(at, awaited))?;
            let comes = !self.core.late.is_empty() || !self.core.bulk.is_empty();
            if !is_done && comes {
                is_done = self.land_until(spot, awaited, lane)?;
            }
            if is_done {
                done |= 1 << lane;
                self.warp.spins.done(lane);
            } else {
                let phase = self.core.mbarriers.find(at).map_or(0, |found| found.phase);
                self.warp.spins.waits(lane, self.group.pc, at, phase);
            }
        }
        self.warp.regs.set_pred(inst.d[0], active, done);
        self.observe_phases(done, how.window, targets, how.order)?;
        if done != active {
            // Other blocks of the cluster may arrive; alone, the block has only its own threads.
            let window = if self.peers.size() > 1 {
                Window::Cluster
            } else {
                Window::Shared
            };
            if suspends || done == 0 {
                self.give_way(window);
            }
        }
        Ok(Next::Step)
    }

    /// Finds a thread that waits for a phase while two have passed: its parity is that of the
    /// current one again.
    fn check_overtaken(&self, at: u32, awaited: Awaited, lane: usize) -> Outcome {
        let (Awaited::Parity(parity), Some(spin)) = (awaited, self.warp.spins.of(lane)) else {
            return Ok(());
        };
        if self.core.checks.is_none() || spin.at != at || spin.pc != self.group.pc {
            return Ok(());
        }
        let Some(found) = self.core.mbarriers.find(at) else {
            return Ok(());
        };
        let passed = found.phase.wrapping_sub(spin.phase);
        if passed < 2 || spin.phase & 1 != parity {
            return Ok(());
        }
        let message = format!(
            "mbarrier at {at:#x} of shared memory: the thread waits for its phase {}, and {passed} \
             phases have passed meanwhile, so that the parity {parity} means another one: {}",
            spin.phase,
            found.counts()
        );
        Err(Trap::new(FaultKind::LaunchFailed, lane, message))
    }

    /// `cp.async.mbarrier.arrive` of a lane.
    fn arrive_when_copied(&mut self, at: u32, lane: usize, increments: bool) -> Outcome {
        let spot = Spot {
            rank: self.core.rank,
            offset: at,
        };
        self.on(spot, lane, |core, at| {
            if increments {
                core.add_pending(at)
            } else {
                core.is_mbarrier(at)
            }
        })?;
        let copies = self.warp.copies.take(lane);
        let is_due = self.warp.copies.early || copies.is_empty();
        let arrival = Late::Copies(CopyArrival {
            warp: self.warp.index,
            lane: lane as u32,
            copies,
        });
        if is_due {
            return self.on(spot, lane, |core, at| core.complete(at, arrival));
        }
        self.core.late.push(at, arrival);
        Ok(())
    }
}

/// What is wrong with an mbarrier.
pub(super) fn mbarrier_fault(spot: Spot, is_own: bool, lane: usize, what: &str) -> Box<Trap> {
    let whose = if is_own {
        String::new()
    } else {
        format!(" of the block of rank {}", spot.rank)
    };
    let message = format!(
        "mbarrier at {:#x} of shared memory{whose}: {what}",
        spot.offset
    );
    Trap::new(FaultKind::LaunchFailed, lane, message)
}
