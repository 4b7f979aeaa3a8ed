//! `cvt` (PTX ISA section 9.7.9.21).

use super::registers::{LANES, Registers};
use super::rounding::{
    BF16, E4M3, E5M2, F16, F32, NAN16, TF32, bf16_to_f32, canonical, f16_to_f32, f32_to_bf16,
    f32_to_f16, flush, integral, round_to, to_odd,
};
use crate::decode::op::{Convert, Inst, Number, Round, Saturate};
use crate::decode::types::{Float, Int};

pub(super) fn convert(regs: &mut Registers, inst: &Inst, mask: u32, convert: Convert) {
    if common(regs, inst, mask, convert) {
        return;
    }
    let source = regs.any(inst.s[0]);
    let second = if inst.s[1].is_some() {
        regs.any(inst.s[1])
    } else {
        [0; LANES]
    };
    let bits = inst.imm as u32;
    let mut out = [0; LANES];
    for lane in 0..LANES {
        if mask >> lane & 1 == 1 {
            out[lane] = one(convert, source[lane], second[lane], bits);
        }
    }
    regs.set_any(inst.d[0], mask, &out);
}

/// The conversions that kernels are full of, as plain lane loops. False if this is none of them.
fn common(regs: &mut Registers, inst: &Inst, mask: u32, convert: Convert) -> bool {
    let (d, a) = (inst.d[0], inst.s[0]);
    if convert.sat != Saturate::No || convert.ftz || d.is_wide() != (inst.imm == 64) {
        return false;
    }
    // The remaining loops are over words: `cvt` also takes registers that are wider than its types.
    let nearest =
        convert.round == Round::Nearest && !convert.integral && !a.is_wide() && !d.is_wide();
    match (convert.to, convert.from) {
        (Number::Int(Int::S64), Number::Int(Int::S32)) if !a.is_wide() => {
            widen(regs, inst, mask, |a| a as i32 as i64 as u64)
        }
        (Number::Int(Int::U64 | Int::S64), Number::Int(Int::U32)) if !a.is_wide() => {
            widen(regs, inst, mask, u64::from)
        }
        (Number::Int(Int::U32 | Int::S32), Number::Int(Int::U64 | Int::S64)) if !d.is_wide() => {
            let wide = regs.wide(a);
            let mut out = [0; LANES];
            for lane in 0..LANES {
                out[lane] = wide[lane] as u32;
            }
            regs.set_word(d, mask, &out);
        }
        (Number::Float(Float::Bf16), Number::Float(Float::F32)) if nearest => {
            regs.map1(d, a, mask, |a| u32::from(f32_to_bf16(f32::from_bits(a))));
        }
        (Number::Float(Float::F32), Number::Float(Float::Bf16)) if nearest => {
            regs.map1(d, a, mask, |a| canonical(bf16_to_f32(a as u16)));
        }
        (Number::Float(Float::F16), Number::Float(Float::F32)) if nearest => {
            regs.map1(d, a, mask, |a| u32::from(f32_to_f16(f32::from_bits(a))));
        }
        (Number::Float(Float::F32), Number::Float(Float::F16)) if nearest => {
            regs.map1(d, a, mask, |a| canonical(f16_to_f32(a as u16)));
        }
        (Number::Float(Float::Bf16x2), Number::Float(Float::F32)) if nearest => {
            regs.map2(d, a, inst.s[1], mask, |high, low| {
                let [high, low] = [high, low].map(|x| u32::from(f32_to_bf16(f32::from_bits(x))));
                high << 16 | low
            });
        }
        (Number::Float(Float::F16x2), Number::Float(Float::F32)) if nearest => {
            regs.map2(d, a, inst.s[1], mask, |high, low| {
                let [high, low] = [high, low].map(|x| u32::from(f32_to_f16(f32::from_bits(x))));
                high << 16 | low
            });
        }
        (Number::Float(Float::F32), Number::Int(Int::S32)) if nearest => {
            regs.map1(d, a, mask, |a| (a as i32 as f32).to_bits());
        }
        (Number::Float(Float::F32), Number::Int(Int::U32)) if nearest => {
            regs.map1(d, a, mask, |a| (a as f32).to_bits());
        }
        _ => return false,
    }
    true
}

#[inline(always)]
fn widen(regs: &mut Registers, inst: &Inst, mask: u32, f: impl Fn(u32) -> u64) {
    let words = regs.word(inst.s[0]);
    let mut out = [0; LANES];
    for lane in 0..LANES {
        out[lane] = f(words[lane]);
    }
    regs.set_wide(inst.d[0], mask, &out);
}

