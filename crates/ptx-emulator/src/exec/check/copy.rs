//! `cp.async`: issued, landed, forgotten.

use super::gather::{Fate, Gathered, LaneRun};
use super::spot::{Spot, all};
use super::{Checks, line};
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
        let reading = self.blank(checks, &me, line::FLIGHT);
        let writing = self.blank(checks, &me, line::FLIGHT | line::WRITE);
        let mut gathered = std::mem::take(&mut checks.gathered);
        let mut targets = Gathered::default();
        let mut single = active;
        let whole = !inst.s[2].is_some() && ignored & active == 0;
        let mut left = if whole { active } else { 0 };
        while left != 0 {
            let run = LaneRun::of(left, &to, bytes);
            let other = LaneRun::of(left, &from, bytes);
            let run = LaneRun {
                count: run.count.min(other.count),
                ..run
            };
            left &= !run.mask();
            let all = bytes * run.count as u32;
            let source = self.spot(Window::Global, from[run.first], run.first, all);
            let target = self.spot(Window::Shared, to[run.first], run.first, all);
            if source.is_common() && target.is_common() && self.is_defined(checks, &source, all) {
                gathered.add_run(&source, run, bytes, &reading);
                targets.add_run(&target, run, bytes, &writing);
                if let Spot::Shared(at) = target {
                    checks.shared.issue_whole(at, all);
                }
                single &= !run.mask();
            }
        }
        for lane in lanes(single) {
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
                gathered.add(&spot, lane, source, &reading);
                defined &= self.defined(checks, &spot, source) | !all(source);
            }
            let spot = self.spot(Window::Shared, to[lane], lane, bytes);
            targets.add(&spot, lane, bytes, &writing);
            if let Spot::Shared(at) = spot {
                checks.shared.issue(at, bytes, defined);
            }
        }
        let done = self
            .commit(checks, &me, &mut gathered, Fate::Touch, None)
            .and_then(|()| self.commit(checks, &me, &mut targets, Fate::Touch, None));
        checks.gathered = gathered;
        done
    }

    /// The lanes wait for all but the newest `keep` groups of theirs, or for everything.
    pub(super) fn land(&mut self, checks: &mut Checks, active: u32, keep: Option<u32>) {
        let me = checks.me(self);
        let base = self.core.shared.pointer() as usize;
        let read = self.blank(checks, &me, 0);
        let written = self.blank(checks, &me, line::WRITE | line::COPIED);
        let mut gathered = std::mem::take(&mut checks.gathered);
        for copy in self.warp.copies.due(active, keep) {
            let targets = copy.to.map(|to| to.wrapping_sub(base) as u64);
            let mut left = copy.lanes;
            while left != 0 {
                let mut run = LaneRun::of(left, &targets, copy.bytes);
                let first = run.first;
                let source_bytes = u32::from(copy.source_bytes[first]);
                if source_bytes == copy.bytes {
                    let other = LaneRun::of(left, &copy.sources, copy.bytes);
                    run.count = run.count.min(other.count);
                    let whole = |lane: &usize| u32::from(copy.source_bytes[*lane]) == copy.bytes;
                    run.count = run.lanes().take_while(whole).count();
                } else {
                    run.count = 1;
                }
                left &= !run.mask();
                checks
                    .shared
                    .landed(targets[first], copy.bytes * run.count as u32);
                gathered.add_run(&Spot::Shared(targets[first]), run, copy.bytes, &written);
                let all = source_bytes * run.count as u32;
                if all > 0 {
                    let spot = self.spot(Window::Global, copy.sources[first], first, all);
                    gathered.add_run(&spot, run, source_bytes, &read);
                }
            }
        }
        // Nothing is compared, so nothing can be found.
        let landed = self.commit(checks, &me, &mut gathered, Fate::Land, None);
        checks.gathered = gathered;
        debug_assert!(landed.is_ok());
    }
}
