//! The sum as tensor cores form it, after the published models (MMA-Sim, arXiv 2511.10909; Fasi et
//! al. 2021): all products and the addend are aligned to the largest exponent, cut toward zero to F
//! fraction bits, added exactly, and the result is cut to f32 (rounded to nearest for an f16
//! result). F is 24 on compute capability 8.x, where K is halved and the halves are summed one
//! after the other, and 25 on 9.0.

use super::mma::{MOST_K, Tile};
#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
use super::narrow;
use super::rounding::{f16_to_f32, f32_to_f16, narrow_odd};
use crate::device::Numerics;

/// Products that one sum has at most.
const MOST_TERMS: usize = 32;

pub(super) fn multiply(tile: &mut Tile, k: usize, is_tf32: bool, to_f16: bool, numerics: Numerics) {
    let (fraction, step) = match numerics {
        Numerics::Hopper => (25, k),
        // K of 16 for 16-bit operands and 8 for tf32 run as two halves.
        _ => (24, if is_tf32 { 4 } else { 8 }),
    };
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if !(tile.a.iter().all(|row| finite(row))
        && tile.b.iter().all(|row| finite(row))
        && tile.sum.iter().all(|row| finite(row)))
    {
        return multiply_any(tile, k, step, fraction, to_f16);
    }
    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    if fraction == narrow::FRACTION && !to_f16 {
        let b = &tile.b;
        narrow::multiply(
            &tile.a,
            b,
            &mut tile.sum,
            k,
            step,
            |a, from, sums| match step {
                4 => add_wide::<4>(a, b, from, sums, fraction),
                _ => add_wide::<8>(a, b, from, sums, fraction),
            },
        );
        return;
    }
    let b = Columns::new(&tile.b);
    for (a, sums) in tile.a.iter().zip(&mut tile.sum) {
        // The number of terms as a constant lets the compiler unroll the loops over them.
        let sum = |from: usize, sums: &mut [f32; 8]| match step {
            4 => add_products::<4>(a, &b, from, sums, fraction, to_f16),
            8 => add_products::<8>(a, &b, from, sums, fraction, to_f16),
            _ => add_products::<16>(a, &b, from, sums, fraction, to_f16),
        };
        for from in (0..k).step_by(step) {
            sum(from, sums);
        }
    }
}

/// Infinities and NaN among the operands: element by element.
fn multiply_any(tile: &mut Tile, k: usize, step: usize, fraction: i32, to_f16: bool) {
    let b = tile.b;
    for (a, sums) in tile.a.iter().zip(&mut tile.sum) {
        for (column, sum) in sums.iter_mut().enumerate() {
            for start in (0..k).step_by(step) {
                let end = (start + step).min(k);
                let pairs = a[start..end]
                    .iter()
                    .zip(&b[start..end])
                    .map(|(a, b)| (*a, b[column]));
                *sum = fused(pairs, *sum, fraction, to_f16);
            }
        }
    }
}

/// The exponent of a finite number's leading position, not normalised, and far below any other for
/// zero.
#[inline(always)]
fn exponent(x: f32) -> i32 {
    let field = (x.to_bits() >> 23 & 0xff) as i32;
    if x == 0.0 { -4096 } else { field.max(1) - 127 }
}

/// B (K x 8) as its values in f64 and their exponents.
struct Columns {
    values: [[f64; 8]; MOST_K],
    exponents: [[i32; 8]; MOST_K],
}

impl Columns {
    fn new(b: &[[f32; 8]; MOST_K]) -> Self {
        let mut columns = Columns {
            values: [[0.0; 8]; MOST_K],
            exponents: [[0; 8]; MOST_K],
        };
        for k in 0..MOST_K {
            for j in 0..8 {
                columns.values[k][j] = f64::from(b[k][j]);
                columns.exponents[k][j] = exponent(b[k][j]);
            }
        }
        columns
    }
}

/// `TERMS` products from index `from` on, for eight columns at once, in f64: products of two f32
/// are exact there, scaled to the unit of the sum their cut is `trunc`, and at most 17 terms below
/// 2^28 add up exactly. Plain loops over arrays: those the compiler vectorises.
#[inline(always)]
fn add_products<const TERMS: usize>(
    a: &[f32; MOST_K],
    b: &Columns,
    from: usize,
    sums: &mut [f32; 8],
    fraction: i32,
    to_f16: bool,
) {
    // `from` is 0, 4 or 8, and 0 where TERMS is 16.
    let from = from % (MOST_K - TERMS + 1);
    let mut top = [0; 8];
    for j in 0..8 {
        top[j] = exponent(sums[j]);
    }
    for k in 0..TERMS {
        let a_exponent = exponent(a[from + k]);
        for j in 0..8 {
            top[j] = top[j].max(a_exponent + b.exponents[from + k][j]);
        }
    }
    let (mut scale, mut unit) = ([0.0; 8], [0.0; 8]);
    let mut total = [0.0; 8];
    for j in 0..8 {
        // If all terms are zero, any unit will do: this one is one that f64 has.
        let exponent = top[j].max(-700) - fraction;
        scale[j] = power_of_two(-exponent);
        unit[j] = power_of_two(exponent);
        total[j] = (f64::from(sums[j]) * scale[j]).trunc();
    }
    for k in 0..TERMS {
        let a = f64::from(a[from + k]);
        for j in 0..8 {
            total[j] += (a * b.values[from + k][j] * scale[j]).trunc();
        }
    }
    for j in 0..8 {
        sums[j] = cut_to_f32(total[j] * unit[j]);
    }
    if to_f16 {
        for j in 0..8 {
            sums[j] = round_to_f16(total[j] * unit[j]);
        }
    }
}

