//! Data on its way into shared memory that completes on an mbarrier: `st.async`, `red.async`, and
//! `cp.async` with `cp.async.mbarrier.arrive`. It lands at the latest legal moment: when a thread
//! looks at the mbarrier and would find the phase incomplete without it.

use super::arrive::mbarrier_fault;
use super::async_copy::Taken;
use super::atomic;
use super::block::Core;
use super::fault::FaultKind;
use super::interpret::{Next, Run, list};
use super::mbarrier::{Arrival, Awaited};
use super::registers::{LANES, lanes};
use super::space::{Spot, addresses};
use super::trap::{Outcome, Trap};
use crate::decode::op::{AsyncStore, Atomic, AtomicKind, AtomicOp, Inst, Order, Scope, Window};

/// What is on its way to one block, oldest first, each with the mbarrier it completes on.
#[derive(Default)]
pub(crate) struct Lates(Vec<(u32, Late)>);

pub(super) enum Late {
    Copies(CopyArrival),
    Store(Store),
}

/// Copies of a thread, and the arrival that follows them.
pub(super) struct CopyArrival {
    pub warp: u32,
    pub lane: u32,
    pub copies: Vec<Taken>,
}

/// A thread's `st.async` or `red.async`.
pub(super) struct Store {
    /// Within the block's shared memory.
    pub to: u32,
    pub data: [u8; 16],
    pub bytes: u32,
    pub reduce: Option<(AtomicOp, AtomicKind)>,
}

impl Lates {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn push(&mut self, mbarrier: u32, late: Late) {
        self.0.push((mbarrier, late));
    }

    /// The mbarrier of the oldest, for a report.
    pub fn first(&self) -> Option<u32> {
        self.0.first().map(|&(mbarrier, _)| mbarrier)
    }

    /// The oldest that completes on this mbarrier.
    fn next(&mut self, mbarrier: u32) -> Option<Late> {
        let at = self.0.iter().position(|&(own, _)| own == mbarrier)?;
        Some(self.0.remove(at).1)
    }

    /// The oldest copies of a thread.
    fn next_of(&mut self, warp: u32, lane: usize) -> Option<(u32, Late)> {
        let at = self.0.iter().position(|(_, late)| match late {
            Late::Copies(copies) => (copies.warp, copies.lane as usize) == (warp, lane),
            Late::Store(_) => false,
        })?;
        Some(self.0.remove(at))
    }
}

impl Core {
    pub(super) fn complete(&mut self, mbarrier: u32, late: Late) -> Result<(), String> {
        match late {
            Late::Copies(arrival) => {
                arrival.copies.iter().for_each(Taken::land);
                self.give_copies(mbarrier, arrival.warp, arrival.lane);
                let arrival = Arrival {
                    count: 1,
                    expects: 0,
                    drops: false,
                    no_complete: false,
                };
                self.arrive_mbarrier(mbarrier, arrival).map(|_| ())
            }
            Late::Store(store) => {
                self.store(&store);
                self.complete_tx(mbarrier, store.bytes)
            }
        }
    }

    fn store(&mut self, store: &Store) {
        let mut data = store.data;
        if let Some((op, kind)) = store.reduce {
            let atomic = Atomic {
                window: Window::Shared,
                op,
                kind,
                count: 1,
                order: Order::Relaxed,
                scope: Scope::Cluster,
            };
            let value = |bytes: &[u8; 16]| u64::from_le_bytes(std::array::from_fn(|i| bytes[i]));
            let mut now = [0; 16];
            self.shared.read(store.to, &mut now[..store.bytes as usize]);
            let new = atomic::apply(atomic, value(&now), value(&data), 0);
            data[..8].copy_from_slice(&new.to_le_bytes());
        }
        self.shared.write(store.to, &data[..store.bytes as usize]);
        if let Some(checks) = &mut self.checks {
            checks.define_bytes(store.to, store.bytes);
        }
        self.changes += 1;
    }
}

