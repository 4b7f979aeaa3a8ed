//! The product has the reference's bits.

use half::{bf16, f16};
use lora_kernels::reference::{self, Adapter, View};
use lora_kernels::{Element, WeightLayout};

use super::{Across, Down, LANES, Lanes, ROWS, STRIP, Strides, Term, add};
use crate::merge::numbers::Float;
use crate::replay::Number;

/// Numbers of about 1, and now and then a zero of either sign, a very small or a very large number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let value = (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        match self.0 % 29 {
            0 => 0.0,
            1 => -0.0,
            2 => value * 1e-7,
            3 => value * 1e4,
            _ => value,
        }
    }

    fn numbers<T: Element>(&mut self, count: usize) -> Vec<T> {
        (0..count).map(|_| T::from_f64(self.next())).collect()
    }
}

/// An adapter's lora_A (rank, in_features), lora_B (out_features, rank) and scaling.
struct Factors {
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    scaling: f32,
}

fn widened<T: Number>(values: &[T]) -> Vec<f32> {
    values.iter().map(|&value| value.into() as f32).collect()
}

/// Compares the sums with the reference's, bit for bit; of NaNs, that they are some.
fn compare<T: Number + Lanes>(
    weight: &[T],
    (rows, columns): (usize, usize),
    layout: WeightLayout,
    adapters: &[Factors],
) {
    let (out_features, in_features) = match layout {
        WeightLayout::OutIn => (rows, columns),
        WeightLayout::InOut => (columns, rows),
    };
    let views: Vec<_> = adapters
        .iter()
        .map(|factors| Adapter {
            a: View::new(&factors.a, factors.rank, in_features).unwrap(),
            b: View::new(&factors.b, out_features, factors.rank).unwrap(),
            scaling: factors.scaling,
        })
        .collect();
    let view = View::new(weight, rows, columns).unwrap();
    let expected = reference::merge(view, layout, &views).unwrap();

    let packed: Vec<_> = adapters
        .iter()
        .map(|factors| {
            let rank = factors.rank;
            let of_a = Strides::of_ranks(rank, in_features);
            let of_b = Strides::of_features(rank);
            match layout {
                WeightLayout::OutIn => (
                    Across::new(&factors.a, of_a, columns),
                    Down::new(&factors.b, of_b, rows),
                ),
                WeightLayout::InOut => (
                    Across::new(&factors.b, of_b, columns),
                    Down::new(&factors.a, of_a, rows),
                ),
            }
        })
        .collect();
    let terms: Vec<_> = packed
        .iter()
        .zip(adapters)
        .map(|((across, down), factors)| Term {
            scaling: factors.scaling,
            down,
            across,
        })
        .collect();
    let mut merged = weight.to_vec();
    let report = add(&mut merged, columns, &terms);

    let case = format!("{} {rows} x {columns} {layout:?}", T::DTYPE);
    for (at, (&new, &old)) in merged.iter().zip(&expected.weight).enumerate() {
        let (new, old): (f64, f64) = (new.into(), old.into());
        let is_same = new.to_bits() == old.to_bits() || (new.is_nan() && old.is_nan());
        assert!(is_same, "{case}: element {at} is {new:e}, not {old:e}");
    }
    let counts = |report: &lora_kernels::MergeReport| {
        (
            report.elements,
            report.nonzero,
            report.unchanged,
            report.non_finite,
        )
    };
    assert_eq!(counts(&report), counts(&expected.report), "{case}");
    for (sum, other) in [
        (report.delta_squares, expected.report.delta_squares),
        (report.error_squares, expected.report.error_squares),
    ] {
        // Both add the same numbers, which aren't negative, in different orders.
        let bound = (rows * columns) as f64 * f64::EPSILON * other;
        assert!(
            (sum - other).abs() <= bound,
            "{case}: {sum:e}, not {other:e}"
        );
    }
}

fn compare_type<T: Number + Lanes>(special: &[f64]) {
    let mut random = Random(0x1ab5_0f05_7eed);
    let sizes = [
        (1, 1),
        (ROWS + 1, LANES + 1),
        (ROWS - 1, LANES - 1),
        (2 * ROWS, 2 * LANES),
        (13, STRIP + 5),
        (3, 2 * STRIP),
    ];
    for (rows, columns) in sizes {
        for ranks in [&[1][..], &[3], &[16, 5], &[65, 1, 8]] {
            for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
                let mut weight: Vec<T> = random.numbers(rows * columns);
                // The type of the adapters: the weight's for one, f32 for several.
                let mut factors = |count| match ranks.len() {
                    1 => widened(&random.numbers::<T>(count)),
                    _ => random.numbers(count),
                };
                let (out_features, in_features) = match layout {
                    WeightLayout::OutIn => (rows, columns),
                    WeightLayout::InOut => (columns, rows),
                };
                let mut adapters: Vec<_> = ranks
                    .iter()
                    .map(|&rank| Factors {
                        rank,
                        a: factors(rank * in_features),
                        b: factors(out_features * rank),
                        scaling: 0.37 * rank as f32,
                    })
                    .collect();
                compare(&weight, (rows, columns), layout, &adapters);
                // Special values in a weight, in a row of lora_B and in a column of lora_A.
                for (at, &value) in special.iter().enumerate() {
                    let place = at * 7 % weight.len();
                    weight[place] = T::from_f64(value);
                }
                compare(&weight, (rows, columns), layout, &adapters);
                for &value in special {
                    let last = adapters.len() - 1;
                    let of_b = &mut adapters[last].b;
                    let end = of_b.len() - 1;
                    of_b[end] = value as f32;
                    adapters[0].a[0] = -value as f32;
                    compare(&weight, (rows, columns), layout, &adapters);
                }
            }
        }
    }
}

