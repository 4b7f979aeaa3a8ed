//! Logic, shifts and bit fields (PTX ISA sections 9.7.1, 9.7.8).

use super::registers::{LANES, Registers};
use crate::decode::op::{BitsOp, Inst, PredOp, PrmtMode};
use crate::decode::types::Int;

pub(super) fn bits(regs: &mut Registers, inst: &Inst, mask: u32, op: BitsOp, int: Int) {
    let (d, [a, b, c, _]) = (inst.d[0], inst.s);
    let wide = int.bits() == 64;
    let cut = if int.bits() == 16 { 0xffff } else { u32::MAX };
    match (op, wide) {
        (BitsOp::And, false) => regs.map2(d, a, b, mask, |a, b| a & b),
        (BitsOp::Or, false) => regs.map2(d, a, b, mask, |a, b| a | b),
        (BitsOp::Xor, false) => regs.map2(d, a, b, mask, |a, b| a ^ b),
        (BitsOp::Not, false) => regs.map1(d, a, mask, |a| !a & cut),
        (BitsOp::Cnot, false) => regs.map1(d, a, mask, |a| u32::from(a == 0)),
        (BitsOp::And, true) => regs.wide_map2(d, a, b, mask, |a, b| a & b),
        (BitsOp::Or, true) => regs.wide_map2(d, a, b, mask, |a, b| a | b),
        (BitsOp::Xor, true) => regs.wide_map2(d, a, b, mask, |a, b| a ^ b),
        (BitsOp::Not, true) => regs.wide_map1(d, a, mask, |a| !a),
        (BitsOp::Cnot, true) => regs.wide_map1(d, a, mask, |a| u64::from(a == 0)),
        (BitsOp::Shl | BitsOp::Shr, _) => shift(regs, inst, mask, op, int),
        (BitsOp::FunnelLeftClamp, _) => {
            regs.map3(d, [a, b, c], mask, |a, b, c| left(a, b, c.min(32)))
        }
        (BitsOp::FunnelLeftWrap, _) => regs.map3(d, [a, b, c], mask, |a, b, c| left(a, b, c & 31)),
        (BitsOp::FunnelRightClamp, _) => {
            regs.map3(d, [a, b, c], mask, |a, b, c| right(a, b, c.min(32)))
        }
        (BitsOp::FunnelRightWrap, _) => {
            regs.map3(d, [a, b, c], mask, |a, b, c| right(a, b, c & 31))
        }
        (BitsOp::Bfe, false) => regs.map3(d, [a, b, c], mask, |a, b, c| {
            extract_32(a, b, c, int.signed())
        }),
        (BitsOp::Bfe, true) => {
            let (position, length) = (*regs.word(b), *regs.word(c));
            let mut out = *regs.wide(a);
            for lane in 0..LANES {
                out[lane] = extract(out[lane], 64, position[lane], length[lane], int.signed());
            }
            regs.set_wide(d, mask, &out);
        }
        (BitsOp::Bfi, _) => insert(regs, inst, mask, wide),
        (BitsOp::Brev, false) => regs.map1(d, a, mask, u32::reverse_bits),
        (BitsOp::Brev, true) => regs.wide_map1(d, a, mask, u64::reverse_bits),
        (BitsOp::Clz, false) => regs.map1(d, a, mask, u32::leading_zeros),
        (BitsOp::Popc, false) => regs.map1(d, a, mask, u32::count_ones),
        (BitsOp::Clz, true) => narrow(regs, inst, mask, u64::leading_zeros),
        (BitsOp::Popc, true) => narrow(regs, inst, mask, u64::count_ones),
        (BitsOp::Bfind | BitsOp::BfindShift, _) => {
            let from_top = op == BitsOp::BfindShift;
            if wide {
                narrow(regs, inst, mask, |a| find(a, 64, int.signed(), from_top));
            } else {
                let signed = int.signed();
                regs.map1(d, a, mask, |a| {
                    let value = if signed {
                        a as i32 as i64 as u64
                    } else {
                        u64::from(a)
                    };
                    find(value, 32, signed, from_top)
                });
            }
        }
        (BitsOp::Fns, _) => regs.map3(d, [a, b, c], mask, nth_set),
        (BitsOp::BmskClamp, _) => regs.map2(d, a, b, mask, |a, b| bit_mask(a, b, true)),
        (BitsOp::BmskWrap, _) => regs.map2(d, a, b, mask, |a, b| bit_mask(a, b, false)),
        (BitsOp::SzextClamp | BitsOp::SzextWrap, _) => {
            let (clamp, signed) = (op == BitsOp::SzextClamp, int.signed());
            regs.map2(d, a, b, mask, |a, n| {
                let n = if clamp { n.min(32) } else { n & 31 };
                extract_32(a, 0, n, signed)
            });
        }
        (BitsOp::Prmt(mode), _) => regs.map3(d, [a, b, c], mask, |a, b, c| permute(mode, a, b, c)),
    }
}

