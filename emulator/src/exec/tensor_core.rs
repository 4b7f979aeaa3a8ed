//! The sum as tensor cores form it, after the published models (MMA-Sim, arXiv 2511.10909; Fasi et al. 2021): all products and the
//! addend are aligned to the largest exponent, cut toward zero to F fraction bits, added exactly, and the result is cut to f32
//! (rounded to nearest for an f16 result). F is 24 on compute capability 8.x, where K is halved and the halves are summed one after
//! the other, and 25 on 9.0.

use super::mma::Tile;
use super::rounding::{f16_to_f32, f32_to_f16, narrow_odd};
use crate::device::Numerics;

pub(super) fn multiply(tile: &mut Tile, k: usize, is_tf32: bool, to_f16: bool, numerics: Numerics) {
    let (fraction, step) = match numerics {
        Numerics::Hopper => (25, k),
        // K of 16 for 16-bit operands and 8 for tf32 run as two halves.
        _ => (24, if is_tf32 { 4 } else { 8 }),
    };
    let b = tile.b;
    for (a, sums) in tile.a.iter().zip(&mut tile.sum) {
        for (column, sum) in sums.iter_mut().enumerate() {
            for start in (0..k).step_by(step) {
                let end = (start + step).min(k);
                let pairs = a[start..end].iter().zip(&b[start..end]).map(|(a, b)| (*a, b[column]));
                *sum = fused(pairs, *sum, fraction, to_f16);
            }
        }
    }
}

/// A finite number as significand and exponent of its last bit: `s * 2^e`, 24-bit significand, not normalised.
fn split(x: f32) -> (i64, i32) {
    let bits = x.to_bits();
    let field = (bits >> 23 & 0xff) as i32;
    let significand = i64::from(bits & 0x7f_ffff) | if field == 0 { 0 } else { 1 << 23 };
    let signed = if bits >> 31 == 1 { -significand } else { significand };
    (signed, field.max(1) - 127 - 23)
}

fn fused(pairs: impl Iterator<Item = (f32, f32)>, c: f32, fraction: i32, to_f16: bool) -> f32 {
    // Up to 16 products and the addend: significand, exponent of the unit, exponent of the leading position.
    let mut terms = [(0_i64, 0_i32, i32::MIN); super::mma::MOST_K + 1];
    let mut special = 0.0_f32;
    let mut count = 0;
    for (a, b) in pairs {
        let product = a * b;
        if !a.is_finite() || !b.is_finite() {
            special += product;
            continue;
        }
        let ((sa, ea), (sb, eb)) = (split(a), split(b));
        if sa != 0 && sb != 0 {
            terms[count] = (sa * sb, ea + eb, ea + eb + 46);
            count += 1;
        }
    }
    if !c.is_finite() || special != 0.0 || special.is_nan() {
        return special + c;
    }
    let (sc, ec) = split(c);
    if sc != 0 {
        terms[count] = (sc, ec, ec + 23);
        count += 1;
    }
    let terms = &terms[..count];
    let Some(top) = terms.iter().map(|t| t.2).max() else {
        return 0.0;
    };
    // The unit of the sum is 2^(top - fraction).
    let unit = top - fraction;
    let sum: i64 = terms
        .iter()
        .map(|&(significand, exponent, _)| {
            let shift = exponent - unit;
            if shift >= 0 {
                significand << shift
            } else {
                // Toward zero.
                let magnitude = significand.abs().checked_shr(shift.unsigned_abs()).unwrap_or(0);
                if significand < 0 { -magnitude } else { magnitude }
            }
        })
        .sum();
    to_f32(sum, unit, to_f16)
}

/// `sum * 2^unit`, cut toward zero to f32, or rounded to nearest f16.
fn to_f32(sum: i64, unit: i32, to_f16: bool) -> f32 {
    // At most 24 + 2 + 5 bits: exact in f64.
    let value = sum as f64 * 2.0_f64.powi(unit);
    if to_f16 {
        return f16_to_f32(f32_to_f16(narrow_odd(value)));
    }
    let near = value as f32;
    if near.is_infinite() {
        return near;
    }
    if f64::from(near).abs() > value.abs() {
        f32::from_bits(near.to_bits() - 1)
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula in the plainest form: scaled integers of 128 bits, for exponents that fit.
    fn plain(pairs: &[(f32, f32)], c: f32, fraction: i32) -> f32 {
        let exponent = |x: f32| (((x.to_bits() >> 23 & 0xff) as i32).max(1)) - 127;
        let mut terms: Vec<(f64, i32)> = pairs
            .iter()
            .filter(|(a, b)| *a != 0.0 && *b != 0.0)
            .map(|&(a, b)| (f64::from(a) * f64::from(b), exponent(a) + exponent(b)))
            .collect();
        if c != 0.0 {
            terms.push((f64::from(c), exponent(c)));
        }
        let Some(top) = terms.iter().map(|t| t.1).max() else {
            return 0.0;
        };
        let scale = 2.0_f64.powi(fraction - top);
        let sum: i128 = terms.iter().map(|t| (t.0 * scale).trunc() as i128).sum();
        let value = sum as f64 / scale;
        let near = value as f32;
        if f64::from(near).abs() > value.abs() {
            f32::from_bits(near.to_bits() - 1)
        } else {
            near
        }
    }

    #[test]
    fn the_integer_form_equals_the_formula() {
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        for case in 0..3000 {
            let spread = 1 + case % 20;
            let mut value = || {
                let bits = (random() & 0xffff_0000) & 0x807f_ffff;
                f32::from_bits(bits | (127 - spread / 2 + random() % spread) << 23)
            };
            let pairs: Vec<(f32, f32)> = (0..16).map(|_| (value(), value())).collect();
            let c = value();
            for fraction in [24, 25] {
                let got = fused(pairs.iter().copied(), c, fraction, false);
                assert_eq!(got, plain(&pairs, c, fraction), "{pairs:?} {c} {fraction}");
            }
        }
    }

    #[test]
    fn small_terms_are_cut_and_infinities_pass() {
        let one = (1.0, 1.0);
        let tiny = (2.0_f32.powi(-13), 2.0_f32.powi(-12));
        assert_eq!(fused([one, tiny].into_iter(), -1.0, 24, false), 0.0);
        assert_eq!(fused([one, tiny].into_iter(), -1.0, 25, false), 2.0_f32.powi(-25));
        assert_eq!(fused([(f32::INFINITY, 1.0)].into_iter(), 1.0, 24, false), f32::INFINITY);
        assert!(fused([(f32::INFINITY, 0.0)].into_iter(), 1.0, 24, false).is_nan());
    }
}
