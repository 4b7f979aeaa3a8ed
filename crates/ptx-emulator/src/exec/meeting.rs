//! Operations that lanes do together: they wait until all lanes that the operation names have come,
//! wherever a branch had put them.

use super::fault::FaultKind;
use super::interpret::{Next, Run, first_lane, list};
use super::registers::{collect, lanes};
use super::trap::{Outcome, Trap};
use super::warp::{Group, State};
use super::{exchange, matrix, mma};
use crate::decode::op::{Inst, Op, WarpOp};

impl Run<'_, '_, '_> {
    /// A warp operation whose lanes are all here.
    pub(super) fn together(&mut self, inst: &Inst, mask: u32) -> Outcome {
        if let Some(counting) = &mut self.worker.counting {
            counting.executed(inst, self.group.pc, mask, &self.warp.regs);
        }
        if self.core.checks.is_some() {
            match inst.op {
                Op::Warp(WarpOp::LoadMatrix {
                    transposed, window, ..
                }) => {
                    self.check_matrix(inst, transposed, window, true)?;
                }
                Op::Warp(WarpOp::StoreMatrix {
                    transposed, window, ..
                }) => {
                    self.check_matrix(inst, transposed, window, false)?;
                }
                Op::Wgmma(op) => self.check_wgmma(inst, op)?,
                _ => self.check_together(inst, mask)?,
            }
        }
        let launch = self.launch;
        let regs = &mut self.warp.regs;
        match inst.op {
            Op::Warp(op) => match op {
                WarpOp::Shuffle(mode) => exchange::shuffle(regs, inst, mask, mode),
                WarpOp::Vote(vote, negated) => exchange::vote(regs, inst, mask, vote, negated),
                WarpOp::MatchAny => exchange::match_any(regs, inst, mask),
                WarpOp::MatchAll => exchange::match_all(regs, inst, mask),
                WarpOp::Redux(op) => exchange::redux(regs, inst, mask, op),
                WarpOp::Elect => exchange::elect(regs, inst, mask),
                WarpOp::MoveMatrix => matrix::move_transposed(regs, inst),
                WarpOp::LoadMatrix {
                    transposed, window, ..
                } => {
                    let (regs, _, mut spaces) = self.parts();
                    return matrix::load(
                        regs,
                        &mut spaces,
                        inst,
                        list(launch, inst),
                        transposed,
                        window,
                    );
                }
                WarpOp::StoreMatrix {
                    transposed, window, ..
                } => {
                    let (regs, _, mut spaces) = self.parts();
                    return matrix::store(
                        regs,
                        &mut spaces,
                        inst,
                        list(launch, inst),
                        transposed,
                        window,
                    );
                }
                WarpOp::SyncWarp | WarpOp::ActiveMask | WarpOp::Pause => {}
            },
            Op::Wgmma(op) => return self.wgmma_together(inst, op),
            Op::Mma(op) => {
                self.core.counts.mma_flops += mma::flops(op);
                mma::mma(regs, list(launch, inst), op, self.launch.numerics);
            }
            _ => {}
        }
        Ok(())
    }

    /// A `.sync` operation of lanes that name different member masks, or that are not all here.
    #[cold]
    pub(super) fn meet_by_mask(&mut self, inst: &Inst, active: u32) -> Result<Next, Box<Trap>> {
        let members = *self.warp.regs.word(inst.s[3]);
        if let Some(lane) = lanes(active).find(|&lane| members[lane] >> lane & 1 == 0) {
            let message = format!(
                "member mask {:#010x} lacks lane {lane}, which executes the instruction",
                members[lane]
            );
            return Err(Trap::new(FaultKind::IllegalInstruction, lane, message));
        }
        let mut left = active;
        while left != 0 {
            let mask = members[first_lane(left)];
            let same = left & collect(|lane| members[lane] == mask);
            left &= !same;
            if let Next::Leave = self.meet(inst, same, mask)? {
                return Ok(Next::Leave);
            }
        }
        Ok(Next::Step)
    }

    /// Executes the operation if, with the lanes that already wait for it, all live lanes of
    /// `members` are there. Otherwise `active` waits.
    #[cold]
    pub(super) fn meet(
        &mut self,
        inst: &Inst,
        active: u32,
        members: u32,
    ) -> Result<Next, Box<Trap>> {
        let needs_all = matches!(
            inst.op,
            Op::Mma(_)
                | Op::Wgmma(_)
                | Op::Warp(
                    WarpOp::LoadMatrix { .. } | WarpOp::StoreMatrix { .. } | WarpOp::MoveMatrix
                )
        );
        if needs_all && !self.warp.all_lanes_live() {
            let message = format!(
                "needs all 32 lanes of the warp; {:#010x} are left",
                self.warp.live
            );
            return Err(Trap::new(
                FaultKind::IllegalInstruction,
                first_lane(active),
                message,
            ));
        }
        let (code, pc) = (&self.launch.kernel.code, self.group.pc);
        let is_sync = inst.op == Op::Warp(WarpOp::SyncWarp);
        let waits_here = |group: &Group| {
            group.state == State::Rendezvous(members)
                && (group.pc == pc || (is_sync && code[group.pc as usize].op == inst.op))
        };
        let here = self
            .warp
            .groups
            .iter()
            .filter(|g| waits_here(g))
            .fold(active, |all, g| all | g.mask);
        if here != members & self.warp.live {
            return self.park(active, State::Rendezvous(members));
        }
        for group in self.warp.groups.iter_mut().filter(|g| waits_here(g)) {
            group.state = State::Ready;
            group.pc += 1;
        }
        self.together(inst, here)?;
        Ok(Next::Step)
    }

    /// Lanes have exited: those that waited for them look again.
    pub(super) fn wake_meetings(&mut self) {
        for group in &mut self.warp.groups {
            if let State::Rendezvous(_) = group.state {
                group.state = State::Ready;
            }
        }
    }
}
