//! Where the interpreter meets the checks: before an access, at what orders threads, at exit.

use super::clocks::Clocks;
use super::{Action, Checks, Conflict, Me, global, report};
use crate::decode::op::{Access, Async, Atomic, AtomicOp, Extend, Inst, Op, Reg, RegList, Width, Window};
use crate::decode::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::exec::interpret::{Run, list};
use crate::exec::launch::Launch;
use crate::exec::registers::{FULL, LANES, Wides, collect, lanes};
use crate::exec::space::addresses;
use crate::exec::trap::{Outcome, Trap};
use crate::memory::{Allocation, FIRST_ADDRESS};

/// Where a lane's bytes are. What is nowhere is left to the access itself, which faults.
enum Spot<'a> {
    Shared(u64),
    Local(u64),
    Global(&'a Allocation, u64),
    None,
}

impl Checks {
    fn me(&mut self, run: &Run<'_, '_, '_>) -> Me {
        let warp = run.warp.index as usize;
        let diverged = run.group.mask != run.warp.live;
        let state = &mut self.warps[warp];
        if state.diverged != diverged {
            state.diverged = diverged;
            self.clocks.step(warp);
        }
        Me {
            block: run.core.linear,
            warp,
            group: run.group.mask,
            diverged,
            pc: run.group.pc as usize,
        }
    }

    fn local_defined(&self, warp: usize, at: usize, bytes: u32) -> u64 {
        let bits = &self.warps[warp].local;
        (0..bytes as usize).fold(0, |all, i| {
            let bit = bits.get((at + i) / 64).map_or(1, |w| w >> ((at + i) % 64) & 1);
            all | bit << i
        })
    }

    fn define_local(&mut self, warp: usize, at: usize, bytes: u32, defined: u64) {
        for i in 0..bytes as usize {
            if let Some(word) = self.warps[warp].local.get_mut((at + i) / 64) {
                let bit = 1 << ((at + i) % 64);
                *word = if defined >> i & 1 == 1 {
                    *word | bit
                } else {
                    *word & !bit
                };
            }
        }
    }
}

/// A bit for each byte to a mask of bits.
fn spread(bytes: u64) -> u64 {
    (0..8).fold(0, |all, i| all | ((bytes >> i & 1) * 0xff) << (8 * i))
}

/// The bytes of which any bit is set.
fn gather(bits: u64, bytes: u32) -> u64 {
    (0..bytes).fold(0, |all, i| all | u64::from(bits >> (8 * i) & 0xff != 0) << i)
}

fn all(bytes: u32) -> u64 {
    u64::MAX >> (64 - bytes.clamp(1, 64))
}

/// # Safety
/// `bytes` bytes at `at` must be readable.
unsafe fn read(at: *const u8, bytes: usize) -> u64 {
    let mut raw = [0; 8];
    // SAFETY: the caller vouches for the source; an element has at most 8 bytes.
    unsafe { std::ptr::copy_nonoverlapping(at, raw.as_mut_ptr(), bytes.min(8)) };
    u64::from_le_bytes(raw)
}

