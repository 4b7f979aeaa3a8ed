//! The sum of a `wgmma` as Hopper's tensor cores form it, after the published models (MMA-Sim,
//! arXiv 2511.10909): all K products and the addend are aligned to the largest exponent, cut toward
//! zero to F fraction bits and added exactly; the result is cut to f32, or rounded to nearest for
//! an f16 result. F is 25. For operands of 8 bits it is 13, and an f32 result has 13 bits, too.

use super::operands::{MOST_K, MOST_N, WARP_ROWS};
use super::product::Rows;
use crate::decode::op::{Element, Product, Sum};
use crate::exec::tensor_core::{cut_to_f32, power_of_two, round_to_f16, split};

/// Exponents of the largest term between which 32 bits are exact.
const LOW_TOP: i32 = -80;
const HIGH_TOP: i32 = 120;
/// The exponent of zero; the largest term is below [`NO_TERM`] where all are zero, and only there.
const OF_ZERO: i32 = -4096;
const NO_TERM: i32 = -1000;

/// How an instruction sums.
#[derive(Clone, Copy)]
struct Model {
    fraction: i32,
    /// The least exponents of the elements of A and B, which are those of subnormals.
    least: [i32; 2],
    /// Bits of an f32 result that are cut off.
    cut: u32,
    to_f16: bool,
}

impl Model {
    fn new(product: Product) -> Self {
        let least = |element| match element {
            Element::F16 | Element::E5m2 => -14,
            Element::E4m3 => -6,
            _ => -126,
        };
        let is_narrow = product.a.bytes() == 1;
        Model {
            fraction: if is_narrow { 13 } else { 25 },
            least: [least(product.a), least(product.b)],
            cut: if is_narrow { 0x3ff } else { 0 },
            to_f16: product.sum == Sum::F16,
        }
    }

    fn finish(self, value: f64) -> f32 {
        if self.to_f16 {
            return round_to_f16(value);
        }
        let near = cut_to_f32(value);
        if near.is_finite() {
            f32::from_bits(near.to_bits() & !self.cut)
        } else {
            near
        }
    }
}

/// Exponents of B.
pub(super) struct Scratch {
    exponents: [[i32; MOST_N]; MOST_K],
}

impl Scratch {
    pub fn new() -> Self {
        Scratch {
            exponents: [[0; MOST_N]; MOST_K],
        }
    }
}

/// The exponent of a finite number's leading position, not normalised.
#[inline(always)]
fn exponent(x: f32, least: i32) -> i32 {
    let field = (x.to_bits() >> 23 & 0xff) as i32;
    if x == 0.0 {
        OF_ZERO
    } else {
        (field - 127).max(least)
    }
}

/// Adds A (16 x K) times B (K x N) to the sums, which are bits of f32.
pub(super) fn add(
    product: Product,
    a: &Rows,
    b: &[[f32; MOST_N]; MOST_K],
    sums: &mut [[u32; MOST_N]; WARP_ROWS],
    scratch: &mut Scratch,
) {
    let model = Model::new(product);
    match product.k() {
        8 => add_rows::<8>(model, a, b, sums, product.n(), scratch),
        16 => add_rows::<16>(model, a, b, sums, product.n(), scratch),
        _ => add_rows::<32>(model, a, b, sums, product.n(), scratch),
    }
}

fn add_rows<const K: usize>(
    model: Model,
    a: &Rows,
    b: &[[f32; MOST_N]; MOST_K],
    sums: &mut [[u32; MOST_N]; WARP_ROWS],
    n: usize,
    scratch: &mut Scratch,
) {
    let mut finite = a.iter().flat_map(|row| &row[..K]).all(|x| x.is_finite());
    for (exponents, values) in scratch.exponents.iter_mut().zip(b).take(K) {
        let mut top = 0.0_f32;
        for (out, value) in exponents.iter_mut().zip(values).take(n) {
            *out = exponent(*value, model.least[1]);
            // Infinities and NaN stay, whatever follows.
            top += value * 0.0;
        }
        finite &= top == 0.0;
    }
    for (a, sums) in a.iter().zip(sums) {
        let mut exponents = [0; K];
        for k in 0..K {
            exponents[k] = exponent(a[k], model.least[0]);
        }
        for first in (0..n).step_by(8) {
            let Some(sums) = sums[first..].first_chunk_mut::<8>() else {
                continue;
            };
            let done = finite && add_eight::<K>(model, a, &exponents, b, scratch, first, sums);
            if done {
                continue;
            }
            for (j, sum) in sums.iter_mut().enumerate() {
                let pairs = (0..K).map(|k| (a[k], b[k][first + j]));
                *sum = exact(pairs, f32::from_bits(*sum), model).to_bits();
            }
        }
    }
}

