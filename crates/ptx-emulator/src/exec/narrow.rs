//! The sums of [`super::tensor_core`] for exponents that are neither very large nor very small, in
//! 32 bits: bit for bit the same, and twice as fast. F is 24.
//!
//! Operands have at most 12 significant bits, so a product of two is exact in f32, or subnormal and
//! then less than a unit of the sum. Scaling it to that unit changes no bit, and the conversion to
//! an integer cuts it toward zero. Eight products below 2^26 and the addend below 2^25 stay below
//! 2^30.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_abs_epi32, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256,
    _mm256_blendv_epi8, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmpeq_epi32,
    _mm256_cmpgt_epi32, _mm256_cvtepi32_ps, _mm256_cvttps_epi32, _mm256_loadu_ps, _mm256_max_epi32,
    _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256,
    _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_sub_epi32, _mm256_testz_si256,
};

use super::mma::MOST_K;

/// F of the models that this serves.
pub(super) const FRACTION: i32 = 24;
/// Exponents of the largest term between which this is exact.
const LOW_TOP: i32 = -80;
const HIGH_TOP: i32 = 120;
/// The exponent of zero; the largest term is below [`NO_TERM`] where all are zero, and only there.
const OF_ZERO: i32 = -4096;
const NO_TERM: i32 = -1000;

/// A row of A: its values and their exponents.
struct Row<'a> {
    values: &'a [f32; MOST_K],
    exponents: [i32; MOST_K],
}

/// B (K x 8): the same.
struct Columns<'a> {
    values: &'a [[f32; 8]; MOST_K],
    exponents: [__m256i; MOST_K],
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[f32]) -> __m256 {
    assert!(values.len() >= 8);
    // SAFETY: there are eight values, and the load needs no alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// Exponents of the leading positions of eight finite numbers, not normalised.
#[inline]
#[target_feature(enable = "avx2")]
fn exponents(values: __m256) -> __m256i {
    let bits = _mm256_castps_si256(values);
    let field = _mm256_and_si256(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(0xff));
    let normal = _mm256_sub_epi32(
        _mm256_max_epi32(field, _mm256_set1_epi32(1)),
        _mm256_set1_epi32(127),
    );
    let is_zero = _mm256_cmpeq_epi32(_mm256_slli_epi32::<1>(bits), _mm256_setzero_si256());
    _mm256_blendv_epi8(normal, _mm256_set1_epi32(OF_ZERO), is_zero)
}

impl<'a> Row<'a> {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(values: &'a [f32; MOST_K]) -> Self {
        let mut found = [0; MOST_K];
        for half in 0..MOST_K / 8 {
            let eight = exponents(load(&values[8 * half..]));
            // SAFETY: eight 32-bit integers have the same form in both types.
            let eight: [i32; 8] = unsafe { std::mem::transmute(eight) };
            found[8 * half..8 * half + 8].copy_from_slice(&eight);
        }
        Row {
            values,
            exponents: found,
        }
    }
}

impl<'a> Columns<'a> {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(values: &'a [[f32; 8]; MOST_K]) -> Self {
        let mut found = [_mm256_setzero_si256(); MOST_K];
        for (found, values) in found.iter_mut().zip(values) {
            *found = exponents(load(values));
        }
        Columns {
            values,
            exponents: found,
        }
    }
}

/// Adds A times B (K x 8) to the sums, `step` products at a time: eight, or four. Where exponents
/// are out of reach, `wide` adds those of a row of A from an index on.
pub(super) fn multiply(
    a: &[[f32; MOST_K]; 16],
    b: &[[f32; 8]; MOST_K],
    sums: &mut [[f32; 8]; 16],
    k: usize,
    step: usize,
    wide: impl Fn(&[f32; MOST_K], usize, &mut [f32; 8]),
) {
    // SAFETY: this module is there only where the whole program is compiled for AVX2.
    unsafe { multiply_rows(a, b, sums, k, step, wide) }
}

#[target_feature(enable = "avx2")]
fn multiply_rows(
    a: &[[f32; MOST_K]; 16],
    b: &[[f32; 8]; MOST_K],
    sums: &mut [[f32; 8]; 16],
    k: usize,
    step: usize,
    wide: impl Fn(&[f32; MOST_K], usize, &mut [f32; 8]),
) {
    let columns = Columns::new(b);
    for (values, sums) in a.iter().zip(sums) {
        let row = Row::new(values);
        for from in (0..k).step_by(step) {
            let fits = if step == 4 {
                add::<4>(&row, &columns, from, sums)
            } else {
                add::<8>(&row, &columns, from, sums)
            };
            if !fits {
                wide(values, from, sums);
            }
        }
    }
}

/// Adds `TERMS` (at most eight) products from index `from` on to each of eight sums, all finite.
/// False, and nothing done, where an exponent is out of reach.
#[inline]
#[target_feature(enable = "avx2")]
fn add<const TERMS: usize>(a: &Row<'_>, b: &Columns<'_>, from: usize, sums: &mut [f32; 8]) -> bool {
    const { assert!(TERMS <= 8) };
    let from = from % (MOST_K - TERMS + 1);
    let addends = load(sums);
    let mut top = exponents(addends);
    for k in from..from + TERMS {
        top = _mm256_max_epi32(
            top,
            _mm256_add_epi32(_mm256_set1_epi32(a.exponents[k]), b.exponents[k]),
        );
    }
    let low = _mm256_cmpgt_epi32(_mm256_set1_epi32(LOW_TOP), top);
    let high = _mm256_cmpgt_epi32(top, _mm256_set1_epi32(HIGH_TOP));
    // If all terms are zero, any unit will do. The addend must be +0, because -0 and -0 make -0.
    let none = _mm256_and_si256(
        _mm256_cmpgt_epi32(_mm256_set1_epi32(NO_TERM), top),
        _mm256_cmpeq_epi32(_mm256_castps_si256(addends), _mm256_setzero_si256()),
    );
    let bad = _mm256_or_si256(_mm256_andnot_si256(none, low), high);
    if _mm256_testz_si256(bad, bad) == 0 {
        return false;
    }
    let top = _mm256_max_epi32(top, _mm256_set1_epi32(LOW_TOP));
    let power = |exponent: __m256i| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
    let scale = power(_mm256_sub_epi32(_mm256_set1_epi32(127 + FRACTION), top));
    let unit = power(_mm256_add_epi32(_mm256_set1_epi32(127 - FRACTION), top));
    let mut total = _mm256_cvttps_epi32(_mm256_mul_ps(addends, scale));
    for k in from..from + TERMS {
        let product = _mm256_mul_ps(_mm256_set1_ps(a.values[k]), load(&b.values[k]));
        total = _mm256_add_epi32(total, _mm256_cvttps_epi32(_mm256_mul_ps(product, scale)));
    }
    // To 24 bits toward zero: the next smaller number where the conversion went up.
    let near = _mm256_cvtepi32_ps(total);
    let beyond = _mm256_cmpgt_epi32(
        _mm256_abs_epi32(_mm256_cvttps_epi32(near)),
        _mm256_abs_epi32(total),
    );
    let cut = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(near), beyond));
    // SAFETY: `sums` has room for eight, and the store needs no alignment.
    unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_mul_ps(cut, unit)) };
    true
}

