//! `cp.async`: issued, landed, forgotten.

use super::spot::{Spot, all};
use super::{Action, Checks, Touch};
use crate::decode::op::{Inst, Window};
use crate::exec::interpret::Run;
use crate::exec::registers::{FULL, lanes};
use crate::exec::space::addresses;
use crate::exec::trap::Outcome;

impl Run<'_, '_, '_> {
    pub(super) fn copy_action(
        &mut self,
        checks: &mut Checks,
        inst: &Inst,
        active: u32,
        bytes: u32,
        ignore_negated: bool,
    ) -> Outcome {
        for reg in inst.s.iter().take(3) {
            self.address_defined(checks, *reg, active)?;
        }
        let me = checks.me(self);
        let to = addresses(&self.warp.regs, inst.s[0], inst.imm);
        let from = addresses(&self.warp.regs, inst.s[1], inst.list.cast_signed());
        let ignored = if inst.s[3].is_some() {
            self.warp.regs.pred(inst.s[3]) ^ if ignore_negated { FULL } else { 0 }
        } else {
            0
        };
        for lane in lanes(active) {
            let mut source = bytes;
            if inst.s[2].is_some() {
                source = source.min(self.warp.regs.word(inst.s[2])[lane]);
            }
            if ignored >> lane & 1 == 1 {
                source = 0;
            }
            let mut defined = all(bytes);
            if source > 0 {
                let spot = self.spot(Window::Global, from[lane], lane, source);
                self.record(checks, &me, &spot, Touch::new(lane, source, Action::Read))?;
                defined &= self.defined(checks, &spot, source) | !all(source);
            }
            let spot = self.spot(Window::Shared, to[lane], lane, bytes);
            self.record(checks, &me, &spot, Touch::new(lane, bytes, Action::Copy))?;
            if let Spot::Shared(at) = spot {
                checks.shared.issue(at, bytes, defined);
            }
        }
        Ok(())
    }

    /// The lanes wait for all but the newest `keep` groups of theirs, or for everything.
    pub(super) fn land(&mut self, checks: &mut Checks, active: u32, keep: Option<u32>) {
        let me = checks.me(self);
        let base = self.core.shared.pointer() as usize;
        let (shared, clocks) = (&mut checks.shared, &checks.clocks);
        self.warp.copies.each_due(active, keep, |lane, to, bytes| {
            shared.land(&me, lane, (to - base) as u64, bytes as u32, clocks);
        });
    }
}
