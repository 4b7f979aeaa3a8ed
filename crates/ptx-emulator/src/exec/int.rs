//! Integer arithmetic (PTX ISA section 9.7.1). 16-bit values are kept zero-extended.

use super::registers::{LANES, Registers};
use crate::decode::op::{CarryOp, HalvesOp, Inst, IntOp};
use crate::decode::types::Int;

/// Runs the closure of the right width: 16-bit operands as `i32`/`u32` after extension, results cut
/// to 16 bits.
macro_rules! by_type {
    ($regs:ident, $inst:ident, $mask:ident, $int:ident, |$a:ident, $b:ident| signed $s:expr, unsigned $u:expr) => {{
        let (d, a, b) = ($inst.d[0], $inst.s[0], $inst.s[1]);
        match $int {
            Int::U16 => $regs.map2(d, a, b, $mask, |$a, $b| ($u) & 0xffff),
            Int::S16 => $regs.map2(d, a, b, $mask, |$a, $b| {
                let ($a, $b) = ($a as u16 as i16 as i32, $b as u16 as i16 as i32);
                ($s) as u32 & 0xffff
            }),
            Int::U32 => $regs.map2(d, a, b, $mask, |$a, $b| $u),
            Int::S32 => $regs.map2(d, a, b, $mask, |$a, $b| {
                let ($a, $b) = ($a as i32, $b as i32);
                ($s) as u32
            }),
            Int::U64 => $regs.wide_map2(d, a, b, $mask, |$a, $b| $u),
            Int::S64 => $regs.wide_map2(d, a, b, $mask, |$a, $b| {
                let ($a, $b) = ($a as i64, $b as i64);
                ($s) as u64
            }),
        }
    }};
}

/// The same for operations that wrap and so don't care for the sign.
macro_rules! wrapping {
    ($regs:ident, $inst:ident, $mask:ident, $int:ident, |$a:ident, $b:ident| $e:expr) => {{
        let (d, a, b) = ($inst.d[0], $inst.s[0], $inst.s[1]);
        match $int {
            Int::U16 | Int::S16 => $regs.map2(d, a, b, $mask, |$a, $b| ($e) & 0xffff),
            Int::U32 | Int::S32 => $regs.map2(d, a, b, $mask, |$a, $b| $e),
            Int::U64 | Int::S64 => $regs.wide_map2(d, a, b, $mask, |$a, $b| $e),
        }
    }};
}

/// An operation on one 16-bit half.
#[inline(always)]
fn half(op: HalvesOp, int: Int, a: u16, b: u16) -> u16 {
    let (x, y) = (a as i16, b as i16);
    match (op, int) {
        (HalvesOp::Add, _) => a.wrapping_add(b),
        (HalvesOp::Min, Int::S16) => x.min(y) as u16,
        (HalvesOp::Max, Int::S16) => x.max(y) as u16,
        (HalvesOp::Min, _) => a.min(b),
        (HalvesOp::Max, _) => a.max(b),
        (HalvesOp::MinRelu, _) => x.min(y).max(0) as u16,
        (HalvesOp::MaxRelu, _) => x.max(y).max(0) as u16,
    }
}