/// One lane's conversion; `bits` is the declared size of the destination.
fn one(convert: Convert, source: u64, second: u64, bits: u32) -> u64 {
    match (convert.to, convert.from) {
        (to, from) if is_int(to) && is_int(from) => {
            let value = extend(source, from);
            let value = if convert.sat == Saturate::Sat {
                clamp(value, to)
            } else {
                value
            };
            int_bits(value, to, bits)
        }
        (to, Number::Float(from)) if is_int(to) => int_bits(
            to_int(convert, float_value(source, from), from, to),
            to,
            bits,
        ),
        (Number::Float(to), from) if is_int(from) => {
            let value = extend(source, from);
            let near = value as f64;
            // The host's i128 to f64 rounds once; what it lost decides a second rounding.
            let exact = to_odd(near, (value - near as i128) as f64);
            if to == Float::F64 {
                let directed = match convert.round {
                    Round::Nearest | Round::NearestAway => near,
                    round => directed_f64(near, value, round),
                };
                return saturated(directed, convert.sat).to_bits();
            }
            encode(saturated(exact, convert.sat), to, convert)
        }
        (Number::Float(to), Number::Float(from)) => {
            float_to_float(convert, source, second, to, from)
        }
        _ => 0,
    }
}

fn is_int(number: Number) -> bool {
    !matches!(number, Number::Float(_))
}

fn shape(number: Number) -> (u32, bool) {
    match number {
        Number::Int(int) => (int.bits(), int.signed()),
        Number::Int8(signed) => (8, signed),
        Number::Float(float) => (float.bits(), true),
    }
}

/// The value of the low bits of a register.
fn extend(source: u64, ty: Number) -> i128 {
    let (bits, signed) = shape(ty);
    let unused = 64 - bits;
    if signed {
        i128::from((source << unused) as i64 >> unused)
    } else {
        i128::from(source << unused >> unused)
    }
}

fn clamp(value: i128, to: Number) -> i128 {
    let (bits, signed) = shape(to);
    if signed {
        value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        value.clamp(0, (1 << bits) - 1)
    }
}

/// Cuts to the type and extends to the destination register.
fn int_bits(value: i128, to: Number, register_bits: u32) -> u64 {
    let extended = extend(value as u64, to) as u64;
    if register_bits >= 64 {
        extended
    } else {
        extended & ((1 << register_bits) - 1)
    }
}

/// Exact for every format.
fn float_value(source: u64, from: Float) -> f64 {
    match from {
        Float::F64 => f64::from_bits(source),
        Float::F16 => f64::from(f16_to_f32(source as u16)),
        Float::Bf16 => f64::from(bf16_to_f32(source as u16)),
        _ => f64::from(f32::from_bits(source as u32)),
    }
}

fn to_int(convert: Convert, x: f64, from: Float, to: Number) -> i128 {
    let (bits, _) = shape(to);
    if x.is_nan() {
        // PTX ISA, cvt: NaN gives zero, but 1 << (width - 1) for a 64-bit result or an f64 source.
        return if from == Float::F64 || bits == 64 {
            1 << (bits - 1)
        } else {
            0
        };
    }
    let x = if convert.ftz && from == Float::F32 {
        f64::from(flush(x as f32))
    } else {
        x
    };
    clamp(integral(x, convert.round) as i128, to)
}

fn directed_f64(near: f64, exact: i128, round: Round) -> f64 {
    let lost = exact - near as i128;
    match round {
        Round::Up if lost > 0 => near.next_up(),
        Round::Down if lost < 0 => near.next_down(),
        Round::Zero if lost > 0 && near < 0.0 => near.next_up(),
        Round::Zero if lost < 0 && near > 0.0 => near.next_down(),
        _ => near,
    }
}

fn saturated(x: f64, sat: Saturate) -> f64 {
    match sat {
        // NaN becomes +0.
        Saturate::Sat if x > 0.0 => x.min(1.0),
        Saturate::Sat => 0.0,
        Saturate::Relu | Saturate::SatFiniteRelu if x <= 0.0 => 0.0,
        _ => x,
    }
}

