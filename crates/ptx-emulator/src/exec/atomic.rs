//! `atom` and `red` (PTX ISA section 9.7.13): atomic across all workers, lanes in order.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

use super::load_store;
use super::registers::{LANES, Registers, Wides, lanes};
use super::rounding::{bf16_to_f32, canonical, f16_to_f32, f32_to_bf16, f32_to_f16, flush};
use super::space::{Pointers, Spaces, addresses};
use super::trap::Trap;
use crate::decode::op::{Atomic, AtomicKind, AtomicOp, Inst, RegList, Window};
use crate::memory::FIRST_ADDRESS;

/// True if any value has changed.
pub(super) fn atomic(
    regs: &mut Registers,
    spaces: &mut Spaces<'_, '_>,
    inst: &Inst,
    list: &RegList,
    mask: u32,
    atomic: Atomic,
) -> Result<bool, Box<Trap>> {
    let targets = addresses(regs, inst.s[0], inst.imm);
    let pointers = spaces.resolve(atomic.window, targets, mask, atomic.bytes())?;
    // PTX ISA, atom: additions of f32 flush subnormal numbers in global memory, and not in shared.
    let flushes = |lane: usize| {
        atomic.kind == AtomicKind::F32
            && match atomic.window {
                Window::Global => true,
                Window::Generic => targets[lane] >= FIRST_ADDRESS,
                _ => false,
            }
    };
    if atomic.kind == AtomicKind::B128 {
        return Ok(widest(regs, list, mask, atomic.op, &pointers));
    }
    let size = atomic.kind.bytes();
    if atomic.count > 1 {
        let mut changed = false;
        for (element, value) in list.uses.iter().enumerate() {
            let operand = regs.any(*value);
            let mut old = [0; LANES];
            for lane in lanes(mask) {
                let pointer = pointers[lane] + element * size as usize;
                let update = |now: u64| updated(atomic, flushes(lane), now, operand[lane], 0);
                // SAFETY: as below, with all elements of the vector.
                old[lane] = unsafe { exchange(pointer, size, update) };
                changed |= update(old[lane]) != old[lane];
            }
            if let Some(target) = list.defs.get(element) {
                regs.set_any(*target, mask, &old);
            }
        }
        return Ok(changed);
    }
    let operand = regs.any(inst.s[1]);
    let second = if inst.s[2].is_some() {
        regs.any(inst.s[2])
    } else {
        [0; LANES]
    };
    let mut old = [0; LANES];
    let mut changed = false;
    for lane in lanes(mask) {
        let update = |now: u64| updated(atomic, flushes(lane), now, operand[lane], second[lane]);
        // SAFETY: `resolve` found the address inside live memory of this launch, aligned for its
        // size; all concurrent accesses go through atomics or are the kernel's own races.
        old[lane] = unsafe { exchange(pointers[lane], size, update) };
        changed |= update(old[lane]) != old[lane];
    }
    if inst.d[0].is_some() {
        regs.set_any(inst.d[0], mask, &old);
    }
    Ok(changed)
}

/// Exchanges and compare-and-swaps of 16 bytes: one at a time, since hosts need not have them.
fn widest(
    regs: &mut Registers,
    list: &RegList,
    mask: u32,
    op: AtomicOp,
    pointers: &Pointers,
) -> bool {
    let values: Vec<Wides> = list.uses.iter().map(|reg| *regs.wide(*reg)).collect();
    let mut old = [[0; LANES]; 2];
    let mut changed = false;
    for lane in lanes(mask) {
        let given: Vec<u64> = values.iter().map(|value| value[lane]).collect();
        let _whole = load_store::whole();
        // SAFETY: the caller resolved 16 aligned bytes inside live memory of this launch; all
        // concurrent accesses go through atomics or are the kernel's own races.
        let halves =
            [0, 8].map(|at| unsafe { AtomicU64::from_ptr((pointers[lane] + at) as *mut u64) });
        let now = halves.map(|half| half.load(SeqCst));
        let next = match (op, given.as_slice()) {
            (AtomicOp::Exchange, &[low, high]) => [low, high],
            (AtomicOp::CompareSwap, &[low, high, new_low, new_high]) if now == [low, high] => {
                [new_low, new_high]
            }
            _ => now,
        };
        for (half, next) in halves.into_iter().zip(next) {
            half.store(next, SeqCst);
        }
        changed |= next != now;
        (old[0][lane], old[1][lane]) = (now[0], now[1]);
    }
    for (reg, old) in list.defs.iter().zip(&old) {
        regs.set_wide(*reg, mask, old);
    }
    changed
}

/// Replaces the value of `size` bytes at `pointer` by `update` of it, and returns it.
///
/// # Safety
/// The place must be live memory of the launch, aligned for its size; all concurrent accesses must
/// go through atomics or be the kernel's own races.
pub(super) unsafe fn exchange(pointer: usize, size: u32, update: impl Fn(u64) -> u64) -> u64 {
    // SAFETY: the caller vouches for the place.
    unsafe {
        match size {
            2 => u64::from(exchange_16(
                AtomicU16::from_ptr(pointer as *mut u16),
                update,
            )),
            4 => u64::from(exchange_32(
                AtomicU32::from_ptr(pointer as *mut u32),
                update,
            )),
            _ => exchange_64(AtomicU64::from_ptr(pointer as *mut u64), update),
        }
    }
}

