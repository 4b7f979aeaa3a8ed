//! Tensors and rows in place of the base's, and biases.

use super::super::change::Rows;
use super::super::numbers::same_within_types;
use super::*;

/// Rows come last: what the adapters add to them is replaced, too. Of two for one row, the later
/// one counts.
#[test]
fn rows_replace_those_of_the_sum() {
    let (rank, rows, columns) = (2, 20, 12);
    let w = Owned::made(Dtype::BF16, &[rows, columns], 1);
    let a = Owned::made(Dtype::F32, &[rank, rows], 2);
    let b = Owned::made(Dtype::F32, &[columns, rank], 3);
    let first = Owned::made(Dtype::F32, &[3, columns], 4);
    let second = Owned::made(Dtype::BF16, &[1, columns], 5);
    let plain = Change {
        loras: vec![part(rank, 0.5, Stack::One, &a, &b)],
        layout: WeightLayout::InOut,
        ..Change::default()
    };
    let mut expected = changed(&w, &plain).0;
    let change = Change {
        rows: vec![
            Rows {
                indices: &[19, 0, 7],
                values: first.tensor(),
            },
            Rows {
                indices: &[0],
                values: second.tensor(),
            },
        ],
        ..plain
    };
    let values = changed(&w, &change).0;
    for (row, from) in [
        (19, &first.values[..columns]),
        (7, &first.values[2 * columns..]),
        (0, &second.values),
    ] {
        for (column, value) in from.iter().enumerate() {
            expected[row * columns + column] = nearest(Dtype::BF16, *value);
        }
    }
    assert_eq!(values, expected);
    // Without adapters, all other rows stay the base's.
    let alone = Change {
        loras: Vec::new(),
        ..change
    };
    let (values, totals) = changed(&w, &alone);
    assert!(totals.report.is_none());
    for row in [1, 6, 8, 18] {
        assert_eq!(
            values[row * columns..][..columns],
            w.values[row * columns..][..columns]
        );
    }
    assert_eq!(
        values[7 * columns..][..columns],
        expected[7 * columns..][..columns]
    );
}

/// What is replaced may be NaN: the result isn't.
#[test]
fn only_what_is_written_is_counted_as_not_finite() {
    let mut values = vec![1.0; 30];
    values[5] = f64::NAN;
    values[29] = f64::INFINITY;
    let w = Owned::new(Dtype::F16, &[3, 10], &values);
    let row = Owned::made(Dtype::F16, &[1, 10], 1);
    let change = Change {
        rows: vec![Rows {
            indices: &[0],
            values: row.tensor(),
        }],
        ..Change::default()
    };
    assert_eq!(changed(&w, &change).1.non_finite, 1);
}

/// A vocabulary that was resized before training: all of it comes from the adapter's files, and a
/// LoRA is added to that.
#[test]
fn a_replaced_tensor_may_have_another_shape_and_type() {
    let (rank, columns) = (2, 14);
    let w = Owned::made(Dtype::BF16, &[20, columns], 1);
    let resized = Owned::made(Dtype::F32, &[23, columns], 2);
    let whole = Change {
        replaced: Some(resized.tensor()),
        ..Change::default()
    };
    let rounded: Vec<f64> = resized
        .values
        .iter()
        .map(|value| nearest(Dtype::BF16, *value))
        .collect();
    assert_eq!(changed(&w, &whole).0, rounded);
    let a = Owned::made(Dtype::F32, &[rank, columns], 3);
    let b = Owned::made(Dtype::F32, &[23, rank], 4);
    let change = Change {
        loras: vec![part(rank, 0.5, Stack::One, &a, &b)],
        ..whole
    };
    // Rounding to bf16 before the sum would round twice.
    let expected = (0..23 * columns).map(|at| {
        let (o, i) = (at / columns, at % columns);
        resized.values[at]
            + product(
                rank,
                0.5,
                |rho| b.values[o * rank + rho],
                |rho| a.values[rho * columns + i],
            )
    });
    let expected: Vec<f64> = expected.collect();
    let values = changed(&w, &change).0;
    assert_rounded(&values, &expected, Dtype::BF16);
    let correct = values
        .iter()
        .zip(&expected)
        .filter(|(value, expected)| **value == nearest(Dtype::BF16, **expected));
    assert!(correct.count() >= 23 * columns - 1);
}

#[test]
fn tensors_of_any_type_are_replaced_byte_for_byte() {
    for (dtype, bytes) in [
        (Dtype::I64, 8 * 30),
        (Dtype::BOOL, 30),
        (Dtype::F8_E4M3, 30),
        (Dtype::F4, 15),
    ] {
        let data: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        let tensor = |data| Tensor::named("w", dtype, &[5, 6], data);
        let old = vec![0xff; bytes];
        let change = Change {
            replaced: Some(tensor(&data[..])),
            ..Change::default()
        };
        assert_eq!(run(&Engine::Cpu, tensor(&old), &change).unwrap().0, data);
    }
}

/// lora_B's biases are added in f32 and rounded once.
#[test]
fn biases_are_added_with_their_factors() {
    let elements = 150;
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        let bias = Owned::made(dtype, &[elements], 1);
        let [first, second] = [
            Owned::made(Dtype::F32, &[elements], 2),
            Owned::made(Dtype::BF16, &[elements], 3),
        ];
        let change = Change {
            biases: vec![(0.5, first.tensor()), (-2.0, second.tensor())],
            ..Change::default()
        };
        let (values, totals) = changed(&bias, &change);
        let expected = (0..elements)
            .map(|at| bias.values[at] + 0.5 * first.values[at] - 2.0 * second.values[at]);
        assert_rounded(&values, &expected.collect::<Vec<_>>(), dtype);
        assert!(totals.report.is_none());
    }
}