fn float_to_float(convert: Convert, source: u64, second: u64, to: Float, from: Float) -> u64 {
    let prepare = |x: f64| -> f64 {
        let x = if convert.ftz && from == Float::F32 {
            f64::from(flush(x as f32))
        } else {
            x
        };
        let x = if convert.integral {
            integral(x, convert.round)
        } else {
            x
        };
        saturated(x, convert.sat)
    };
    let element = match to {
        Float::F16x2 => Float::F16,
        Float::Bf16x2 => Float::Bf16,
        other => other,
    };
    match (to, from) {
        (Float::E4m3x2 | Float::E5m2x2, Float::F16x2) => {
            let low = encode(
                prepare(float_value(source & 0xffff, Float::F16)),
                to,
                convert,
            );
            let high = encode(
                prepare(float_value(source >> 16 & 0xffff, Float::F16)),
                to,
                convert,
            );
            high << 8 | low
        }
        (Float::F16x2, Float::E4m3x2 | Float::E5m2x2) => {
            let half =
                |byte: u64| encode(prepare(fp8_value(byte as u8, from)), Float::F16, convert);
            half(source >> 8) << 16 | half(source)
        }
        (Float::F16x2 | Float::Bf16x2 | Float::E4m3x2 | Float::E5m2x2, _) => {
            // The first source is the high half.
            let shift = to.bits() / 2;
            let high = encode(prepare(float_value(source, from)), element, convert);
            high << shift | encode(prepare(float_value(second, from)), element, convert)
        }
        _ => {
            let x = prepare(float_value(source, from));
            if to == Float::F64 {
                return x.to_bits();
            }
            let out = encode(x, element, convert);
            let flushes = convert.ftz && to == Float::F32;
            if flushes {
                u64::from(flush(f32::from_bits(out as u32)).to_bits())
            } else {
                out
            }
        }
    }
}

/// Rounds to a format of at most 32 bits and gives its bits.
fn encode(x: f64, to: Float, convert: Convert) -> u64 {
    let (format, nan) = match to {
        Float::F16 => (F16, u64::from(NAN16)),
        Float::Bf16 => (BF16, u64::from(NAN16)),
        Float::Tf32 => (TF32, 0x7fff_ffff),
        Float::E4m3x2 => (E4M3, 0x7f),
        Float::E5m2x2 => (E5M2, 0x7f),
        _ => (F32, 0x7fff_ffff),
    };
    if x.is_nan() {
        return nan;
    }
    // A value that is integral already needs no more than its own bits.
    let round = if convert.integral {
        Round::Nearest
    } else {
        convert.round
    };
    let mut rounded = round_to(x, format, round);
    let is_fp8 = matches!(to, Float::E4m3x2 | Float::E5m2x2);
    let finite = is_fp8 || matches!(convert.sat, Saturate::SatFinite | Saturate::SatFiniteRelu);
    if finite && rounded.is_infinite() {
        rounded = format.max.copysign(x);
    }
    match to {
        Float::F16 => u64::from(half::f16::from_f32(rounded as f32).to_bits()),
        Float::Bf16 => u64::from((rounded as f32).to_bits() >> 16),
        Float::E4m3x2 => u64::from(fp8_bits(rounded, 3, 7)),
        Float::E5m2x2 => u64::from(fp8_bits(rounded, 2, 15)),
        _ => u64::from((rounded as f32).to_bits()),
    }
}

/// 2 to this power, exactly: `powi` has an unspecified precision. For powers that are normal
/// numbers.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The bits of a value that fits an 8-bit format exactly.
fn fp8_bits(x: f64, mantissa: u32, bias: i32) -> u8 {
    let sign = u8::from(x.is_sign_negative()) << 7;
    let x = x.abs();
    if x == 0.0 {
        return sign;
    }
    let exponent = ((x.to_bits() >> 52) as i32 - 1023).max(1 - bias);
    let units = (x / power_of_two(exponent - mantissa as i32)) as u32;
    let hidden = 1 << mantissa;
    let biased = if units >= hidden {
        (exponent + bias) as u32
    } else {
        0
    };
    sign | (biased << mantissa | (units & (hidden - 1))) as u8
}

fn fp8_value(bits: u8, from: Float) -> f64 {
    if from == Float::E5m2x2 {
        // e5m2 is the upper half of f16.
        return f64::from(f16_to_f32(u16::from(bits) << 8));
    }
    let magnitude = bits & 0x7f;
    let (exponent, mantissa) = (i32::from(magnitude >> 3), f64::from(magnitude & 7));
    let value = match (exponent, magnitude) {
        (_, 0x7f) => f64::NAN,
        (0, _) => mantissa * power_of_two(-9),
        _ => (1.0 + mantissa / 8.0) * power_of_two(exponent - 7),
    };
    if bits >= 0x80 { -value } else { value }
}