fn exchange_16(cell: &AtomicU16, update: impl Fn(u64) -> u64) -> u16 {
    let mut now = cell.load(SeqCst);
    while let Err(seen) =
        cell.compare_exchange_weak(now, update(u64::from(now)) as u16, SeqCst, SeqCst)
    {
        now = seen;
    }
    now
}

fn exchange_32(cell: &AtomicU32, update: impl Fn(u64) -> u64) -> u32 {
    let mut now = cell.load(SeqCst);
    while let Err(seen) =
        cell.compare_exchange_weak(now, update(u64::from(now)) as u32, SeqCst, SeqCst)
    {
        now = seen;
    }
    now
}

fn exchange_64(cell: &AtomicU64, update: impl Fn(u64) -> u64) -> u64 {
    let mut now = cell.load(SeqCst);
    while let Err(seen) = cell.compare_exchange_weak(now, update(now), SeqCst, SeqCst) {
        now = seen;
    }
    now
}

/// The value that replaces `now`, subnormal numbers kept.
pub(super) fn apply(atomic: Atomic, now: u64, operand: u64, second: u64) -> u64 {
    updated(atomic, false, now, operand, second)
}

/// The value that replaces `now`.
fn updated(atomic: Atomic, flushes: bool, now: u64, operand: u64, second: u64) -> u64 {
    let smaller = match atomic.op {
        AtomicOp::Min => true,
        AtomicOp::Max => false,
        AtomicOp::Add => return add(atomic.kind, flushes, now, operand),
        AtomicOp::And => return now & operand,
        AtomicOp::Or => return now | operand,
        AtomicOp::Xor => return now ^ operand,
        AtomicOp::Exchange => return operand,
        AtomicOp::CompareSwap => return if now == operand { second } else { now },
        AtomicOp::Increment => return if now >= operand { 0 } else { now + 1 },
        AtomicOp::Decrement => {
            return if now == 0 || now > operand {
                operand
            } else {
                now - 1
            };
        }
    };
    match atomic.kind {
        AtomicKind::S32 => pick(now, operand, (now as i32) < (operand as i32), smaller),
        AtomicKind::S64 => pick(now, operand, (now as i64) < (operand as i64), smaller),
        AtomicKind::F16 | AtomicKind::Bf16 => {
            u64::from(pick_half(atomic.kind, now as u16, operand as u16, smaller))
        }
        AtomicKind::F16x2 | AtomicKind::Bf16x2 => {
            let low = pick_half(atomic.kind, now as u16, operand as u16, smaller);
            let high = pick_half(
                atomic.kind,
                (now >> 16) as u16,
                (operand >> 16) as u16,
                smaller,
            );
            u64::from(high) << 16 | u64::from(low)
        }
        _ => pick(now, operand, now < operand, smaller),
    }
}

fn pick(now: u64, operand: u64, now_is_less: bool, smaller: bool) -> u64 {
    if now_is_less == smaller { now } else { operand }
}

fn pick_half(kind: AtomicKind, now: u16, operand: u16, smaller: bool) -> u16 {
    let value = |bits| match kind {
        AtomicKind::F16 | AtomicKind::F16x2 => f16_to_f32(bits),
        _ => bf16_to_f32(bits),
    };
    let (a, b) = (value(now), value(operand));
    let keeps = b.is_nan() || (if smaller { a <= b } else { a >= b });
    if keeps && !a.is_nan() { now } else { operand }
}

fn add(kind: AtomicKind, flushes: bool, now: u64, operand: u64) -> u64 {
    let f16 = |a: u16, b: u16| f32_to_f16(f16_to_f32(a) + f16_to_f32(b));
    let bf16 = |a: u16, b: u16| f32_to_bf16(bf16_to_f32(a) + bf16_to_f32(b));
    let halves = |f: &dyn Fn(u16, u16) -> u16| {
        let high = f((now >> 16) as u16, (operand >> 16) as u16);
        u64::from(high) << 16 | u64::from(f(now as u16, operand as u16))
    };
    match kind {
        AtomicKind::F32 => {
            let flushed = |x| if flushes { flush(x) } else { x };
            let [a, b] = [now, operand].map(|bits| flushed(f32::from_bits(bits as u32)));
            u64::from(canonical(flushed(a + b)))
        }
        AtomicKind::F64 => (f64::from_bits(now) + f64::from_bits(operand)).to_bits(),
        AtomicKind::F16 => u64::from(f16(now as u16, operand as u16)),
        AtomicKind::Bf16 => u64::from(bf16(now as u16, operand as u16)),
        AtomicKind::F16x2 => halves(&f16),
        AtomicKind::Bf16x2 => halves(&bf16),
        AtomicKind::U64 | AtomicKind::S64 => now.wrapping_add(operand),
        _ => u64::from((now as u32).wrapping_add(operand as u32)),
    }
}
