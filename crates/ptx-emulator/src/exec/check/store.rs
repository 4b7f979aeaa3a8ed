//! Stores: what they leave may be undefined, and what changes nothing is no write.

use super::access::Begun;
use super::gather::{Fate, LaneRun, Settle};
use super::line;
use super::spot::{Spot, all, gather};
use super::{Checks, report};
use crate::decode::op::{Access, Inst, Order, Reg, RegList};
use crate::exec::interpret::Run;
use crate::exec::registers::{LANES, lanes};
use crate::exec::trap::{Outcome, Trap};

/// Where a lane stores.
#[derive(Clone, Copy, Default)]
struct Store {
    host: usize,
    global: bool,
    /// Whether the place held something before.
    was_defined: bool,
}

/// Whether an element is there already. If `write` it is written: several workers that store the
/// same value must see each other's before they can tell.
///
/// # Safety
/// `bytes` bytes at `at` must be readable, and writable if `write`.
unsafe fn exchange(at: *mut u8, bytes: usize, value: u64, write: bool) -> bool {
    let bytes = bytes.min(8);
    let mut raw = [0; 8];
    // SAFETY: the caller vouches for the place; an element has at most 8 bytes.
    unsafe { std::ptr::copy_nonoverlapping(at, raw.as_mut_ptr(), bytes) };
    let new = value.to_le_bytes();
    let same = raw[..bytes] == new[..bytes];
    if write && !same {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(new.as_ptr(), at, bytes) };
    }
    same
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
        let mut flags = line::WRITE;
        if access.is_strong() {
            flags |= line::strong(access.scope);
        }
        if access.order == Order::Volatile {
            flags |= line::VOLATILE;
        }
        let like = self.blank(checks, &me, flags);
        let mut gathered = std::mem::take(&mut checks.gathered);
        let mut stores = [Store::default(); LANES];
        let mut single = active;
        let mut left = if access.is_strong() || self.tainted() {
            0
        } else {
            active
        };
        while left != 0 {
            let run = LaneRun::of(left, &targets, bytes);
            left &= !run.mask();
            if run.count == 1 {
                continue;
            }
            let all = bytes * run.count as u32;
            let spot = self.spot(access.window, targets[run.first], run.first, all);
            if !spot.is_common() {
                continue;
            }
            gathered.add_run(&spot, run, bytes, &like);
            single &= !run.mask();
            let was_defined = self.is_defined(checks, &spot, all);
            if !was_defined {
                for from in (0..all).step_by(64) {
                    let part = (all - from).min(64);
                    let spot = spot.behind(u64::from(from));
                    self.define(checks, &spot, part, super::spot::all(part));
                }
            }
            let host = self.host(&spot);
            for (step, lane) in run.lanes().enumerate() {
                stores[lane] = Store {
                    host: host + step * bytes as usize,
                    global: matches!(spot, Spot::Global(..)),
                    was_defined,
                };
            }
        }
        for lane in lanes(single) {
            let spot = self.spot(access.window, targets[lane], lane, bytes);
            let mut defined = all(bytes);
            if self.tainted() {
                defined = self.stored(checks, &list.uses, lane, each, &spot)?;
            }
            let host = self.host(&spot);
            let was_defined = self.defined(checks, &spot, bytes) == all(bytes);
            stores[lane] = Store {
                host,
                global: matches!(spot, Spot::Global(..)),
                was_defined,
            };
            gathered.add(&spot, lane, bytes, &like);
            if !was_defined || defined != all(bytes) {
                self.define(checks, &spot, bytes, defined);
            }
        }
        let early = self.launch.checks.as_ref().is_some_and(|b| b.parallel);
        let mut settle = |lane: usize| {
            let Store {
                host,
                global,
                was_defined,
            } = stores[lane];
            if host == 0 {
                return false;
            }
            let aligned = host.is_multiple_of(bytes as usize);
            let mut silent = was_defined;
            for (element, values) in values.iter().enumerate().take(list.uses.len().min(8)) {
                let at = (host + element * each as usize) as *mut u8;
                // SAFETY: `spot` found the lane's bytes inside shared memory or an allocation
                // that the launch keeps alive.
                silent &= unsafe {
                    exchange(at, each as usize, values[lane], early && global && aligned)
                };
            }
            silent
        };
        let settle: Option<Settle<'_>> = if access.is_strong() {
            None
        } else {
            Some(&mut settle)
        };
        let done = self.commit(checks, &me, &mut gathered, Fate::Touch, settle);
        checks.gathered = gathered;
        done?;
        Ok(())
    }

    /// Where shared or global memory is in the host's.
    fn host(&mut self, spot: &Spot<'_>) -> usize {
        match *spot {
            Spot::Shared(at) => self.core.shared.pointer() as usize + at as usize,
            Spot::Global(a, va) => a.host() as usize + (va - a.base) as usize,
            Spot::Peer(rank, at) => {
                let other = self.peers.core(rank as usize);
                other.map_or(0, |core| core.shared.pointer() as usize + at as usize)
            }
            Spot::Local(_) | Spot::None => 0,
        }
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
