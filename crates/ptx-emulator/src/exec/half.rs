//! f16 and bf16 arithmetic, single and packed (PTX ISA section 9.7.4): each operation rounds once.

use super::float;
use super::registers::Registers;
use super::rounding::{
    NAN16, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, fma_odd, narrow_odd, saturate,
};
use crate::decode::op::{FloatMods, FloatOp, HalfType, Inst};

/// One of the two 16-bit formats.
trait Format {
    fn wide(bits: u16) -> f32;
    fn narrow(x: f32) -> u16;
    /// Only f16 has `.ftz`.
    fn flush(bits: u16) -> u16;
}

struct F16;
struct Bf16;

impl Format for F16 {
    #[inline(always)]
    fn wide(bits: u16) -> f32 {
        f16_to_f32(bits)
    }
    #[inline(always)]
    fn narrow(x: f32) -> u16 {
        f32_to_f16(x)
    }
    #[inline(always)]
    fn flush(bits: u16) -> u16 {
        if bits & 0x7c00 == 0 {
            bits & 0x8000
        } else {
            bits
        }
    }
}

impl Format for Bf16 {
    #[inline(always)]
    fn wide(bits: u16) -> f32 {
        bf16_to_f32(bits)
    }
    #[inline(always)]
    fn narrow(x: f32) -> u16 {
        f32_to_bf16(x)
    }
    #[inline(always)]
    fn flush(bits: u16) -> u16 {
        bits
    }
}

pub(super) fn half_op(
    regs: &mut Registers,
    inst: &Inst,
    mask: u32,
    op: FloatOp,
    half: HalfType,
    mods: FloatMods,
) {
    match half {
        HalfType::F16 => run::<F16>(regs, inst, mask, op, mods, false),
        HalfType::Bf16 => run::<Bf16>(regs, inst, mask, op, mods, false),
        HalfType::F16x2 => run::<F16>(regs, inst, mask, op, mods, true),
        HalfType::Bf16x2 => run::<Bf16>(regs, inst, mask, op, mods, true),
    }
}

fn run<T: Format>(
    regs: &mut Registers,
    inst: &Inst,
    mask: u32,
    op: FloatOp,
    mods: FloatMods,
    packed: bool,
) {
    let a = inst.s[0];
    let b = if inst.s[1].is_some() { inst.s[1] } else { a };
    let c = if inst.s[2].is_some() { inst.s[2] } else { a };
    let each = |a: u32, b: u32, c: u32, f: &dyn Fn(u16, u16, u16) -> u16| -> u32 {
        let low = u32::from(f(a as u16, b as u16, c as u16));
        if !packed {
            return low;
        }
        let high = f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16);
        low | u32::from(high) << 16
    };
    regs.map3(inst.d[0], [a, b, c], mask, |a, b, c| {
        each(a, b, c, &|a, b, c| lane::<T>(op, mods, a, b, c))
    });
}

#[inline(always)]
fn lane<T: Format>(op: FloatOp, mods: FloatMods, a: u16, b: u16, c: u16) -> u16 {
    let [a, b, c] = if mods.ftz {
        [a, b, c].map(T::flush)
    } else {
        [a, b, c]
    };
    // Sign operations keep NaN payloads.
    match op {
        FloatOp::Abs => return a & 0x7fff,
        FloatOp::Neg => return a ^ 0x8000,
        FloatOp::CopySign => return (a & 0x8000) | (b & 0x7fff),
        FloatOp::Min | FloatOp::Max => return choose::<T>(op, mods, a, b),
        _ => {}
    }
    let (x, y, z) = (T::wide(a), T::wide(b), T::wide(c));
    // f32 holds more than twice the bits of either format, so one operation in f32 and a second
    // rounding round once.
    let exact = match op {
        FloatOp::Add => x + y,
        FloatOp::Sub => x - y,
        // Below the normal range of f32 a product of bf16 would be rounded twice.
        FloatOp::Mul if (x * y).abs() < f32::MIN_POSITIVE => {
            narrow_odd(f64::from(x) * f64::from(y))
        }
        FloatOp::Mul => x * y,
        _ => narrow_odd(fma_odd(f64::from(x), f64::from(y), f64::from(z))),
    };
    let exact = if mods.sat { saturate(exact) } else { exact };
    let result = T::narrow(exact);
    let result = if mods.ftz { T::flush(result) } else { result };
    if mods.relu && result & 0x8000 != 0 && !exact.is_nan() {
        0
    } else {
        result
    }
}

#[inline(always)]
fn choose<T: Format>(op: FloatOp, mods: FloatMods, a: u16, b: u16) -> u16 {
    let sign = (a ^ b) & 0x8000;
    let (a, b) = if mods.xorsign_abs {
        (a & 0x7fff, b & 0x7fff)
    } else {
        (a, b)
    };
    let (x, y) = (T::wide(a), T::wide(b));
    let chosen = match (x.is_nan(), y.is_nan()) {
        (true, true) => NAN16,
        (true, false) | (false, true) if mods.nan => NAN16,
        (true, false) => b,
        (false, true) => a,
        (false, false) => {
            let picked = if op == FloatOp::Min {
                float::min(x, y)
            } else {
                float::max(x, y)
            };
            if picked.to_bits() == x.to_bits() {
                a
            } else {
                b
            }
        }
    };
    if mods.xorsign_abs {
        (chosen & 0x7fff) | sign
    } else {
        chosen
    }
}
