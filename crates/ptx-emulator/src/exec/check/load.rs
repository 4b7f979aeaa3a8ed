//! Loads: what they bring may be undefined.

use super::Checks;
use super::access::Begun;
use super::gather::{Fate, LaneRun};
use super::line::{self, Flags};
use super::spot::{all, spread};
use crate::decode::op::{Access, Extend, Inst, Order, Reg, RegList, Width};
use crate::exec::interpret::Run;
use crate::exec::registers::{LANES, Wides, lanes};
use crate::exec::trap::Outcome;

/// What a load is.
fn flags(access: Access) -> Flags {
    let mut flags = 0;
    if access.is_strong() {
        flags |= line::strong(access.scope);
    }
    if access.order == Order::Volatile && !access.polls {
        flags |= line::VOLATILE;
    }
    if access.read_only {
        flags |= line::READ_ONLY;
    }
    flags
}

impl Run<'_, '_, '_> {
    pub(super) fn load_action(
        &mut self,
        checks: &mut Checks,
        inst: &Inst,
        list: &RegList,
        active: u32,
        access: Access,
    ) -> Outcome {
        let Begun { me, targets, bytes } = self.begin(checks, inst, active, access)?;
        let mut undefined = [0_u64; LANES];
        let mut gathered = std::mem::take(&mut checks.gathered);
        let like = self.blank(checks, &me, flags(access));
        let mut single = active;
        let mut left = if access.is_strong() { 0 } else { active };
        while left != 0 {
            let run = LaneRun::of(left, &targets, bytes);
            left &= !run.mask();
            if run.count == 1 {
                continue;
            }
            let all = bytes * run.count as u32;
            let spot = self.spot(access.window, targets[run.first], run.first, all);
            if spot.is_common() && self.is_defined(checks, &spot, all) {
                gathered.add_run(&spot, run, bytes, &like);
                single &= !run.mask();
            }
        }
        for lane in lanes(single) {
            let spot = self.spot(access.window, targets[lane], lane, bytes);
            gathered.add(&spot, lane, bytes, &like);
            undefined[lane] = !self.defined(checks, &spot, bytes) & all(bytes);
            if undefined[lane] != 0 {
                self.remember_unwritten(checks, &spot, lane);
            }
        }
        let done = self.commit(checks, &me, &mut gathered, Fate::Touch, None);
        checks.gathered = gathered;
        done?;
        self.loaded(
            checks,
            &list.defs,
            active,
            &undefined,
            access.width,
            access.extend,
        );
        Ok(())
    }

    /// Registers get loaded bytes; those in `undefined` hold nothing.
    #[allow(clippy::too_many_arguments)] // One access, as its caller sees it.
    pub(super) fn loaded(
        &mut self,
        checks: &mut Checks,
        defs: &[Reg],
        active: u32,
        undefined: &[u64; LANES],
        width: Width,
        extend: Extend,
    ) {
        let any = undefined.iter().any(|&u| u != 0);
        if !any && !self.tainted() {
            return;
        }
        if any {
            self.core.tainted |= 1 << self.warp.index;
        }
        let poison = &mut checks.warps[self.warp.index as usize].poison;
        for (element, reg) in defs.iter().enumerate() {
            let mut out: Wides = [0; LANES];
            for lane in 0..LANES {
                let bytes =
                    undefined[lane] >> (element as u32 * width.bytes()) & all(width.bytes());
                let mut bits = spread(bytes);
                if extend != Extend::Zero && bytes >> (width.bytes() - 1) & 1 == 1 {
                    bits |= u64::MAX << (8 * width.bytes() - 1);
                }
                out[lane] = bits;
            }
            poison.set_any(*reg, active, &out);
        }
    }
}
