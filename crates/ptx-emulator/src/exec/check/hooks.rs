//! Where the interpreter meets the checks: before an access, at what orders threads, at exit.

use super::{Checks, Source, Undefined};
use crate::decode::op::{Async, FenceKind, Inst, Op, Order, Reg, Scope, Shuffle, WarpOp, Window};
use crate::exec::exchange;
use crate::exec::interpret::{Run, list};
use crate::exec::registers::{LANES, collect, lanes};
use crate::exec::trap::{Outcome, Trap};

impl Run<'_, '_, '_> {
    /// Before an operation on memory.
    #[cold]
    #[inline(never)]
    pub(in crate::exec) fn check_memory(&mut self, inst: &Inst, active: u32) -> Outcome {
        if self.peers.size() > 1 {
            self.visit_peers(inst, active)?;
        }
        let Some(mut checks) = self.core.checks.take() else {
            return Ok(());
        };
        let done = self.memory_action(&mut checks, inst, active);
        self.core.checks = Some(checks);
        done
    }

    fn memory_action(&mut self, checks: &mut Checks, inst: &Inst, active: u32) -> Outcome {
        match inst.op {
            Op::Load(access) => {
                self.load_action(checks, inst, list(self.launch, inst), active, access)
            }
            Op::Store(access) => {
                self.store_action(checks, inst, list(self.launch, inst), active, access)
            }
            Op::Atomic(atomic) => self.atomic_action(checks, inst, active, atomic),
            Op::Async(Async::Copy {
                bytes,
                ignore_negated,
            }) => self.copy_action(checks, inst, active, u32::from(bytes), ignore_negated),
            Op::Async(Async::WaitGroup) => {
                self.land(checks, active, Some(inst.imm.cast_unsigned()));
                Ok(())
            }
            Op::Async(Async::WaitAll) => {
                self.land(checks, active, None);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn tainted(&self) -> bool {
        self.core.tainted >> self.warp.index & 1 == 1
    }

    /// `ldmatrix` (its 8 x 16 byte rows) or `stmatrix`.
    #[cold]
    #[inline(never)]
    pub(in crate::exec) fn check_matrix(
        &mut self,
        inst: &Inst,
        transposed: bool,
        window: Window,
        load: bool,
    ) -> Outcome {
        let Some(mut checks) = self.core.checks.take() else {
            return Ok(());
        };
        if !load {
            // No lane's part is done before all have come, so a tile that `ldmatrix` has read can
            // be stored over, as CUTLASS's epilogues do.
            checks.clocks.meet(self.warp.index as usize, self.warp.live);
        }
        let done = self.matrix_action(&mut checks, inst, transposed, window, load);
        self.core.checks = Some(checks);
        done
    }

    #[cold]
    pub(in crate::exec) fn check_fence(&mut self, active: u32, kind: FenceKind) {
        let warp = self.warp.index as usize;
        let Some(checks) = &mut self.core.checks else {
            return;
        };
        match kind {
            FenceKind::Thread(order, scope) => checks.clocks.fence(warp, active, order, scope),
            FenceKind::ProxyAsync(_) => checks.clocks.fence_proxy(warp, active),
            FenceKind::MbarrierInit => {
                checks
                    .clocks
                    .fence(warp, active, Order::Release, Scope::Cluster);
            }
            FenceKind::ProxyAlias | FenceKind::ProxyTensormap { .. } => {}
        }
    }

    /// Copies of these lanes are to arrive on an mbarrier: their shadows land now.
    #[cold]
    pub(in crate::exec) fn check_copied(&mut self, active: u32) {
        if let Some(mut checks) = self.core.checks.take() {
            self.land(&mut checks, active, None);
            self.core.checks = Some(checks);
        }
    }

    /// Lanes exit: they must have waited for their copies.
    #[cold]
    pub(in crate::exec) fn check_exit(&mut self, active: u32) -> Outcome {
        self.products_at_exit(active)?;
        self.see_off(active);
        match self.warp.copies.first_pending(active) {
            Some((lane, to)) => {
                let offset = to.wrapping_sub(self.core.shared.pointer() as usize);
                Err(Trap::new(
                    crate::exec::fault::FaultKind::LaunchFailed,
                    lane,
                    format!(
                        "cp.async in flight: the thread exits without having waited for its copy to shared memory at {offset:#x}"
                    ),
                ))
            }
            None => Ok(()),
        }
    }

    /// An operation that the warp's lanes did together.
    #[cold]
    pub(in crate::exec) fn check_together(&mut self, inst: &Inst, mask: u32) -> Outcome {
        let warp = self.warp.index as usize;
        if let (Op::Warp(_), Some(checks)) = (inst.op, &mut self.core.checks) {
            checks.clocks.meet(warp, mask);
        }
        if self.tainted() {
            self.propagate(inst, mask)?;
        }
        if let Op::Warp(WarpOp::Shuffle(mode)) = inst.op {
            self.shuffle_from_strangers(inst, mask, mode);
        }
        Ok(())
    }

    /// A lane that reads one that is not among `mask` gets an undefined value (PTX ISA, shfl.sync).
    fn shuffle_from_strangers(&mut self, inst: &Inst, mask: u32, mode: Shuffle) {
        let (sources, _) = exchange::sources(&self.warp.regs, inst, mode);
        let strangers = mask & collect(|lane| mask >> sources[lane] & 1 == 0);
        if strangers == 0 {
            return;
        }
        let pc = self.group.pc as usize;
        let Some(checks) = &mut self.core.checks else {
            return;
        };
        self.core.tainted |= 1 << self.warp.index;
        let warp = &mut checks.warps[self.warp.index as usize];
        for lane in lanes(strangers) {
            let source = Source::Lane(sources[lane]);
            warp.undefined[lane] = Some(Undefined { pc, source });
            // The others keep what the value's own flow gave them.
            warp.poison.taint(inst.d[0], 1 << lane, 1 << lane);
        }
    }
}

/// Lanes whose predicate `reg` is undefined.
pub(super) fn undefined_lanes(checks: &Checks, warp: usize, reg: Reg) -> u32 {
    if reg.is_some() {
        checks.warps[warp].poison.nonzero(reg)
    } else {
        0
    }
}

/// Lanes of `words` that are not zero.
pub(super) fn nonzero<T: Copy + Default + PartialEq>(words: &[T; LANES]) -> u32 {
    collect(|lane| words[lane] != T::default())
}