impl<'w> Run<'_, '_, 'w> {
    fn spot(&mut self, window: Window, va: u64, lane: usize, bytes: u32) -> Spot<'w> {
        let inside = |offset: u64, len: usize| offset.saturating_add(u64::from(bytes)) <= len as u64;
        let shared = self.core.shared.len();
        let each = self.launch.kernel.info.local_bytes;
        let (window, offset) = match window {
            Window::Generic if va >= FIRST_ADDRESS => (Window::Global, va),
            Window::Generic if va.wrapping_sub(SHARED_WINDOW) < WINDOW_BYTES => (Window::Shared, va - SHARED_WINDOW),
            Window::Generic if va.wrapping_sub(LOCAL_WINDOW) < WINDOW_BYTES => (Window::Local, va - LOCAL_WINDOW),
            other => (other, va),
        };
        match window {
            Window::Shared if inside(offset, shared) => Spot::Shared(offset),
            Window::Local if inside(offset, each as usize) => Spot::Local(lane as u64 * u64::from(each) + offset),
            Window::Global => {
                let found = self.worker.shadows.as_mut().and_then(|s| s.find(offset, bytes));
                found.map_or(Spot::None, |a| Spot::Global(a, offset))
            }
            _ => Spot::None,
        }
    }

    fn defined(&self, checks: &Checks, spot: &Spot<'_>, bytes: u32) -> u64 {
        match *spot {
            Spot::Shared(at) => checks.shared.defined(at, bytes),
            Spot::Local(at) => checks.local_defined(self.warp.index as usize, at as usize, bytes),
            Spot::Global(a, va) => a.shadow.defined(va - a.base, bytes),
            Spot::None => all(bytes),
        }
    }

    fn define(&self, checks: &mut Checks, spot: &Spot<'_>, bytes: u32, defined: u64) {
        match *spot {
            Spot::Shared(at) => checks.shared.define(at, bytes, defined),
            Spot::Local(at) => checks.define_local(self.warp.index as usize, at as usize, bytes, defined),
            Spot::Global(a, va) => {
                let at = va - a.base;
                if defined == all(bytes) {
                    a.shadow.define(at, u64::from(bytes));
                    return;
                }
                for i in 0..bytes {
                    if defined >> i & 1 == 1 {
                        a.shadow.define(at + u64::from(i), 1);
                    } else {
                        a.shadow.undefine(at + u64::from(i), 1);
                    }
                }
            }
            Spot::None => {}
        }
    }

    #[allow(clippy::too_many_arguments)] // One access, as its caller sees it.
    fn record(
        &self,
        checks: &mut Checks,
        me: &Me,
        lane: usize,
        spot: &Spot<'_>,
        bytes: u32,
        action: Action,
        silent: bool,
    ) -> Outcome {
        let (space, done) = match *spot {
            Spot::Shared(at) => {
                let clocks: &Clocks = &checks.clocks;
                (
                    "shared",
                    checks.shared.access(me, lane, (at, bytes), action, silent, clocks),
                )
            }
            Spot::Global(a, va) => {
                let Some(between) = &self.launch.checks else {
                    return Ok(());
                };
                let at = (va, bytes);
                (
                    "global",
                    global::access(a, me, lane, at, action, silent, &checks.clocks, between),
                )
            }
            _ => return Ok(()),
        };
        done.map_err(|found| conflict(self.launch, space, lane, &found))
    }

    /// Before an operation on memory.
    #[cold]
    #[inline(never)]
    pub(in crate::exec) fn check_memory(&mut self, inst: &Inst, active: u32) -> Outcome {
        let Some(mut checks) = self.core.checks.take() else {
            return Ok(());
        };
        let done = self.memory_action(&mut checks, inst, active);
        self.core.checks = Some(checks);
        done
    }

    fn memory_action(&mut self, checks: &mut Checks, inst: &Inst, active: u32) -> Outcome {
        match inst.op {
            Op::Load(access) => self.load_action(checks, inst, list(self.launch, inst), active, access),
            Op::Store(access) => self.store_action(checks, inst, list(self.launch, inst), active, access),
            Op::Atomic(atomic) => self.atomic_action(checks, inst, active, atomic),
            Op::Async(Async::Copy { bytes, ignore_negated }) => {
                self.copy_action(checks, inst, active, u32::from(bytes), ignore_negated)
            }
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

    fn address_defined(&self, checks: &Checks, reg: Reg, active: u32) -> Outcome {
        if !self.tainted() || !reg.is_some() {
            return Ok(());
        }
        let bad = active & checks.warps[self.warp.index as usize].poison.nonzero(reg);
        if bad != 0 {
            return Err(report::undefined(bad.trailing_zeros() as usize, "an address"));
        }
        Ok(())
    }

    pub(super) fn tainted(&self) -> bool {
        self.core.tainted >> self.warp.index & 1 == 1
    }

    fn load_action(
        &mut self,
        checks: &mut Checks,
        inst: &Inst,
        list: &RegList,
        active: u32,
        access: Access,
    ) -> Outcome {
        self.address_defined(checks, inst.s[0], active)?;
        let me = checks.me(self);
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        let bytes = access.width.bytes() * u32::from(access.count);
        let mut undefined = [0_u64; LANES];
        if access.strong {
            self.acquire(checks, &me);
        }
        for lane in lanes(active) {
            let spot = self.spot(access.window, targets[lane], lane, bytes);
            if !access.strong {
                self.record(checks, &me, lane, &spot, bytes, Action::Read, false)?;
            }
            undefined[lane] = !self.defined(checks, &spot, bytes) & all(bytes);
        }
        if access.strong {
            self.release(checks, &me);
        }
        self.loaded(checks, &list.defs, active, &undefined, access.width, access.extend);
        Ok(())
    }

    /// Registers get bytes of which those in `undefined` hold nothing.
    #[allow(clippy::too_many_arguments)] // One access, as its caller sees it.
    fn loaded(
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
                let bytes = undefined[lane] >> (element as u32 * width.bytes()) & all(width.bytes());
                let mut bits = spread(bytes);
                if extend != Extend::Zero && bytes >> (width.bytes() - 1) & 1 == 1 {
                    bits |= u64::MAX << (8 * width.bytes() - 1);
                }
                out[lane] = bits;
            }
            poison.set_any(*reg, active, &out);
        }
    }

    fn store_action(
        &mut self,
        checks: &mut Checks,
        inst: &Inst,
        list: &RegList,
        active: u32,
        access: Access,
    ) -> Outcome {
        self.address_defined(checks, inst.s[0], active)?;
        let me = checks.me(self);
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        let each = access.width.bytes();
        let bytes = each * u32::from(access.count);
        if access.strong {
            self.acquire(checks, &me);
        }
        let mut values = [[0_u64; LANES]; 8];
        for (element, reg) in list.uses.iter().enumerate().take(8) {
            values[element] = self.warp.regs.any(*reg);
        }
        for lane in lanes(active) {
            let spot = self.spot(access.window, targets[lane], lane, bytes);
            let mut defined = all(bytes);
            if self.tainted() {
                defined = self.stored(checks, &list.uses, lane, each, matches!(spot, Spot::Global(..)))?;
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
                    // SAFETY: `spot` found the lane's bytes inside shared memory or an allocation that the launch keeps alive.
                    let now = unsafe { read(at, each as usize) };
                    now == values[element][lane] & (u64::MAX >> (64 - 8 * each))
                });
            if !access.strong {
                self.record(checks, &me, lane, &spot, bytes, Action::Write, silent)?;
            }
            if !was_defined || defined != all(bytes) {
                self.define(checks, &spot, bytes, defined);
            }
        }
        if access.strong {
            self.release(checks, &me);
        }
        Ok(())
    }

    /// Which bytes of a lane's store are defined. Elements that hold nothing at all may not go to global memory.
    fn stored(&self, checks: &Checks, uses: &[Reg], lane: usize, each: u32, global: bool) -> Result<u64, Box<Trap>> {
        let poison = &checks.warps[self.warp.index as usize].poison;
        let mut defined = 0;
        for (element, reg) in uses.iter().enumerate() {
            let undefined = gather(poison.lane(*reg, lane), each);
            if global && undefined == all(each) {
                return Err(report::undefined(lane, "a value stored to global memory"));
            }
            defined |= (!undefined & all(each)) << (element as u32 * each);
        }
        Ok(defined)
    }

    fn atomic_action(&mut self, checks: &mut Checks, inst: &Inst, active: u32, atomic: Atomic) -> Outcome {
        self.address_defined(checks, inst.s[0], active)?;
        let me = checks.me(self);
        self.acquire(checks, &me);
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        let bytes = crate::exec::atomic::bytes(atomic.kind);
        let mut undefined = [0; LANES];
        for lane in lanes(active) {
            let spot = self.spot(atomic.window, targets[lane], lane, bytes);
            let warp = &checks.warps[me.warp];
            if self.tainted()
                && inst.s[1..3]
                    .iter()
                    .any(|r| r.is_some() && warp.poison.lane(*r, lane) != 0)
            {
                return Err(report::undefined(lane, "an atomic's operand"));
            }
            let missing = !self.defined(checks, &spot, bytes) & all(bytes);
            if missing != 0 && atomic.op != AtomicOp::Exchange {
                return Err(report::undefined(lane, "the old value of an atomic operation"));
            }
            undefined[lane] = missing;
            let action = match atomic.op {
                AtomicOp::CompareSwap => Action::Swap,
                _ => Action::Atomic,
            };
            self.record(checks, &me, lane, &spot, bytes, action, false)?;
            self.define(checks, &spot, bytes, all(bytes));
        }
        self.release(checks, &me);
        if inst.d[0].is_some() {
            let width = match bytes {
                2 => Width::B16,
                4 => Width::B32,
                _ => Width::B64,
            };
            self.loaded(checks, &inst.d[..1], active, &undefined, width, Extend::Zero);
        }
        Ok(())
    }

    fn copy_action(
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
                self.record(checks, &me, lane, &spot, source, Action::Read, false)?;
                defined &= self.defined(checks, &spot, source) | !all(source);
            }
            let spot = self.spot(Window::Shared, to[lane], lane, bytes);
            self.record(checks, &me, lane, &spot, bytes, Action::Copy, false)?;
            if let Spot::Shared(at) = spot {
                checks.shared.issue(at, bytes, defined);
            }
        }
        Ok(())
    }

    /// The lanes wait for all but the newest `keep` groups of theirs, or for everything.
    fn land(&mut self, checks: &mut Checks, active: u32, keep: Option<u32>) {
        let me = checks.me(self);
        let base = self.core.shared.pointer() as usize;
        let (shared, clocks) = (&mut checks.shared, &checks.clocks);
        self.warp.copies.each_due(active, keep, |lane, to, bytes| {
            shared.land(&me, lane, (to - base) as u64, bytes as u32, clocks);
        });
    }

    fn acquire(&self, checks: &mut Checks, me: &Me) {
        checks.clocks.acquire(me.warp);
        if let Some(between) = &self.launch.checks {
            between.order(me.block);
        }
    }

    fn release(&self, checks: &mut Checks, me: &Me) {
        checks.clocks.release(me.warp);
        if let Some(between) = &self.launch.checks {
            between.order(me.block);
        }
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
        let done = self.matrix_action(&mut checks, inst, transposed, window, load);
        self.core.checks = Some(checks);
        done
    }

    fn matrix_action(
        &mut self,
        checks: &mut Checks,
        inst: &Inst,
        transposed: bool,
        window: Window,
        load: bool,
    ) -> Outcome {
        let list = list(self.launch, inst);
        let count = if load { list.defs.len() } else { list.uses.len() };
        let rows = if count >= 4 { FULL } else { (1 << (8 * count)) - 1 };
        self.address_defined(checks, inst.s[0], rows)?;
        let me = checks.me(self);
        let targets = addresses(&self.warp.regs, inst.s[0], inst.imm);
        let mut undefined = [0_u64; LANES];
        for lane in lanes(rows) {
            let spot = self.spot(window, targets[lane], lane, 16);
            let action = if load { Action::Read } else { Action::Write };
            self.record(checks, &me, lane, &spot, 16, action, false)?;
            if load {
                undefined[lane] = !self.defined(checks, &spot, 16) & 0xffff;
            } else {
                self.define(checks, &spot, 16, 0xffff);
            }
        }
        if !load || (!self.tainted() && undefined.iter().all(|&u| u == 0)) {
            return Ok(());
        }
        self.core.tainted |= 1 << self.warp.index;
        let poison = &mut checks.warps[me.warp].poison;
        for (matrix, reg) in list.defs.iter().enumerate() {
            let element = |row: usize, column: usize| undefined[8 * matrix + row] >> (2 * column) & 3 != 0;
            let mut out = [0; LANES];
            for (lane, word) in out.iter_mut().enumerate() {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                let [low, high] = [column, column + 1].map(|column| {
                    if transposed {
                        element(column, row)
                    } else {
                        element(row, column)
                    }
                });
                *word = if low { 0xffff } else { 0 } | if high { 0xffff_0000 } else { 0 };
            }
            poison.set_word(*reg, FULL, &out);
        }
        Ok(())
    }

    /// A fence: it may order anything.
    #[cold]
    pub(in crate::exec) fn check_fence(&mut self) {
        if let Some(mut checks) = self.core.checks.take() {
            let me = checks.me(self);
            self.acquire(&mut checks, &me);
            self.release(&mut checks, &me);
            self.core.checks = Some(checks);
        }
    }

    /// Lanes exit: they must have waited for their copies.
    #[cold]
    pub(in crate::exec) fn check_exit(&mut self, active: u32) -> Outcome {
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
            checks.clocks.step(warp);
        }
        if !self.tainted() {
            return Ok(());
        }
        self.propagate(inst, mask)
    }
}

#[cold]
fn conflict(launch: &Launch<'_>, space: &str, lane: usize, found: &Conflict) -> Box<Trap> {
    report::conflict(launch, space, lane, found)
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
