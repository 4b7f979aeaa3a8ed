//! Loads: what they bring may be undefined.

use super::access::Begun;
use super::spot::{all, spread};
use super::{Action, Checks, Touch};
use crate::decode::op::{Access, Extend, Inst, Reg, RegList, Width};
use crate::exec::interpret::Run;
use crate::exec::registers::{LANES, Wides, lanes};
use crate::exec::trap::Outcome;

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
        for lane in lanes(active) {
            let spot = self.spot(access.window, targets[lane], lane, bytes);
            if !access.is_strong() {
                self.record(checks, &me, &spot, Touch::new(lane, bytes, Action::Read))?;
            }
            undefined[lane] = !self.defined(checks, &spot, bytes) & all(bytes);
            if undefined[lane] != 0 {
                self.remember_unwritten(checks, &spot, lane);
            }
        }
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