const SPECIAL: [f64; 7] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    3.4e38,
    -65519.0,
    1e-42,
    -0.0,
];

#[test]
fn merges_have_the_bits_of_the_reference() {
    compare_type::<f32>(&SPECIAL);
    compare_type::<bf16>(&SPECIAL);
    compare_type::<f16>(&SPECIAL);
}

/// The code for other processors gives the same, the sums of the report included.
#[test]
fn processors_without_vectors_give_the_same() {
    let mut random = Random(5);
    let (rows, columns, rank) = (ROWS + 2, STRIP + LANES + 3, 9);
    let (a, b) = (random.numbers(rank * columns), random.numbers(rows * rank));
    let across = Across::new(&a, Strides::of_ranks(rank, columns), columns);
    let down = Down::new(&b, Strides::of_features(rank), rows);
    let term = || Term {
        scaling: 0.7,
        down: &down,
        across: &across,
    };
    let weight: Vec<bf16> = random.numbers(rows * columns);
    let (mut one, mut other) = (weight.clone(), weight);
    let report = add(&mut one, columns, &[term(), term()]);
    assert_eq!(
        report,
        super::add_in_order(&mut other, columns, &[term(), term()])
    );
    assert_eq!(one, other);
}

#[test]
fn every_16_bit_number_is_widened_as_half_does() {
    for bits in (0..=u16::MAX).step_by(LANES) {
        let bits: [u16; LANES] = std::array::from_fn(|lane| bits + lane as u16);
        let wide = f16::widened(bits.map(f16::from_bits)).map(f32::to_bits);
        assert_eq!(
            wide,
            bits.map(|bits| f16::from_bits(bits).to_f32().to_bits())
        );
        let wide = bf16::widened(bits.map(bf16::from_bits)).map(f32::to_bits);
        assert_eq!(wide, bits.map(|bits| u32::from(bits) << 16));
    }
}

/// The numbers at which the rounding changes: each number of 16 bits, the midpoints between them,
/// and their neighbours in f32.
#[test]
fn numbers_are_narrowed_as_half_does() {
    fn check<T: Lanes>(around: impl Iterator<Item = u32>, expected: impl Fn(f32) -> T) {
        for bits in around {
            let near: [f32; LANES] = std::array::from_fn(|lane| {
                f32::from_bits(bits.wrapping_add(lane as u32).wrapping_sub(8))
            });
            let narrow = T::narrowed(near);
            let bytes = |value: T| bytemuck::bytes_of(&value).to_vec();
            for (value, narrow) in near.into_iter().zip(narrow) {
                let expected = expected(value);
                assert_eq!(
                    bytes(narrow),
                    bytes(expected),
                    "{value:e}, {:x}",
                    value.to_bits()
                );
            }
        }
    }
    // Multiples of half the distance of f16's normal numbers, the subnormal ones' included.
    check((0..=u32::MAX >> 12).map(|high| high << 12), f16::from_f32);
    check((0..=u32::MAX >> 15).map(|high| high << 15), bf16::from_f32);
}

/// f64 is rounded once, also where a rounding to f32 before it would end at a midpoint.
#[test]
fn numbers_of_f64_are_rounded_once() {
    fn check<T: Float>(values: [f64; LANES]) {
        let bytes = |value: T| bytemuck::bytes_of(&value).to_vec();
        for (value, rounded) in values.into_iter().zip(T::all_rounded(values)) {
            assert_eq!(bytes(rounded), bytes(T::rounded(value)), "{value:e}");
            let wide = T::all_wide([rounded; LANES])[0];
            assert_eq!(wide.is_nan(), value.is_nan());
            assert!(value.is_nan() || wide == rounded.wide(), "{value:e}");
        }
    }
    // Every number of 16 bits and the midpoint after it, with neighbours in f64 and in f32.
    for wide in (0..=u16::MAX).flat_map(|bits| {
        let (half, bfloat) = (f16::from_bits(bits), bf16::from_bits(bits));
        let next = |bits: u16| bits.wrapping_add(1);
        let between = (half.to_f64() + f16::from_bits(next(bits)).to_f64()) / 2.0;
        let apart = (bfloat.to_f64() + bf16::from_bits(next(bits)).to_f64()) / 2.0;
        [half.to_f64(), between, bfloat.to_f64(), apart]
    }) {
        let near = [0.0, 1e-16, 3e-16, 1e-9, 3e-8, 6e-8, 1e-7, 1e-3];
        let values = std::array::from_fn(|lane| match lane % 2 {
            0 => wide * (1.0 + near[lane / 2]),
            _ => wide * (1.0 - near[lane / 2]),
        });
        check::<f16>(values);
        check::<bf16>(values);
        check::<f32>(values);
    }
    let large = f64::from(f32::MAX) * (1.0 + 2f64.powi(-25));
    check::<bf16>([
        1e300,
        -1e300,
        large,
        -large,
        1e-50,
        -1e-50,
        f64::MIN_POSITIVE,
        -0.0,
        0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        65519.999,
        65520.0,
        1e-45,
        7e-46,
        -7e-46,
    ]);
}
