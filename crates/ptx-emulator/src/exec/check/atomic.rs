//! Atomics.

use super::gather::{Fate, Gathered};
use super::line;
use super::spot::all;
use super::{Checks, report};
use crate::decode::op::{Atomic, AtomicOp, Extend, Inst, Width};
use crate::exec::interpret::{Run, list};
use crate::exec::registers::{LANES, lanes};
use crate::exec::space::addresses;
use crate::exec::trap::Outcome;

impl Run<'_, '_, '_> {
    pub(super) fn atomic_action(
        &mut self,
        checks: &mut Checks,
        inst: &Inst,
        active: u32,
        atomic: Atomic,
    ) -> Outcome {
        self.address_defined(checks, inst.s[0], active)?;
        let me = checks.me(self);
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        let bytes = atomic.bytes();
        let list = list(self.launch, inst);
        let mut undefined = [0; LANES];
        let swap = if atomic.op == AtomicOp::CompareSwap {
            line::SWAP
        } else {
            0
        };
        let flags = line::WRITE | line::ATOMIC | line::strong(atomic.scope) | swap;
        let like = self.blank(checks, &me, flags);
        let mut gathered = Gathered::default();
        for lane in lanes(active) {
            let spot = self.spot(atomic.window, targets[lane], lane, bytes);
            let warp = &checks.warps[me.warp];
            if self.tainted()
                && inst.s[1..3]
                    .iter()
                    .chain(&list.uses)
                    .any(|r| r.is_some() && warp.poison.lane(*r, lane) != 0)
            {
                return Err(report::undefined(self, checks, lane, "an atomic's operand"));
            }
            let missing = !self.defined(checks, &spot, bytes) & all(bytes);
            if missing != 0 && atomic.op != AtomicOp::Exchange {
                self.remember_unwritten(checks, &spot, lane);
                return Err(report::undefined(
                    self,
                    checks,
                    lane,
                    "the old value of an atomic operation",
                ));
            }
            undefined[lane] = missing;
            gathered.add(&spot, lane, bytes, &like);
            self.define(checks, &spot, bytes, all(bytes));
        }
        self.commit(checks, &me, &mut gathered, Fate::Touch, None)?;
        let returned = if inst.d[0].is_some() {
            &inst.d[..1]
        } else {
            &list.defs
        };
        if !returned.is_empty() {
            let width = match atomic.kind.bytes() {
                2 => Width::B16,
                4 => Width::B32,
                _ => Width::B64,
            };
            self.loaded(checks, returned, active, &undefined, width, Extend::Zero);
        }
        Ok(())
    }
}