/// f16's largest number is 65504.
#[test]
fn a_sum_beyond_the_type_is_counted() {
    let w = Owned::new(Dtype::F16, &[2, 3], &[65504.0; 6]);
    assert_eq!(f16::MAX.to_f64(), 65504.0);
    let a = Owned::new(Dtype::F32, &[1, 3], &[1.0, 0.0, 0.0]);
    let b = Owned::new(Dtype::F32, &[2, 1], &[40.0, 0.0]);
    let change = Change {
        loras: vec![part(1, 1.0, Stack::One, &a, &b)],
        ..Change::default()
    };
    let (values, totals) = changed(&w, &change);
    assert_eq!(
        (totals.non_finite, totals.report.unwrap().non_finite),
        (1, 1)
    );
    assert_eq!(values[0], f64::INFINITY);
}

/// Nothing is computed for tensors without elements, however many rows they have.
#[test]
fn tensors_without_elements_are_written_as_such() {
    for shape in [&[0][..], &[0, 7], &[7, 0], &[usize::MAX, 0]] {
        let [w, new] = [1, 2].map(|seed| Owned::made(Dtype::F32, shape, seed));
        let change = Change {
            replaced: Some(new.tensor()),
            ..Change::default()
        };
        assert!(changed(&w, &change).0.is_empty());
    }
    let experts = 1 << 40;
    let [w, a, b] = [&[experts, 0, 0][..], &[experts, 0], &[0, experts]]
        .map(|shape| Owned::made(Dtype::F32, shape, 1));
    let change = Change {
        loras: vec![part(1, 1.0, Stack::Parameter { experts }, &a, &b)],
        ..Change::default()
    };
    assert!(changed(&w, &change).0.is_empty());
}

/// Each whole tensor is rounded once, to nearest, ties to even, from all bits of its values.
#[test]
fn conversions_round_once_from_all_bits() {
    let power = |exponent: i32| 2f64.powi(exponent);
    for (to, from, value, expected) in [
        // Just above the middle of two numbers, in the middle, and just below it.
        (
            Dtype::BF16,
            Dtype::F32,
            1.0 + power(-8) + power(-23),
            0x3f81,
        ),
        (Dtype::BF16, Dtype::F32, 1.0 + power(-8), 0x3f80),
        (
            Dtype::BF16,
            Dtype::F32,
            1.0 + power(-7) + power(-8) - power(-23),
            0x3f81,
        ),
        (
            Dtype::BF16,
            Dtype::F64,
            -1.0 - power(-8) - power(-52),
            0xbf81,
        ),
        (
            Dtype::F16,
            Dtype::F32,
            1.0 + power(-11) + power(-23),
            0x3c01,
        ),
        (Dtype::F16, Dtype::F32, 1.0 + power(-11), 0x3c00),
        // f32's nearest is the middle: rounding it again would go the other way.
        (
            Dtype::F16,
            Dtype::F64,
            1.0 + power(-11) + power(-40),
            0x3c01,
        ),
        (
            Dtype::F16,
            Dtype::F64,
            1.0 + 3.0 * power(-11) - power(-40),
            0x3c01,
        ),
        (Dtype::F16, Dtype::F64, power(-25) + power(-60), 0x0001),
        (Dtype::F16, Dtype::F64, 65520.0 - power(-30), 0x7bff),
        (Dtype::F16, Dtype::F64, 65520.0, 0x7c00),
    ] {
        let old = Owned::new(to, &[1, 1], &[0.0]);
        let new = Owned::new(from, &[1, 1], &[value]);
        let whole = Change {
            replaced: Some(new.tensor()),
            ..Change::default()
        };
        let row = Change {
            rows: vec![Rows {
                indices: &[0],
                values: new.tensor(),
            }],
            ..Change::default()
        };
        for change in [whole, row] {
            let bytes = run(&Engine::Cpu, old.tensor(), &change).unwrap().0;
            let got = u16::from_le_bytes(bytes.try_into().unwrap());
            assert_eq!(
                got, expected,
                "{value:e} of {from:?} in {to:?} is {got:#06x}"
            );
        }
        let rounded = f64::from(match to {
            Dtype::F16 => f16::from_bits(expected).to_f32(),
            _ => bf16::from_bits(expected).to_f32(),
        });
        assert_eq!(nearest(to, value), rounded);
        // The trained tensor's copy in the base's type is the same tensor.
        let stored = Owned::new(to, &[1, 1], &[rounded]);
        assert!(same_within_types(&stored.tensor(), &new.tensor()).unwrap());
    }
}

/// A stack of matrices that is replaced whole isn't read in one piece for each of them.
#[test]
fn a_replaced_stack_is_converted_in_small_pieces() {
    let shape = [3, 8, 40];
    let old = Owned::made(Dtype::BF16, &shape, 1);
    let new = Owned::made(Dtype::F32, &shape, 2);
    let change = Change {
        replaced: Some(new.tensor()),
        ..Change::default()
    };
    let job = Job::new("w", old.tensor(), &change).unwrap();
    assert!(job.grid.largest_piece(1) <= 64, "{:?}", job.grid);
    let expected: Vec<f64> = { new.values.iter() }
        .map(|value| nearest(Dtype::BF16, *value))
        .collect();
    assert_eq!(changed(&old, &change).0, expected);
}