/// Eight sums of a row. A product is exact in f32, or subnormal and then less than a unit of the
/// sum; scaled to that unit, the conversion to an integer cuts it toward zero. Products are below
/// 2^27: those of half of K and the addend stay below 2^31. False, and nothing done, where an
/// exponent is out of reach.
#[inline(always)]
fn add_eight<const K: usize>(
    model: Model,
    a: &[f32; MOST_K],
    exponents: &[i32; K],
    b: &[[f32; MOST_N]; MOST_K],
    scratch: &Scratch,
    first: usize,
    sums: &mut [u32; 8],
) -> bool {
    let first = first.min(MOST_N - 8);
    let mut top = [0; 8];
    for j in 0..8 {
        top[j] = exponent(f32::from_bits(sums[j]), -126);
    }
    for k in 0..K {
        let of_b = &scratch.exponents[k][first..first + 8];
        for j in 0..8 {
            top[j] = top[j].max(exponents[k] + of_b[j]);
        }
    }
    let mut bad = false;
    let (mut scale, mut unit) = ([0.0_f32; 8], [0.0_f32; 8]);
    for j in 0..8 {
        bad |= (top[j] < LOW_TOP) & (top[j] > NO_TERM) | (top[j] > HIGH_TOP);
        // If all terms are zero, any unit will do.
        let top = top[j].clamp(LOW_TOP, HIGH_TOP);
        scale[j] = f32::from_bits(((127 + model.fraction - top) as u32) << 23);
        unit[j] = f32::from_bits(((127 - model.fraction + top) as u32) << 23);
    }
    if bad {
        return false;
    }
    let cut = |x: f32| {
        // SAFETY: the terms are finite, and below 2^27 in units of the sum.
        unsafe { x.to_int_unchecked::<i32>() }
    };
    let (mut low, mut high) = ([0_i32; 8], [0_i32; 8]);
    for j in 0..8 {
        low[j] = cut(f32::from_bits(sums[j]) * scale[j]);
    }
    for k in 0..K / 2 {
        let (b, c) = (&b[k][first..first + 8], &b[k + K / 2][first..first + 8]);
        for j in 0..8 {
            low[j] = low[j].wrapping_add(cut(a[k] * b[j] * scale[j]));
            high[j] = high[j].wrapping_add(cut(a[k + K / 2] * c[j] * scale[j]));
        }
    }
    let mut total = [0.0_f64; 8];
    for j in 0..8 {
        total[j] = f64::from(low[j]) + f64::from(high[j]);
    }
    if model.to_f16 {
        for j in 0..8 {
            sums[j] = round_to_f16(total[j] * f64::from(unit[j])).to_bits();
        }
        return true;
    }
    for j in 0..8 {
        let near = total[j] as f32;
        // To f32 toward zero: the next smaller number where the conversion went up.
        let beyond = f64::from(near).abs() > total[j].abs();
        let bits = (near.to_bits() - u32::from(beyond)) & !model.cut;
        sums[j] = (f32::from_bits(bits) * unit[j]).to_bits();
    }
    true
}

