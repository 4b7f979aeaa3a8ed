//! f32 and f64 arithmetic (PTX ISA section 9.7.3), and the approximate functions.

use super::exact;
use super::registers::{FULL, LANES, Registers, collect};
use super::rounding::{
    F32, bf16_to_f32, canonical, f16_to_f32, f32_to_bf16, f32_to_f16, flush, fma_odd, round_to,
    saturate, sum_error, to_odd,
};
use crate::decode::op::{ApproxOp, FloatMods, FloatOp, HalfType, Inst, Round};

/// Runs an f32 operation lane by lane, with flushing and saturation as asked.
#[inline(always)]
fn map_f32(
    regs: &mut Registers,
    inst: &Inst,
    mask: u32,
    mods: FloatMods,
    f: impl Fn(f32, f32, f32) -> f32,
) {
    let a = *regs.word(inst.s[0]);
    let b = if inst.s[1].is_some() {
        *regs.word(inst.s[1])
    } else {
        a
    };
    let c = if inst.s[2].is_some() {
        *regs.word(inst.s[2])
    } else {
        a
    };
    let mut out = [0; LANES];
    if !mods.ftz && !mods.sat {
        for lane in 0..LANES {
            let [a, b, c] = [a[lane], b[lane], c[lane]].map(f32::from_bits);
            out[lane] = canonical(f(a, b, c));
        }
    } else {
        for lane in 0..LANES {
            let [a, b, c] = [a[lane], b[lane], c[lane]].map(|bits| {
                let x = f32::from_bits(bits);
                if mods.ftz { flush(x) } else { x }
            });
            let x = f(a, b, c);
            let x = if mods.ftz { flush(x) } else { x };
            out[lane] = canonical(if mods.sat { saturate(x) } else { x });
        }
    }
    regs.set_word(inst.d[0], mask, &out);
}

pub(super) fn f32_op(regs: &mut Registers, inst: &Inst, mask: u32, op: FloatOp, mods: FloatMods) {
    if mods.round != Round::Nearest {
        return map_f32(regs, inst, mask, mods, |a, b, c| {
            directed(op, mods.round, a, b, c)
        });
    }
    match op {
        FloatOp::Add => map_f32(regs, inst, mask, mods, |a, b, _| a + b),
        FloatOp::Sub => map_f32(regs, inst, mask, mods, |a, b, _| a - b),
        FloatOp::Mul => map_f32(regs, inst, mask, mods, |a, b, _| a * b),
        FloatOp::Fma => map_f32(regs, inst, mask, mods, f32::mul_add),
        FloatOp::Div => map_f32(regs, inst, mask, mods, |a, b, _| a / b),
        FloatOp::Rcp => map_f32(regs, inst, mask, mods, |a, _, _| 1.0 / a),
        FloatOp::Sqrt => map_f32(regs, inst, mask, mods, |a, _, _| a.sqrt()),
        FloatOp::Abs => map_f32(regs, inst, mask, mods, |a, _, _| a.abs()),
        FloatOp::Neg => map_f32(regs, inst, mask, mods, |a, _, _| -a),
        FloatOp::Min => map_f32(regs, inst, mask, mods, |a, b, _| choose(a, b, mods, min)),
        FloatOp::Max => map_f32(regs, inst, mask, mods, |a, b, _| choose(a, b, mods, max)),
        FloatOp::Min3 => map_f32(regs, inst, mask, mods, |a, b, c| {
            choose(choose(a, b, mods, min), c, mods, min)
        }),
        FloatOp::Max3 => map_f32(regs, inst, mask, mods, |a, b, c| {
            choose(choose(a, b, mods, max), c, mods, max)
        }),
        FloatOp::CopySign => regs.map2(inst.d[0], inst.s[0], inst.s[1], mask, |a, b| {
            (a & 0x8000_0000) | (b & 0x7fff_ffff)
        }),
        _ => {
            let a = *regs.word(inst.s[0]);
            let bits = collect(|lane| {
                classify(
                    op,
                    f64::from(f32::from_bits(a[lane])),
                    f32::from_bits(a[lane]).is_subnormal(),
                )
            });
            regs.set_pred(inst.d[0], mask, bits);
        }
    }
}