pub(super) fn arithmetic(regs: &mut Registers, inst: &Inst, mask: u32, op: IntOp, int: Int) {
    match op {
        IntOp::Add => wrapping!(regs, inst, mask, int, |a, b| a.wrapping_add(b)),
        IntOp::Sub => wrapping!(regs, inst, mask, int, |a, b| a.wrapping_sub(b)),
        IntOp::MulLo => wrapping!(regs, inst, mask, int, |a, b| a.wrapping_mul(b)),
        IntOp::Min => by_type!(regs, inst, mask, int, |a, b| signed a.min(b), unsigned a.min(b)),
        IntOp::Max => by_type!(regs, inst, mask, int, |a, b| signed a.max(b), unsigned a.max(b)),
        IntOp::MinRelu => regs.map2(inst.d[0], inst.s[0], inst.s[1], mask, |a, b| {
            (a as i32).min(b as i32).max(0) as u32
        }),
        IntOp::MaxRelu => regs.map2(inst.d[0], inst.s[0], inst.s[1], mask, |a, b| {
            (a as i32).max(b as i32).max(0) as u32
        }),
        IntOp::Halves(op) => regs.map2(inst.d[0], inst.s[0], inst.s[1], mask, |a, b| {
            let high = half(op, int, (a >> 16) as u16, (b >> 16) as u16);
            u32::from(high) << 16 | u32::from(half(op, int, a as u16, b as u16))
        }),
        IntOp::Pack(bits, signed) => regs.map3(inst.d[0], first_three(inst), mask, |a, b, c| {
            let bits = u32::from(bits);
            let (least, most) = if signed {
                (-1 << (bits - 1), (1 << (bits - 1)) - 1)
            } else {
                (0, (1 << bits) - 1)
            };
            let part = |x: u32| (x as i32).clamp(least, most) as u32 & ((1 << bits) - 1);
            c.checked_shl(2 * bits).unwrap_or(0) | part(a) << bits | part(b)
        }),
        // Division by zero gives an unspecified value; hardware gives all ones, and the dividend as
        // the remainder.
        IntOp::Div => by_type!(
            regs, inst, mask, int,
            |a, b| signed if b == 0 { -1 } else { a.wrapping_div(b) }, unsigned a.checked_div(b).unwrap_or(!0)
        ),
        IntOp::Rem => by_type!(
            regs, inst, mask, int,
            |a, b| signed if b == 0 { a } else { a.wrapping_rem(b) }, unsigned a.checked_rem(b).unwrap_or(a)
        ),
        IntOp::Abs | IntOp::Neg => negate(regs, inst, mask, op, int),
        IntOp::AddSat => regs.map2(inst.d[0], inst.s[0], inst.s[1], mask, |a, b| {
            (a as i32).saturating_add(b as i32) as u32
        }),
        IntOp::SubSat => regs.map2(inst.d[0], inst.s[0], inst.s[1], mask, |a, b| {
            (a as i32).saturating_sub(b as i32) as u32
        }),
        IntOp::MulHi => match int {
            Int::U64 | Int::S64 => regs.wide_map2(inst.d[0], inst.s[0], inst.s[1], mask, |a, b| {
                high_64(int, a, b)
            }),
            _ => regs.map2(inst.d[0], inst.s[0], inst.s[1], mask, |a, b| {
                high_32(int, a, b)
            }),
        },
        IntOp::MadLo => match int {
            Int::U64 | Int::S64 => regs.wide_map3(inst.d[0], first_three(inst), mask, |a, b, c| {
                a.wrapping_mul(b).wrapping_add(c)
            }),
            Int::U32 | Int::S32 => regs.map3(inst.d[0], first_three(inst), mask, |a, b, c| {
                a.wrapping_mul(b).wrapping_add(c)
            }),
            Int::U16 | Int::S16 => regs.map3(inst.d[0], first_three(inst), mask, |a, b, c| {
                a.wrapping_mul(b).wrapping_add(c) & 0xffff
            }),
        },
        IntOp::MadHi => match int {
            Int::U64 | Int::S64 => regs.wide_map3(inst.d[0], first_three(inst), mask, |a, b, c| {
                high_64(int, a, b).wrapping_add(c)
            }),
            _ => {
                let cut = if int.bits() == 16 { 0xffff } else { u32::MAX };
                regs.map3(inst.d[0], first_three(inst), mask, |a, b, c| {
                    high_32(int, a, b).wrapping_add(c) & cut
                });
            }
        },
        IntOp::MadHiSat => regs.map3(inst.d[0], first_three(inst), mask, |a, b, c| {
            (high_32(Int::S32, a, b) as i32).saturating_add(c as i32) as u32
        }),
        IntOp::MulWide | IntOp::MadWide => wide(regs, inst, mask, op, int),
        IntOp::Sad => sad(regs, inst, mask, int),
        IntOp::Mul24Lo | IntOp::Mul24Hi | IntOp::Mad24Lo | IntOp::Mad24Hi => {
            mul24(regs, inst, mask, op, int)
        }
        IntOp::Dp4a(a_signed, b_signed) => {
            regs.map3(inst.d[0], first_three(inst), mask, |a, b, c| {
                (0..4).fold(c, |sum, i| {
                    let product = byte(a, i, a_signed).wrapping_mul(byte(b, i, b_signed));
                    sum.wrapping_add(product as u32)
                })
            })
        }
        IntOp::Dp2a(a_signed, b_signed, high) => {
            let first = if high { 2 } else { 0 };
            regs.map3(inst.d[0], first_three(inst), mask, |a, b, c| {
                (0..2).fold(c, |sum, i| {
                    let half = (a >> (16 * i)) as u16;
                    let half = if a_signed {
                        i32::from(half as i16)
                    } else {
                        i32::from(half)
                    };
                    sum.wrapping_add(half.wrapping_mul(byte(b, first + i, b_signed)) as u32)
                })
            });
        }
    }
}