/// [`add_products`] of one row, where [`narrow`] gives way.
#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
#[cold]
pub(super) fn add_wide<const TERMS: usize>(
    a: &[f32; MOST_K],
    b: &[[f32; 8]; MOST_K],
    from: usize,
    sums: &mut [f32; 8],
    fraction: i32,
) {
    add_products::<TERMS>(a, &Columns::new(b), from, sums, fraction, false);
}

/// 2^exponent for a normal f64.
pub(super) fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// A finite number as significand and exponent of its last bit: `s * 2^e`, 24-bit significand, not
/// normalised.
pub(super) fn split(x: f32) -> (i64, i32) {
    let bits = x.to_bits();
    let field = (bits >> 23 & 0xff) as i32;
    let significand = i64::from(bits & 0x7f_ffff) | if field == 0 { 0 } else { 1 << 23 };
    let signed = if bits >> 31 == 1 {
        -significand
    } else {
        significand
    };
    (signed, field.max(1) - 127 - 23)
}

/// The sum of at most [`MOST_TERMS`] products and `c`.
pub(super) fn fused(
    pairs: impl Iterator<Item = (f32, f32)>,
    c: f32,
    fraction: i32,
    to_f16: bool,
) -> f32 {
    // The products and the addend: significand, exponent of the unit, exponent of the leading
    // position.
    let mut terms = [(0_i64, 0_i32, i32::MIN); MOST_TERMS + 1];
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
                let magnitude = significand
                    .abs()
                    .checked_shr(shift.unsigned_abs())
                    .unwrap_or(0);
                if significand < 0 {
                    -magnitude
                } else {
                    magnitude
                }
            }
        })
        .sum();
    // At most 25 + 2 + 6 bits: exact in f64.
    let value = sum as f64 * power_of_two(unit);
    if to_f16 {
        round_to_f16(value)
    } else {
        cut_to_f32(value)
    }
}

pub(super) fn round_to_f16(value: f64) -> f32 {
    f16_to_f32(f32_to_f16(narrow_odd(value)))
}

/// Toward zero; infinite where it overflows.
#[inline(always)]
pub(super) fn cut_to_f32(value: f64) -> f32 {
    let near = value as f32;
    let beyond = f64::from(near).abs() > value.abs() && near.is_finite();
    f32::from_bits(near.to_bits() - u32::from(beyond))
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
                let mut a = [0.0; MOST_K];
                let mut b = [[0.0; 8]; MOST_K];
                for (k, pair) in pairs.iter().enumerate() {
                    a[k] = pair.0;
                    b[k] = [pair.1; 8];
                }
                let mut sums = [c; 8];
                add_products::<16>(&a, &Columns::new(&b), 0, &mut sums, fraction, false);
                assert_eq!(sums, [got; 8], "{pairs:?} {c} {fraction}");
            }
        }
    }

    #[test]
    fn zeros_and_subnormals_in_columns_give_what_they_give_alone() {
        let tiny = f32::from_bits(1);
        let values = [
            0.0,
            -0.0,
            tiny,
            -tiny,
            f32::MIN_POSITIVE,
            1.0,
            -3.5,
            2.0_f32.powi(100),
        ];
        for c in values {
            for a in values {
                let mut sums = [c; 8];
                // The second half of K alone.
                let (mut row, mut columns) = ([0.0; MOST_K], [[7.0; 8]; MOST_K]);
                row[8] = a;
                columns[8] = values;
                add_products::<8>(&row, &Columns::new(&columns), 8, &mut sums, 24, false);
                let alone = values.map(|b| fused([(a, b)].into_iter(), c, 24, false));
                assert_eq!(sums, alone, "{a} {c}");
            }
        }
    }

    #[test]
    fn small_terms_are_cut_and_infinities_pass() {
        let one = (1.0, 1.0);
        let tiny = (2.0_f32.powi(-13), 2.0_f32.powi(-12));
        assert_eq!(fused([one, tiny].into_iter(), -1.0, 24, false), 0.0);
        assert_eq!(
            fused([one, tiny].into_iter(), -1.0, 25, false),
            2.0_f32.powi(-25)
        );
        assert_eq!(
            fused([(f32::INFINITY, 1.0)].into_iter(), 1.0, 24, false),
            f32::INFINITY
        );
        assert!(fused([(f32::INFINITY, 0.0)].into_iter(), 1.0, 24, false).is_nan());
    }
}
