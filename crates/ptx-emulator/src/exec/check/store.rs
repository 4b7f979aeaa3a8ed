//! Stores: what they leave may be undefined, and what changes nothing is no write.

use super::access::Begun;
use super::spot::{Spot, all, gather};
use super::{Action, Checks, Touch, report};
use crate::decode::op::{Access, Inst, Reg, RegList};
use crate::exec::interpret::Run;
use crate::exec::registers::{LANES, lanes};
use crate::exec::trap::{Outcome, Trap};

/// # Safety
/// `bytes` bytes at `at` must be readable.
unsafe fn read(at: *const u8, bytes: usize) -> u64 {
    let mut raw = [0; 8];
    // SAFETY: the caller vouches for the source; an element has at most 8 bytes.
    unsafe { std::ptr::copy_nonoverlapping(at, raw.as_mut_ptr(), bytes.min(8)) };
    u64::from_le_bytes(raw)
}

impl Run<'_, '_, '_> {
    pub(super) fn store_action(
        &mut self,
        checks: &mut Checks,
        inst: &Inst,
        list: &RegList,
        active: u32,
        access: Access,
    ) -> Outcome {
        let Begun { me, targets, bytes } = self.begin(checks, inst, active, access)?;
        let each = access.width.bytes();
        let mut values = [[0_u64; LANES]; 8];
        for (element, reg) in list.uses.iter().enumerate().take(8) {
            values[element] = self.warp.regs.any(*reg);
        }
        for lane in lanes(active) {
            let spot = self.spot(access.window, targets[lane], lane, bytes);
            let mut defined = all(bytes);
            if self.tainted() {
                defined = self.stored(checks, &list.uses, lane, each, &spot)?;
            }
            let host = match spot {
                Spot::Shared(at) => self.core.shared.pointer() as usize + at as usize,
                Spot::Global(a, va) => a.host() as usize + (va - a.base) as usize,
                _ => 0,
            };
            let was_defined = self.defined(checks, &spot, bytes) == all(bytes);
            let silent = host != 0
                && was_defined
                && (0..list.uses.len().min(8)).all(|element| {
                    let at = (host + element * each as usize) as *const u8;
                    // SAFETY: `spot` found the lane's bytes inside shared memory or an allocation
                    // that the launch keeps alive.
                    let now = unsafe { read(at, each as usize) };
                    now == values[element][lane] & (u64::MAX >> (64 - 8 * each))
                });
            if !access.is_strong() {
                let touch = Touch::new(lane, bytes, Action::Write);
                self.record(checks, &me, &spot, Touch { silent, ..touch })?;
            }
            if !was_defined || defined != all(bytes) {
                self.define(checks, &spot, bytes, defined);
            }
        }
        Ok(())
    }

    /// Which bytes of a lane's store are defined. Elements that hold nothing at all may not go to
    /// global memory.
    fn stored(
        &self,
        checks: &Checks,
        uses: &[Reg],
        lane: usize,
        each: u32,
        to: &Spot<'_>,
    ) -> Result<u64, Box<Trap>> {
        let poison = &checks.warps[self.warp.index as usize].poison;
        let mut defined = 0;
        for (element, reg) in uses.iter().enumerate() {
            let undefined = gather(poison.lane(*reg, lane), each);
            if let Spot::Global(_, va) = *to
                && undefined == all(each)
            {
                let at = va + element as u64 * u64::from(each);
                let what = format!("the value stored to global memory at {at:#x}");
                return Err(report::undefined(self, checks, lane, &what));
            }
            defined |= (!undefined & all(each)) << (element as u32 * each);
        }
        Ok(defined)
    }
}