#[cfg(test)]
mod tests {
    use super::super::tensor_core::add_wide;
    use super::*;

    /// Bit for bit, signs of zeros included, from exponents that are ordinary to those that are out
    /// of reach.
    #[test]
    fn the_narrow_form_is_the_wide_one() {
        let mut state = 7_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let (mut taken, mut steps) = (0, 0);
        for case in 0..1500_u32 {
            let spread = 1 + case % 60;
            let middle = 127 + (case / 60 % 5) * 30 - 60;
            // Some cases are full of zeros.
            let zeros = if case % 7 == 0 { 2 } else { 30 };
            let mut value = |significant: u32| {
                let bits = random() & 0x807f_ffff & !(0x007f_ffff >> significant);
                let field = (middle + random() % spread)
                    .saturating_sub(spread / 2)
                    .min(254);
                match random() % zeros {
                    0 => 0.0,
                    1 => -0.0,
                    2 if case % 5 == 0 => f32::from_bits(bits),
                    _ => f32::from_bits(bits | field << 23),
                }
            };
            for step in [4, 8] {
                let given = [0; 16].map(|_| [0; 8].map(|_| value(23)));
                let (mut got, mut expected) = (given, given);
                let a = [0; 16].map(|_| [0; MOST_K].map(|_| value(11)));
                let b = [0; MOST_K].map(|_| [0; 8].map(|_| value(11)));
                let given_up = std::cell::Cell::new(0);
                let wide = |a: &[f32; MOST_K], from: usize, sums: &mut [f32; 8]| match step {
                    4 => add_wide::<4>(a, &b, from, sums, FRACTION),
                    _ => add_wide::<8>(a, &b, from, sums, FRACTION),
                };
                let counted = |a: &[f32; MOST_K], from: usize, sums: &mut [f32; 8]| {
                    given_up.set(given_up.get() + 1);
                    wide(a, from, sums);
                };
                multiply(&a, &b, &mut got, MOST_K, step, counted);
                for (a, sums) in a.iter().zip(&mut expected) {
                    (0..MOST_K)
                        .step_by(step)
                        .for_each(|from| wide(a, from, sums));
                }
                assert_eq!(
                    got.map(|row| row.map(f32::to_bits)),
                    expected.map(|row| row.map(f32::to_bits)),
                    "{a:?} {b:?} {given:?}"
                );
                let all = 16 * MOST_K / step;
                steps += all;
                taken += all - given_up.get();
            }
        }
        assert!(
            (steps / 5..steps / 5 * 4).contains(&taken),
            "{taken} of {steps} were narrow"
        );
    }
}
