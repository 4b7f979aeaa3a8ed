//! `ld` and `st` (PTX ISA section 9.7.9).

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::registers::{FULL, LANES, Registers, Wides};
use super::row;
use super::space::{Spaces, addresses};
use super::trap::Outcome;
use crate::decode::op::{Access, Extend, Inst, Reg, RegList, Width, Window};

/// Strong accesses are ordered; weak ones only need to be free of tearing.
#[inline(always)]
fn order(access: Access) -> Ordering {
    if access.is_strong() {
        Ordering::SeqCst
    } else {
        Ordering::Relaxed
    }
}

/// Held while 16 bytes are accessed as one, which hosts need not be able to.
pub(super) fn whole() -> MutexGuard<'static, ()> {
    static WHOLE: Mutex<()> = Mutex::new(());
    WHOLE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline(always)]
fn read(pointer: usize, width: Width, order: Ordering) -> u64 {
    // SAFETY: `Spaces` found `pointer` inside live memory that this launch keeps alive, aligned for
    // `width`. Other workers may access the same bytes at the same time, which atomic accesses
    // allow.
    unsafe {
        match width {
            Width::B8 => u64::from(AtomicU8::from_ptr(pointer as *mut u8).load(order)),
            Width::B16 => u64::from(AtomicU16::from_ptr(pointer as *mut u16).load(order)),
            Width::B32 => u64::from(AtomicU32::from_ptr(pointer as *mut u32).load(order)),
            Width::B64 => AtomicU64::from_ptr(pointer as *mut u64).load(order),
        }
    }
}

#[inline(always)]
fn write(pointer: usize, width: Width, value: u64, order: Ordering) {
    // SAFETY: as in `read`; read-only parameter memory is refused for stores at decoding and in
    // `store`.
    unsafe {
        match width {
            Width::B8 => AtomicU8::from_ptr(pointer as *mut u8).store(value as u8, order),
            Width::B16 => AtomicU16::from_ptr(pointer as *mut u16).store(value as u16, order),
            Width::B32 => AtomicU32::from_ptr(pointer as *mut u32).store(value as u32, order),
            Width::B64 => AtomicU64::from_ptr(pointer as *mut u64).store(value, order),
        }
    }
}

#[inline(always)]
fn extended(value: u64, width: Width, extend: Extend) -> u64 {
    let unused = 64 - 8 * width.bytes();
    let signed = ((value << unused) as i64 >> unused) as u64;
    match extend {
        Extend::Zero => value,
        Extend::SignTo16 => signed & 0xffff,
        Extend::Sign => signed,
    }
}

pub(super) fn load(
    regs: &mut Registers,
    spaces: &mut Spaces<'_, '_>,
    inst: &Inst,
    list: &RegList,
    mask: u32,
    access: Access,
) -> Outcome {
    let bytes = access.width.bytes() * u32::from(access.count);
    if !access.is_strong() {
        if mask == FULL
            && is_words(&list.defs, access)
            && let Some(first) = spaces.resolve_row(regs, inst.s[0], inst.imm, access.window, bytes)
        {
            row::load(regs, first, &list.defs);
            return Ok(());
        }
        let place = (access.window, bytes);
        if let Some((host, offsets)) =
            spaces.resolve_offsets(regs, inst.s[0], inst.imm, place, mask)
        {
            for (element, reg) in list.defs.iter().enumerate() {
                let from = host + element * access.width.bytes() as usize;
                fetch(regs, *reg, mask, access, |lane| {
                    from + offsets[lane] as usize
                });
            }
            return Ok(());
        }
    }
    let pointers = spaces.resolve(
        access.window,
        addresses(regs, inst.s[0], inst.imm),
        mask,
        bytes,
    )?;
    let _whole = (access.is_strong() && bytes == 16).then(whole);
    for (element, reg) in list.defs.iter().enumerate() {
        let offset = element * access.width.bytes() as usize;
        fetch(regs, *reg, mask, access, |lane| pointers[lane] + offset);
    }
    Ok(())
}

/// Whether each lane's access is of 32-bit words that fill their registers.
#[inline(always)]
fn is_words(list: &[Reg], access: Access) -> bool {
    access.width == Width::B32 && list.iter().all(|reg| !reg.is_wide())
}

/// One register of a load. The widths of most accesses are constants here, so that the loop over
/// lanes has no choices in it.
#[inline(always)]
fn fetch(
    regs: &mut Registers,
    reg: Reg,
    mask: u32,
    access: Access,
    pointer: impl Fn(usize) -> usize,
) {
    let value =
        |lane, width, order| extended(read(pointer(lane), width, order), width, access.extend);
    if reg.is_wide() {
        let slot = regs.wide_mut(reg);
        return each(mask, |lane| {
            slot[lane] = value(lane, access.width, order(access))
        });
    }
    let slot = regs.word_mut(reg);
    match (access.width, access.is_strong()) {
        (Width::B32, false) => each(mask, |lane| {
            slot[lane] = read(pointer(lane), Width::B32, Ordering::Relaxed) as u32;
        }),
        (Width::B16, false) => each(mask, |lane| {
            slot[lane] = value(lane, Width::B16, Ordering::Relaxed) as u32;
        }),
        _ => each(mask, |lane| {
            slot[lane] = value(lane, access.width, order(access)) as u32
        }),
    }
}