impl Run<'_, '_, '_> {
    /// Lands what completes on the own block's mbarrier, one after the other, until the phase that
    /// a thread waits for is complete. Whether it is.
    pub(super) fn land_until(
        &mut self,
        spot: Spot,
        awaited: Awaited,
        lane: usize,
    ) -> Result<bool, Box<Trap>> {
        while self.land_next(spot, lane)? {
            if self.on(spot, lane, |core, at| core.test_mbarrier(at, awaited))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lands the oldest operation that completes on the own block's mbarrier. Whether there was
    /// one.
    fn land_next(&mut self, spot: Spot, lane: usize) -> Result<bool, Box<Trap>> {
        let Some(late) = self.core.late.next(spot.offset) else {
            return self.land_next_bulk(spot, lane);
        };
        self.on(spot, lane, |core, at| core.complete(at, late))?;
        Ok(true)
    }

    /// Lands copies of these lanes that were to arrive on an mbarrier: the lanes wait for all of
    /// their copies.
    pub(super) fn land_own_copies(&mut self, active: u32) -> Outcome {
        for lane in lanes(active) {
            while let Some((at, late)) = self.core.late.next_of(self.warp.index, lane) {
                let spot = Spot {
                    rank: self.core.rank,
                    offset: at,
                };
                self.on(spot, lane, |core, at| core.complete(at, late))?;
            }
        }
        Ok(())
    }

    pub(super) fn async_store(
        &mut self,
        inst: &Inst,
        active: u32,
        how: AsyncStore,
    ) -> Result<Next, Box<Trap>> {
        let each = how.width.bytes();
        let bytes = each * u32::from(how.count);
        let regs = &self.warp.regs;
        let targets = addresses(regs, inst.s[0], inst.imm);
        let mut mbarriers = addresses(regs, inst.s[1], 0);
        if inst.s[2].is_some() {
            let offset = regs.any(inst.s[2]);
            for (to, more) in mbarriers.iter_mut().zip(offset) {
                *to = to.wrapping_add(more);
            }
        }
        let values: Vec<_> = list(self.launch, inst)
            .uses
            .iter()
            .map(|&reg| regs.any(reg))
            .collect();
        for lane in lanes(active) {
            let va = targets[lane];
            if !va.is_multiple_of(u64::from(bytes)) {
                let message =
                    format!("{va:#x} is not a multiple of {bytes}, the size of the access");
                return Err(Trap::new(FaultKind::Misaligned, lane, message));
            }
            let to = self.shared_spot(how.window, va, bytes, lane)?;
            let mbarrier = self.mbarrier_spot(how.window, mbarriers[lane], lane)?;
            self.check_mbarriers(1 << lane, &[mbarrier; LANES])?;
            if to.rank != mbarrier.rank {
                let message = format!(
                    "the data goes to the block of rank {}, and its mbarrier is in that of rank {}; \
                     both must be in one block",
                    to.rank, mbarrier.rank
                );
                return Err(Trap::new(FaultKind::IllegalInstruction, lane, message));
            }
            let mut data = [0; 16];
            for (element, value) in values.iter().enumerate() {
                let at = element * each as usize;
                let raw = value[lane].to_le_bytes();
                data[at..at + each as usize].copy_from_slice(&raw[..each as usize]);
            }
            let store = Store {
                to: to.offset,
                data,
                bytes,
                reduce: how.reduce,
            };
            let is_early = self.warp.copies.early;
            self.on(mbarrier, lane, |core, at| {
                core.is_mbarrier(at)?;
                if is_early {
                    return core.complete(at, Late::Store(store));
                }
                core.late.push(at, Late::Store(store));
                Ok(())
            })?;
        }
        Ok(Next::Step)
    }
}

/// Data is still on its way to a block all of whose threads have exited.
pub(super) fn left_over(core: &Core) -> Option<Box<Trap>> {
    let at = core.late.first()?;
    let spot = Spot {
        rank: core.rank,
        offset: at,
    };
    let what = "all threads of the block have exited while data that completes on it is still on \
                its way";
    Some(mbarrier_fault(spot, true, 0, what))
}
