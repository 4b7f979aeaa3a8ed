//! Rounding in software: every format and mode that the host's instructions don't have.

use crate::decode::op::Round;

/// A binary floating-point format: significand bits with the hidden one, smallest normal exponent,
/// largest finite value.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub precision: i32,
    pub min_exponent: i32,
    pub max: f64,
}

pub(crate) const F32: Format = Format {
    precision: 24,
    min_exponent: -126,
    max: f32::MAX as f64,
};
pub(crate) const F16: Format = Format {
    precision: 11,
    min_exponent: -14,
    max: 65504.0,
};
pub(crate) const BF16: Format = Format {
    precision: 8,
    min_exponent: -126,
    max: 3.389_531_389_251_535_5e38,
};
pub(crate) const TF32: Format = Format {
    precision: 11,
    min_exponent: -126,
    max: 3.401_162_134_214_653_5e38,
};
pub(crate) const E4M3: Format = Format {
    precision: 4,
    min_exponent: -6,
    max: 448.0,
};
pub(crate) const E5M2: Format = Format {
    precision: 3,
    min_exponent: -14,
    max: 57344.0,
};

/// Rounds to an integral value.
#[inline(always)]
pub(crate) fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::NearestAway => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// 2^n for normal results.
fn power(n: i32) -> f64 {
    f64::from_bits(((n + 1023).clamp(1, 2046) as u64) << 52)
}

/// The value of `format` that `x` rounds to, as f64. Overflow gives infinity where the mode rounds
/// away from zero.
pub(crate) fn round_to(x: f64, format: Format, round: Round) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(format.min_exponent);
    let quantum = exponent - (format.precision - 1);
    // Scaling by powers of two is exact: the smallest quantum is 2^-149.
    let rounded = integral(x * power(-quantum), round) * power(quantum);
    if rounded.abs() <= format.max {
        return rounded.copysign(x);
    }
    let stays = match round {
        Round::Nearest | Round::NearestAway => false,
        Round::Zero => true,
        Round::Down => x > 0.0,
        Round::Up => x < 0.0,
    };
    if stays {
        format.max.copysign(x)
    } else {
        f64::INFINITY.copysign(x)
    }
}

/// `value` if `error` is zero; otherwise the neighbour of the exact `value + error` whose last bit
/// is one, so that a second rounding to fewer bits comes out as if it were the only one.
#[inline(always)]
pub(crate) fn to_odd(value: f64, error: f64) -> f64 {
    if error == 0.0 || error.is_nan() || !value.is_finite() || value.to_bits() & 1 == 1 {
        return value;
    }
    if value == 0.0 {
        return f64::from_bits(1).copysign(error);
    }
    let outwards = (error > 0.0) == (value > 0.0);
    f64::from_bits(if outwards {
        value.to_bits() + 1
    } else {
        value.to_bits() - 1
    })
}

/// What `a + b` loses (Knuth).
#[inline(always)]
pub(crate) fn sum_error(a: f64, b: f64, sum: f64) -> f64 {
    let shadow = sum - a;
    (a - (sum - shadow)) + (b - shadow)
}

/// `a * b + c`, rounded to odd. The product must be exact in f64: factors of at most 26 bits.
#[inline(always)]
pub(crate) fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    let product = a * b;
    let sum = product + c;
    to_odd(sum, sum_error(product, c, sum))
}

/// f64 to f32, rounded to odd.
#[inline(always)]
pub(crate) fn narrow_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    if back == x || x.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    if near == 0.0 {
        return f32::from_bits(1).copysign(x as f32);
    }
    // An infinity that a finite value overflowed to steps back to the largest finite value, which
    // is odd.
    f32::from_bits(if back.abs() > x.abs() {
        near.to_bits() - 1
    } else {
        near.to_bits() + 1
    })
}

/// The canonical NaN of f32 results.
pub(crate) const NAN32: u32 = 0x7fff_ffff;
/// The canonical NaN of f16 and bf16 results.
pub(crate) const NAN16: u16 = 0x7fff;

#[inline(always)]
pub(crate) fn canonical(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

/// A subnormal becomes zero of its sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE {
        0.0_f32.copysign(x)
    } else {
        x
    }
}

/// To [0, 1]; NaN becomes 0.
#[inline(always)]
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 {
        if x < 1.0 { x } else { 1.0 }
    } else {
        0.0
    }
}

#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}

#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    if x.is_nan() {
        NAN16
    } else {
        half::f16::from_f32(x).to_bits()
    }
}

/// Round to nearest even.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { NAN16 } else { rounded as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_round_like_the_host_where_it_can() {
        let values = [
            1.0,
            1.0 + 1e-9,
            0.1,
            3.0e-45,
            1.2e-39,
            65519.9,
            65520.0,
            -2.9e-8,
            3.4e38,
            3.5e38,
            1e-60,
        ];
        for x in values {
            assert_eq!(
                round_to(x, F32, Round::Nearest),
                f64::from(x as f32),
                "{x:e}"
            );
            let half = half::f16::from_f32(narrow_odd(x)).to_f64();
            assert_eq!(round_to(x, F16, Round::Nearest), half, "{x:e}");
            let brain = bf16_to_f32(f32_to_bf16(narrow_odd(x)));
            assert_eq!(round_to(x, BF16, Round::Nearest), f64::from(brain), "{x:e}");
        }
    }

    #[test]
    fn directed_modes_bracket_the_value() {
        assert_eq!(
            round_to(1.0 + 1e-12, F32, Round::Up),
            1.0 + f64::from(f32::EPSILON)
        );
        assert_eq!(round_to(1.0 + 1e-12, F32, Round::Down), 1.0);
        assert_eq!(round_to(-1.0 - 1e-12, F32, Round::Zero), -1.0);
        assert_eq!(round_to(1e39, F32, Round::Zero), f64::from(f32::MAX));
        assert_eq!(round_to(1e39, F32, Round::Up), f64::INFINITY);
        assert_eq!(round_to(-1e39, F32, Round::Up), f64::from(f32::MIN));
        assert_eq!(
            round_to(1e-60, F32, Round::Up),
            f64::from(f32::from_bits(1))
        );
        assert_eq!(
            round_to(1.0 + 1.0 / 2048.0, TF32, Round::NearestAway),
            1.0 + 1.0 / 1024.0
        );
        assert_eq!(round_to(1.0 + 1.0 / 2048.0, TF32, Round::Nearest), 1.0);
    }

    #[test]
    fn a_second_rounding_after_odd_is_the_only_one() {
        // 1 + 2^-8 is a tie of bf16; 2^-80 above it must round up.
        let x = fma_odd(1.0 + 1.0 / 256.0, 1.0, 2.0_f64.powi(-80));
        assert_eq!(bf16_to_f32(f32_to_bf16(narrow_odd(x))), 1.0 + 1.0 / 128.0);
        let below = fma_odd(1.0 + 1.0 / 256.0, 1.0, -(2.0_f64.powi(-80)));
        assert_eq!(bf16_to_f32(f32_to_bf16(narrow_odd(below))), 1.0);
    }
}