pub(super) fn store(
    regs: &mut Registers,
    spaces: &mut Spaces<'_, '_>,
    inst: &Inst,
    list: &RegList,
    mask: u32,
    access: Access,
) -> Outcome {
    let bytes = access.width.bytes() * u32::from(access.count);
    if !access.is_strong() {
        if mask == FULL
            && is_words(&list.uses, access)
            && let Some(first) = spaces.resolve_row(regs, inst.s[0], inst.imm, access.window, bytes)
        {
            row::store(regs, first, &list.uses);
            return Ok(());
        }
        let place = (access.window, bytes);
        if let Some((host, offsets)) =
            spaces.resolve_offsets(regs, inst.s[0], inst.imm, place, mask)
        {
            for (element, reg) in list.uses.iter().enumerate() {
                let to = host + element * access.width.bytes() as usize;
                put(regs, *reg, mask, access, |lane| to + offsets[lane] as usize);
            }
            return Ok(());
        }
    }
    let targets = addresses(regs, inst.s[0], inst.imm);
    refuse_parameters(&targets, mask, access)?;
    let pointers = spaces.resolve(access.window, targets, mask, bytes)?;
    let _whole = (access.is_strong() && bytes == 16).then(whole);
    for (element, reg) in list.uses.iter().enumerate() {
        let offset = element * access.width.bytes() as usize;
        put(regs, *reg, mask, access, |lane| pointers[lane] + offset);
    }
    Ok(())
}

/// One register of a store, as [`fetch`].
#[inline(always)]
fn put(regs: &Registers, reg: Reg, mask: u32, access: Access, pointer: impl Fn(usize) -> usize) {
    if reg.is_wide() {
        let values = regs.wide(reg);
        return each(mask, |lane| {
            write(pointer(lane), access.width, values[lane], order(access))
        });
    }
    let values = regs.word(reg);
    let put = |lane, width, order| write(pointer(lane), width, u64::from(values[lane]), order);
    match (access.width, access.is_strong()) {
        (Width::B32, false) => each(mask, |lane| put(lane, Width::B32, Ordering::Relaxed)),
        (Width::B16, false) => each(mask, |lane| put(lane, Width::B16, Ordering::Relaxed)),
        _ => each(mask, |lane| put(lane, access.width, order(access))),
    }
}

#[inline(always)]
fn each(mask: u32, mut f: impl FnMut(usize)) {
    if mask == FULL {
        (0..LANES).for_each(f);
    } else {
        super::registers::lanes(mask).for_each(&mut f);
    }
}

/// A generic store into the window of the parameters.
#[inline(always)]
fn refuse_parameters(targets: &Wides, mask: u32, access: Access) -> Outcome {
    use crate::decode::{PARAM_WINDOW, WINDOW_BYTES};
    if access.window != Window::Generic {
        return Ok(());
    }
    let hit =
        super::registers::collect(|lane| targets[lane].wrapping_sub(PARAM_WINDOW) < WINDOW_BYTES)
            & mask;
    if hit == 0 {
        return Ok(());
    }
    let lane = hit.trailing_zeros() as usize % LANES;
    let message = format!("store to kernel parameters at {:#x}", targets[lane]);
    Err(super::trap::Trap::new(
        super::fault::FaultKind::IllegalAddress,
        lane,
        message,
    ))
}

/// `ld.param` of a kernel parameter: one value for all lanes.
pub(super) fn load_param(
    regs: &mut Registers,
    params: &[u8],
    inst: &Inst,
    list: &RegList,
    mask: u32,
    width: Width,
    extend: Extend,
) -> Outcome {
    let bytes = width.bytes() as usize;
    for (element, reg) in list.defs.iter().enumerate() {
        let at = inst.imm as i64 + (element * bytes) as i64;
        let found = usize::try_from(at)
            .ok()
            .and_then(|at| params.get(at..at.checked_add(bytes)?));
        let Some(found) = found else {
            let message = format!("{bytes} bytes at {at} of {} parameter bytes", params.len());
            let lane = mask.trailing_zeros() as usize % LANES;
            return Err(super::trap::Trap::new(
                super::fault::FaultKind::IllegalAddress,
                lane,
                message,
            ));
        };
        let mut raw = [0; 8];
        raw[..bytes].copy_from_slice(found);
        let value = u64::from_le_bytes(raw);
        let value = extended(value, width, extend);
        regs.set_any(*reg, mask, &[value; LANES]);
    }
    Ok(())
}