/// `lop3`: bit i of the table is the result where the bits of a, b, c spell i.
pub(super) fn lop3(regs: &mut Registers, inst: &Inst, mask: u32, table: u8) {
    let d = inst.d[0];
    let s = [inst.s[0], inst.s[1], inst.s[2]];
    regs.map3(d, s, mask, |a, b, c| {
        let term = |i: u8, bits: u32| if table >> i & 1 == 1 { bits } else { 0 };
        term(0, !a & !b & !c)
            | term(1, !a & !b & c)
            | term(2, !a & b & !c)
            | term(3, !a & b & c)
            | term(4, a & !b & !c)
            | term(5, a & !b & c)
            | term(6, a & b & !c)
            | term(7, a & b & c)
    });
}

pub(super) fn predicates(regs: &mut Registers, inst: &Inst, mask: u32, op: PredOp) {
    let a = regs.pred(inst.s[0]);
    let b = if inst.s[1].is_some() {
        regs.pred(inst.s[1])
    } else {
        0
    };
    let bits = match op {
        PredOp::And => a & b,
        PredOp::Or => a | b,
        PredOp::Xor => a ^ b,
        PredOp::Not => !a,
    };
    regs.set_pred(inst.d[0], mask, bits);
}

/// Shift amounts beyond the width are clamped to it.
fn shift(regs: &mut Registers, inst: &Inst, mask: u32, op: BitsOp, int: Int) {
    let (d, a, b) = (inst.d[0], inst.s[0], inst.s[1]);
    if int.bits() == 64 {
        let amount = *regs.word(b);
        let mut out = *regs.wide(a);
        for lane in 0..LANES {
            let (value, by) = (out[lane], amount[lane]);
            out[lane] = match op {
                BitsOp::Shl => value.checked_shl(by).unwrap_or(0),
                _ if int.signed() => ((value as i64) >> by.min(63)) as u64,
                _ => value.checked_shr(by).unwrap_or(0),
            };
        }
        return regs.set_wide(d, mask, &out);
    }
    match (op, int) {
        (BitsOp::Shl, Int::U16 | Int::S16) => {
            regs.map2(d, a, b, mask, |a, b| a.checked_shl(b).unwrap_or(0) & 0xffff);
        }
        (BitsOp::Shl, _) => regs.map2(d, a, b, mask, |a, b| a.checked_shl(b).unwrap_or(0)),
        (_, Int::S16) => regs.map2(d, a, b, mask, |a, b| {
            u32::from((i32::from(a as i16) >> b.min(31)) as u16)
        }),
        (_, Int::S32) => regs.map2(d, a, b, mask, |a, b| ((a as i32) >> b.min(31)) as u32),
        (_, _) => regs.map2(d, a, b, mask, |a, b| a.checked_shr(b).unwrap_or(0)),
    }
}

/// High word of `b:a` shifted left.
#[inline(always)]
fn left(a: u32, b: u32, by: u32) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    ((both << by) >> 32) as u32
}

/// Low word of `b:a` shifted right.
#[inline(always)]
fn right(a: u32, b: u32, by: u32) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    (both >> by) as u32
}

#[inline(always)]
fn extract_32(a: u32, position: u32, length: u32, signed: bool) -> u32 {
    extract(u64::from(a), 32, position, length, signed) as u32
}