fn first_three(inst: &Inst) -> [crate::decode::op::Reg; 3] {
    [inst.s[0], inst.s[1], inst.s[2]]
}

fn byte(value: u32, index: u32, signed: bool) -> i32 {
    let byte = (value >> (8 * index)) as u8;
    if signed {
        i32::from(byte as i8)
    } else {
        i32::from(byte)
    }
}

/// The high half of a product of 16- or 32-bit values.
#[inline(always)]
fn high_32(int: Int, a: u32, b: u32) -> u32 {
    match int {
        Int::U16 => a.wrapping_mul(b) >> 16,
        Int::S16 => ((i32::from(a as i16) * i32::from(b as i16)) as u32) >> 16,
        Int::S32 => ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32,
        _ => ((u64::from(a) * u64::from(b)) >> 32) as u32,
    }
}

#[inline(always)]
fn high_64(int: Int, a: u64, b: u64) -> u64 {
    if int.signed() {
        ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
    } else {
        ((u128::from(a) * u128::from(b)) >> 64) as u64
    }
}

fn negate(regs: &mut Registers, inst: &Inst, mask: u32, op: IntOp, int: Int) {
    let (d, a) = (inst.d[0], inst.s[0]);
    match (int.bits(), op) {
        (16, IntOp::Neg) => regs.map1(d, a, mask, |a| a.wrapping_neg() & 0xffff),
        (16, _) => regs.map1(d, a, mask, |a| u32::from((a as i16).wrapping_abs() as u16)),
        (32, IntOp::Neg) => regs.map1(d, a, mask, u32::wrapping_neg),
        (32, _) => regs.map1(d, a, mask, |a| (a as i32).wrapping_abs() as u32),
        (_, IntOp::Neg) => regs.wide_map1(d, a, mask, u64::wrapping_neg),
        (_, _) => regs.wide_map1(d, a, mask, |a| (a as i64).wrapping_abs() as u64),
    }
}

/// `mul.wide` and `mad.wide`: the product has twice the width.
fn wide(regs: &mut Registers, inst: &Inst, mask: u32, op: IntOp, int: Int) {
    let (a, b) = (*regs.word(inst.s[0]), *regs.word(inst.s[1]));
    let adds = op == IntOp::MadWide;
    if int.bits() == 16 {
        let c = if adds {
            *regs.word(inst.s[2])
        } else {
            [0; LANES]
        };
        let mut out = [0; LANES];
        for lane in 0..LANES {
            let product = if int == Int::S16 {
                (i32::from(a[lane] as i16) * i32::from(b[lane] as i16)) as u32
            } else {
                a[lane].wrapping_mul(b[lane])
            };
            out[lane] = product.wrapping_add(c[lane]);
        }
        return regs.set_word(inst.d[0], mask, &out);
    }
    let c = if adds {
        *regs.wide(inst.s[2])
    } else {
        [0; LANES]
    };
    let mut out = [0; LANES];
    if int == Int::S32 {
        for lane in 0..LANES {
            let product = i64::from(a[lane] as i32) * i64::from(b[lane] as i32);
            out[lane] = (product as u64).wrapping_add(c[lane]);
        }
    } else {
        for lane in 0..LANES {
            out[lane] = (u64::from(a[lane]) * u64::from(b[lane])).wrapping_add(c[lane]);
        }
    }
    regs.set_wide(inst.d[0], mask, &out);
}