/// One sum, for all operands.
fn exact(pairs: impl Iterator<Item = (f32, f32)>, c: f32, model: Model) -> f32 {
    // Significand, exponent of its last bit, exponent of the leading position.
    let mut terms = [(0_i64, 0_i32, OF_ZERO); MOST_K + 1];
    let mut special = 0.0_f32;
    let mut count = 0;
    for (a, b) in pairs {
        if !a.is_finite() || !b.is_finite() {
            special += a * b;
        } else if a != 0.0 && b != 0.0 {
            let ((sa, ea), (sb, eb)) = (split(a), split(b));
            let top = exponent(a, model.least[0]) + exponent(b, model.least[1]);
            terms[count] = (sa * sb, ea + eb, top);
            count += 1;
        }
    }
    if !c.is_finite() || special != 0.0 || special.is_nan() {
        return special + c;
    }
    if c != 0.0 {
        let (sc, ec) = split(c);
        terms[count] = (sc, ec, exponent(c, -126));
        count += 1;
    }
    let terms = &terms[..count];
    let Some(top) = terms.iter().map(|term| term.2).max() else {
        return 0.0;
    };
    let unit = top - model.fraction;
    let cut = |significand: i64, exponent: i32| {
        let shift = exponent - unit;
        if shift >= 0 {
            return significand << shift;
        }
        let magnitude = significand.abs().checked_shr(shift.unsigned_abs());
        significand.signum() * magnitude.unwrap_or(0)
    };
    let sum: i64 = terms.iter().map(|term| cut(term.0, term.1)).sum();
    model.finish(sum as f64 * power_of_two(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::op::Product;

    /// The formula in f64, for exponents that fit.
    fn plain(pairs: &[(f32, f32)], c: f32, model: Model) -> f32 {
        let lead = |x: f32, least: i32| exponent(x, least);
        let mut terms: Vec<(f64, i32)> = pairs
            .iter()
            .filter(|(a, b)| *a != 0.0 && *b != 0.0)
            .map(|&(a, b)| {
                let top = lead(a, model.least[0]) + lead(b, model.least[1]);
                (f64::from(a) * f64::from(b), top)
            })
            .collect();
        if c != 0.0 {
            terms.push((f64::from(c), lead(c, -126)));
        }
        let Some(top) = terms.iter().map(|t| t.1).max() else {
            return 0.0;
        };
        let scale = 2.0_f64.powi(model.fraction - top);
        let sum: f64 = terms.iter().map(|t| (t.0 * scale).trunc()).sum();
        model.finish(sum / scale)
    }

    #[test]
    fn all_three_forms_are_the_formula() {
        let mut state = 5_u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let cases = [
            (Element::Bf16, Sum::F32),
            (Element::F16, Sum::F32),
            (Element::F16, Sum::F16),
            (Element::Tf32, Sum::F32),
            (Element::E4m3, Sum::F32),
            (Element::E5m2, Sum::F16),
        ];
        let mut scratch = Scratch::new();
        for (element, sum) in cases {
            let product = Product::new(1, [element; 2], sum);
            let model = Model::new(product);
            // Significant bits below the leading one, and exponents.
            let (bits, low, high) = match element {
                Element::Bf16 => (7, -60, 60),
                Element::Tf32 => (10, -40, 40),
                Element::F16 => (10, -14, 15),
                Element::E4m3 => (3, -6, 8),
                _ => (2, -14, 15),
            };
            for case in 0..200 {
                let spread = 1 + case % 25;
                let mut value = |bits: u32| {
                    let field = (127 + low + (random() % (high - low + 1) as u32) as i32) as u32;
                    let field = if case % 2 == 0 {
                        field
                    } else {
                        120 + random() % spread
                    };
                    let mantissa = random() & 0x7f_ffff & !(0x7f_ffff >> bits);
                    match random() % 11 {
                        0 => 0.0,
                        1 => -0.0,
                        _ => f32::from_bits(random() << 31 | field << 23 | mantissa),
                    }
                };
                let (mut a, mut b) = ([[0.0; MOST_K]; 16], [[0.0; MOST_N]; MOST_K]);
                a.iter_mut().flatten().for_each(|x| *x = value(bits));
                b.iter_mut()
                    .flat_map(|row| &mut row[..8])
                    .for_each(|x| *x = value(bits));
                let mut sums = [[0_u32; MOST_N]; WARP_ROWS];
                let addend_bits = if sum == Sum::F16 { 10 } else { 23 };
                sums.iter_mut()
                    .flat_map(|row| &mut row[..8])
                    .for_each(|x| *x = value(addend_bits).to_bits());
                let given = sums;
                add(product, &a, &b, &mut sums, &mut scratch);
                for (row, column) in (0..16).flat_map(|r| (0..8).map(move |c| (r, c))) {
                    let pairs: Vec<_> = (0..product.k())
                        .map(|k| (a[row][k], b[k][column]))
                        .collect();
                    let c = f32::from_bits(given[row][column]);
                    let got = f32::from_bits(sums[row][column]);
                    let expected = plain(&pairs, c, model);
                    assert_eq!(got, expected, "{element:?} {sum:?} {pairs:?} {c}");
                    assert_eq!(exact(pairs.iter().copied(), c, model), expected);
                }
            }
        }
    }

    #[test]
    fn small_terms_are_cut_at_the_unit_of_the_format() {
        let sum = |element, to, pairs: &[(f32, f32)], c| {
            let model = Model::new(Product::new(1, [element; 2], to));
            exact(pairs.iter().copied(), c, model)
        };
        let tiny = |e: i32| (2.0_f32.powi(e), 1.0);
        let one = (1.0, 1.0);
        assert_eq!(
            sum(Element::Bf16, Sum::F32, &[one, tiny(-25)], -1.0),
            2.0_f32.powi(-25)
        );
        assert_eq!(sum(Element::Bf16, Sum::F32, &[one, tiny(-26)], -1.0), 0.0);
        assert_eq!(
            sum(Element::E5m2, Sum::F32, &[one, tiny(-13)], -1.0),
            2.0_f32.powi(-13)
        );
        assert_eq!(sum(Element::E5m2, Sum::F32, &[one, tiny(-14)], -1.0), 0.0);
        // 13 bits of the result.
        let many: Vec<_> = (0..2).map(|_| one).chain([tiny(-13)]).collect();
        assert_eq!(sum(Element::E5m2, Sum::F32, &many, 0.0), 2.0);
        assert!(sum(Element::Bf16, Sum::F32, &[(f32::INFINITY, 0.0)], 1.0).is_nan());
        assert_eq!(
            sum(Element::F16, Sum::F16, &[(65504.0, 1.0), (16.0, 1.0)], 0.0),
            f32::INFINITY
        );
    }
}