/// `bfe`: position and length are 8-bit; bits beyond the top copy the field's sign (or are zero).
#[inline(always)]
fn extract(a: u64, width: u32, position: u32, length: u32, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let sign_at = (position + length - 1).min(width - 1);
    let negative = signed && a >> sign_at & 1 == 1;
    let field = a.checked_shr(position).unwrap_or(0);
    let available = width.saturating_sub(position).min(length);
    let low = if available >= 64 {
        u64::MAX
    } else {
        (1_u64 << available) - 1
    };
    if negative {
        (field & low) | !low
    } else {
        field & low
    }
}

/// `bfi d, a, b, position, length`: the low bits of a replace a field of b.
fn insert(regs: &mut Registers, inst: &Inst, mask: u32, wide: bool) {
    let [a, b, position, length] = inst.s;
    let (position, length) = (*regs.word(position), *regs.word(length));
    let (a, mut out) = (regs.any(a), regs.any(b));
    for lane in 0..LANES {
        let (at, n) = (position[lane] & 0xff, length[lane] & 0xff);
        let field = 1_u64
            .checked_shl(n)
            .map_or(u64::MAX, |top| top.wrapping_sub(1));
        let field = field.checked_shl(at).unwrap_or(0);
        let bits = a[lane].checked_shl(at).unwrap_or(0);
        out[lane] = (out[lane] & !field) | (bits & field);
        if !wide {
            out[lane] &= u64::from(u32::MAX);
        }
    }
    regs.set_any(inst.d[0], mask, &out);
}

/// A 32-bit result of a 64-bit source.
#[inline(always)]
fn narrow(regs: &mut Registers, inst: &Inst, mask: u32, f: impl Fn(u64) -> u32) {
    let a = regs.wide(inst.s[0]);
    let mut out = [0; LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane]);
    }
    regs.set_word(inst.d[0], mask, &out);
}

/// `bfind`: the highest bit that differs from the sign; the value comes extended to 64 bits.
fn find(value: u64, width: u32, signed: bool, from_top: bool) -> u32 {
    let value = if signed && (value as i64) < 0 {
        !value
    } else {
        value
    };
    if value == 0 {
        return u32::MAX;
    }
    let at = 63 - value.leading_zeros();
    if from_top { width - 1 - at } else { at }
}

/// `fns`: the position of the n-th set bit at or above (n > 0) or below (n < 0) a base.
fn nth_set(value: u32, base: u32, offset: u32) -> u32 {
    let offset = offset as i32;
    if base > 31 {
        return u32::MAX;
    }
    if offset == 0 {
        return if value >> base & 1 == 1 {
            base
        } else {
            u32::MAX
        };
    }
    let mut left = offset.unsigned_abs();
    let mut at = base as i32;
    while (0..32).contains(&at) {
        left -= value >> at & 1;
        if left == 0 {
            return at as u32;
        }
        at += offset.signum();
    }
    u32::MAX
}

/// `bmsk`: ones in bits a .. a + b.
fn bit_mask(a: u32, b: u32, clamp: bool) -> u32 {
    let (start, width) = if clamp {
        (a.min(32), b.min(32))
    } else {
        (a & 31, b & 31)
    };
    let ones = 1_u64.wrapping_shl(width) - 1;
    (ones << start) as u32
}

fn permute(mode: PrmtMode, a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let pick = |i: u32| (bytes >> (8 * (i & 7))) as u8;
    let low = c & 3;
    let selected = |of: [u32; 4]| u32::from_le_bytes(of.map(pick));
    match mode {
        PrmtMode::Index => {
            let mut out = 0;
            for i in 0..4 {
                let select = c >> (4 * i) & 15;
                let byte = pick(select);
                // The top bit of a selector replicates the byte's sign.
                let byte = if select & 8 == 0 {
                    byte
                } else {
                    ((byte as i8) >> 7) as u8
                };
                out |= u32::from(byte) << (8 * i);
            }
            out
        }
        PrmtMode::F4e => selected([low, low + 1, low + 2, low + 3]),
        PrmtMode::B4e => selected([low, low + 7, low + 6, low + 5]),
        PrmtMode::Rc8 => selected([low; 4]),
        PrmtMode::Ecl => selected([low, low.max(1), low.max(2), 3]),
        PrmtMode::Ecr => selected([0, low.min(1), low.min(2), low]),
        PrmtMode::Rc16 => {
            let at = 2 * (low & 1);
            selected([at, at + 1, at, at + 1])
        }
    }
}