fn sad(regs: &mut Registers, inst: &Inst, mask: u32, int: Int) {
    let (d, s) = (inst.d[0], first_three(inst));
    match int {
        Int::U16 => regs.map3(d, s, mask, |a, b, c| a.abs_diff(b).wrapping_add(c) & 0xffff),
        Int::S16 => regs.map3(d, s, mask, |a, b, c| {
            u32::from((a as i16).abs_diff(b as i16)).wrapping_add(c) & 0xffff
        }),
        Int::U32 => regs.map3(d, s, mask, |a, b, c| a.abs_diff(b).wrapping_add(c)),
        Int::S32 => regs.map3(d, s, mask, |a, b, c| {
            (a as i32).abs_diff(b as i32).wrapping_add(c)
        }),
        Int::U64 => regs.wide_map3(d, s, mask, |a, b, c| a.abs_diff(b).wrapping_add(c)),
        Int::S64 => regs.wide_map3(d, s, mask, |a, b, c| {
            (a as i64).abs_diff(b as i64).wrapping_add(c)
        }),
    }
}

fn mul24(regs: &mut Registers, inst: &Inst, mask: u32, op: IntOp, int: Int) {
    let extend = |v: u32| -> i64 {
        if int.signed() {
            i64::from((v << 8) as i32 >> 8)
        } else {
            i64::from(v & 0xff_ffff)
        }
    };
    let high = matches!(op, IntOp::Mul24Hi | IntOp::Mad24Hi);
    let product = |a: u32, b: u32| -> u32 {
        let product = extend(a) * extend(b);
        (if high { product >> 16 } else { product }) as u32
    };
    if matches!(op, IntOp::Mul24Lo | IntOp::Mul24Hi) {
        regs.map2(inst.d[0], inst.s[0], inst.s[1], mask, product);
    } else {
        regs.map3(inst.d[0], first_three(inst), mask, |a, b, c| {
            product(a, b).wrapping_add(c)
        });
    }
}

/// Extended-precision arithmetic (PTX ISA section 9.7.2).
pub(super) fn carry(regs: &mut Registers, inst: &Inst, mask: u32, op: CarryOp, int: Int) {
    let wide = int.bits() == 64;
    let (a, b) = (regs.any(inst.s[0]), regs.any(inst.s[1]));
    let c = if inst.s[2].is_some() {
        regs.any(inst.s[2])
    } else {
        [0; LANES]
    };
    let carry_in = if inst.s[3].is_some() {
        regs.pred(inst.s[3])
    } else {
        0
    };
    let mut out = [0; LANES];
    let mut carry_out = 0;
    for lane in 0..LANES {
        let carry = u128::from(carry_in >> lane & 1);
        let (x, y, z) = (a[lane], b[lane], c[lane]);
        let (first, second) = match op {
            CarryOp::Add | CarryOp::Sub => (x, y),
            CarryOp::MadLo => (x.wrapping_mul(y), z),
            CarryOp::MadHi if wide => (high_64(int, x, y), z),
            CarryOp::MadHi => (u64::from(high_32(int, x as u32, y as u32)), z),
        };
        let top = if wide { u64::MAX } else { u64::from(u32::MAX) };
        let (first, second) = (u128::from(first & top), u128::from(second & top));
        let (result, flag) = if op == CarryOp::Sub {
            let result = first.wrapping_sub(second).wrapping_sub(carry);
            (result, first < second + carry)
        } else {
            let result = first + second + carry;
            (result, result > u128::from(top))
        };
        out[lane] = result as u64 & top;
        carry_out |= u32::from(flag) << lane;
    }
    regs.set_any(inst.d[0], mask, &out);
    if inst.d[1].is_some() {
        regs.set_pred(inst.d[1], mask, carry_out);
    }
}