/// `min` and `max` with PTX's modifiers around the plain choice of two numbers.
#[inline(always)]
fn choose(a: f32, b: f32, mods: FloatMods, pick: impl Fn(f32, f32) -> f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    let (a, b) = if mods.xorsign_abs {
        (a.abs(), b.abs())
    } else {
        (a, b)
    };
    let chosen = if a.is_nan() || b.is_nan() {
        if mods.nan {
            f32::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        }
    } else {
        pick(a, b)
    };
    if mods.xorsign_abs {
        f32::from_bits(chosen.to_bits() & 0x7fff_ffff | sign)
    } else {
        chosen
    }
}

/// -0 is below +0.
#[inline(always)]
pub(super) fn min(a: f32, b: f32) -> f32 {
    if a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    if a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

fn classify(op: FloatOp, x: f64, subnormal: bool) -> bool {
    match op {
        FloatOp::TestFinite => x.is_finite(),
        FloatOp::TestInfinite => x.is_infinite(),
        FloatOp::TestNumber => !x.is_nan(),
        FloatOp::TestNan => x.is_nan(),
        FloatOp::TestNormal => x.is_finite() && x != 0.0 && !subnormal,
        FloatOp::TestSubnormal => subnormal,
        _ => false,
    }
}

/// f32 operations with a directed rounding: exactly in f64, or to odd, then rounded once.
fn directed(op: FloatOp, round: Round, a: f32, b: f32, c: f32) -> f32 {
    let [x, y, z] = [a, b, c].map(f64::from);
    let exact = match op {
        FloatOp::Add => {
            let sum = x + y;
            to_odd(sum, sum_error(x, y, sum))
        }
        FloatOp::Sub => {
            let sum = x - y;
            to_odd(sum, sum_error(x, -y, sum))
        }
        FloatOp::Mul => x * y,
        FloatOp::Fma => fma_odd(x, y, z),
        FloatOp::Div => quotient(x, y),
        FloatOp::Rcp => quotient(1.0, x),
        FloatOp::Sqrt => {
            let root = x.sqrt();
            to_odd(root, -root.mul_add(root, -x))
        }
        _ => return a,
    };
    // An exact zero sum is -0 when rounding down, unless both terms are +0.
    let is_sum = matches!(op, FloatOp::Add | FloatOp::Sub | FloatOp::Fma);
    if is_sum && exact == 0.0 && round == Round::Down {
        let (first, second) = match op {
            FloatOp::Add => (x, y),
            FloatOp::Sub => (x, -y),
            _ => (x * y, z),
        };
        let both_positive = first.is_sign_positive() && second.is_sign_positive();
        return if both_positive { 0.0 } else { -0.0 };
    }
    round_to(exact, F32, round) as f32
}

fn quotient(x: f64, y: f64) -> f64 {
    let quotient = x / y;
    let rest = -quotient.mul_add(y, -x);
    to_odd(quotient, if y < 0.0 { -rest } else { rest })
}

pub(super) fn f64_op(regs: &mut Registers, inst: &Inst, mask: u32, op: FloatOp, mods: FloatMods) {
    let a = *regs.wide(inst.s[0]);
    let b = if inst.s[1].is_some() {
        *regs.wide(inst.s[1])
    } else {
        a
    };
    let c = if inst.s[2].is_some() {
        *regs.wide(inst.s[2])
    } else {
        a
    };
    let value = f64::from_bits;
    if matches!(
        op,
        FloatOp::TestFinite
            | FloatOp::TestInfinite
            | FloatOp::TestNumber
            | FloatOp::TestNan
            | FloatOp::TestNormal
            | FloatOp::TestSubnormal
    ) {
        let bits = collect(|lane| classify(op, value(a[lane]), value(a[lane]).is_subnormal()));
        return regs.set_pred(inst.d[0], mask, bits);
    }
    let mut out = [0; LANES];
    for lane in 0..LANES {
        let operands = [a[lane], b[lane], c[lane]].map(value);
        let near = f64_lane(op, operands);
        out[lane] = match mods.round {
            Round::Nearest | Round::NearestAway => near,
            round => exact::directed(op, round, near, operands),
        }
        .to_bits();
    }
    regs.set_wide(inst.d[0], mask, &out);
}

#[inline(always)]
fn f64_lane(op: FloatOp, [a, b, c]: [f64; 3]) -> f64 {
    match op {
        FloatOp::Add => a + b,
        FloatOp::Sub => a - b,
        FloatOp::Mul => a * b,
        FloatOp::Fma => a.mul_add(b, c),
        FloatOp::Div => a / b,
        FloatOp::Rcp => 1.0 / a,
        FloatOp::Sqrt => a.sqrt(),
        FloatOp::Abs => a.abs(),
        FloatOp::Neg => -a,
        FloatOp::Min if a.is_nan() => b,
        FloatOp::Max if a.is_nan() => b,
        FloatOp::Min if b.is_nan() || a < b || (a == b && a.is_sign_negative()) => a,
        FloatOp::Max if b.is_nan() || a > b || (a == b && a.is_sign_positive()) => a,
        FloatOp::CopySign => b.copysign(a),
        _ => b,
    }
}

/// Functions that PTX gives an error bound for: the correctly rounded value (but for rare double
/// rounding) is within all of them.
pub(super) fn approximate(
    regs: &mut Registers,
    inst: &Inst,
    mask: u32,
    op: ApproxOp,
    mods: FloatMods,
) {
    match op {
        ApproxOp::RcpF64 | ApproxOp::RsqrtF64 => {
            return regs.wide_map1(inst.d[0], inst.s[0], mask, |bits| {
                let x = f64::from_bits(bits);
                let x = if x.is_subnormal() {
                    0.0_f64.copysign(x)
                } else {
                    x
                };
                let y = if op == ApproxOp::RcpF64 {
                    1.0 / x
                } else {
                    1.0 / x.sqrt()
                };
                // Only the upper word of the result is given.
                (if y.is_subnormal() {
                    0.0_f64.copysign(y)
                } else {
                    y
                })
                .to_bits()
                    & 0xffff_ffff_0000_0000
            });
        }
        ApproxOp::Ex2Half(half) => return half_function(regs, inst, mask, half, f64::exp2),
        ApproxOp::TanhHalf(half) => return half_function(regs, inst, mask, half, f64::tanh),
        _ => {}
    }
    // Slow functions: only the lanes that count.
    let a = *regs.word(inst.s[0]);
    let b = if inst.s[1].is_some() {
        *regs.word(inst.s[1])
    } else {
        a
    };
    let mut out = [0; LANES];
    for lane in 0..LANES {
        if mask != FULL && mask >> lane & 1 == 0 {
            continue;
        }
        let input = |bits: u32| {
            let x = f32::from_bits(bits);
            f64::from(if mods.ftz { flush(x) } else { x })
        };
        let (x, y) = (input(a[lane]), input(b[lane]));
        let result = match op {
            ApproxOp::Ex2 => x.exp2(),
            ApproxOp::Lg2 => x.log2(),
            ApproxOp::Rcp => 1.0 / x,
            ApproxOp::Rsqrt => 1.0 / x.sqrt(),
            ApproxOp::Sqrt => x.sqrt(),
            ApproxOp::Sin => x.sin(),
            ApproxOp::Cos => x.cos(),
            ApproxOp::Tanh => x.tanh(),
            _ => x / y,
        } as f32;
        out[lane] = canonical(if mods.ftz { flush(result) } else { result });
    }
    regs.set_word(inst.d[0], mask, &out);
}

fn half_function(
    regs: &mut Registers,
    inst: &Inst,
    mask: u32,
    half: HalfType,
    f: impl Fn(f64) -> f64,
) {
    let one = |bits: u16| -> u16 {
        match half {
            HalfType::F16 | HalfType::F16x2 => f32_to_f16(f(f64::from(f16_to_f32(bits))) as f32),
            HalfType::Bf16 | HalfType::Bf16x2 => {
                f32_to_bf16(f(f64::from(bf16_to_f32(bits))) as f32)
            }
        }
    };
    let packed = matches!(half, HalfType::F16x2 | HalfType::Bf16x2);
    regs.map1(inst.d[0], inst.s[0], mask, |a| {
        let high = if packed {
            u32::from(one((a >> 16) as u16)) << 16
        } else {
            0
        };
        high | u32::from(one(a as u16))
    });
}
