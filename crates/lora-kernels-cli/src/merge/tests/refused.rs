//! Changes that don't fit are refused before anything is written.

use super::super::change::Rows;
use super::*;

#[track_caller]
fn assert_refused(tensor: &Owned, change: &Change<'_>, fragment: &str) {
    match Job::new("a.weight", tensor.tensor(), change) {
        Ok(_) => panic!("it isn't refused, but should be for: {fragment}"),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.starts_with("a.weight: ") && text.contains(fragment),
                "{text}"
            );
            assert_eq!(error.status(), 2);
        }
    }
}

#[test]
fn matrices_that_dont_fit_the_weight() {
    let w = Owned::made(Dtype::F32, &[6, 5], 1);
    let stacked = Owned::made(Dtype::F32, &[3, 6, 5], 1);
    let convolution = Owned::made(Dtype::F32, &[6, 5, 3, 3], 1);
    let a = Owned::made(Dtype::F32, &[2, 5], 2);
    let b = Owned::made(Dtype::F32, &[6, 2], 3);
    let lora = part(2, 1.0, Stack::One, &a, &b);
    let change = |lora| Change {
        loras: vec![lora],
        ..Change::default()
    };
    assert!(Job::new("a.weight", w.tensor(), &change(lora)).is_ok());
    for (weight, lora) in [
        (&w, LoraPart { rank: 3, ..lora }),
        (&w, LoraPart { rank: 0, ..lora }),
        (
            &w,
            LoraPart {
                rank: usize::MAX,
                ..lora
            },
        ),
        (
            &w,
            LoraPart {
                first_out: 1,
                ..lora
            },
        ),
        (
            &w,
            LoraPart {
                first_out: usize::MAX,
                ..lora
            },
        ),
        (
            &w,
            LoraPart {
                expert: Some(1),
                ..lora
            },
        ),
        (
            &w,
            LoraPart {
                a: b.tensor(),
                ..lora
            },
        ),
        (
            &w,
            LoraPart {
                b: a.tensor(),
                ..lora
            },
        ),
        (
            &w,
            LoraPart {
                stack: Stack::Leading { experts: 2 },
                expert: Some(1),
                ..lora
            },
        ),
        (&stacked, lora),
        (&convolution, lora),
    ] {
        assert_refused(weight, &change(lora), "don't fit");
    }
    let experts = LoraPart {
        stack: Stack::Parameter { experts: 3 },
        ..lora
    };
    assert_refused(&w, &change(experts), "3 experts");
    assert_refused(&convolution, &change(experts), "3 experts");
    assert_refused(&stacked, &change(experts), "don't fit");
    let transposed = Change {
        layout: WeightLayout::InOut,
        ..change(lora)
    };
    assert_refused(
        &convolution,
        &transposed,
        "no convolution is stored transposed",
    );
    let mixed = Change {
        loras: vec![LoraPart { rank: 2, ..experts }, lora],
        ..Change::default()
    };
    assert_refused(&stacked, &mixed, "one for all");
}

#[test]
fn tensors_that_dont_fit_the_others() {
    let w = Owned::made(Dtype::F32, &[6, 5], 1);
    let five = Owned::made(Dtype::F32, &[5], 2);
    let magnitude = Change {
        magnitude: Some(five.tensor()),
        ..Change::default()
    };
    assert_refused(&w, &magnitude, "magnitudes have shape [5]");
    let bias = Change {
        biases: vec![(1.0, five.tensor())],
        ..Change::default()
    };
    assert_refused(&w, &bias, "a bias of lora_B");
    for (indices, values, fragment) in [
        (&[6][..], &five, "row 6"),
        (&[usize::MAX], &five, "row 18446744073709551615"),
        (&[1, 2], &five, "5 elements, and 2 rows"),
        (&[], &five, "0 rows"),
    ] {
        let change = Change {
            rows: vec![Rows {
                indices,
                values: values.tensor(),
            }],
            ..Change::default()
        };
        assert_refused(&w, &change, fragment);
    }
}

#[test]
fn types_that_arent_computed_with() {
    let w = Owned::made(Dtype::F32, &[6, 5], 1);
    let integers = Tensor::named("x", Dtype::I8, &[6, 5], &[0; 30]);
    let change = Change {
        replaced: Some(integers),
        ..Change::default()
    };
    assert_refused(&w, &change, "I8");
    let rows = Tensor::named("x", Dtype::I8, &[1, 5], &[0; 5]);
    let change = Change {
        rows: vec![Rows {
            indices: &[0],
            values: rows,
        }],
        ..Change::default()
    };
    assert_refused(&w, &change, "I8");
    let a = Owned::made(Dtype::F32, &[2, 5], 2);
    let b = Owned::made(Dtype::F32, &[6, 2], 3);
    let change = Change {
        loras: vec![part(2, 1.0, Stack::One, &a, &b)],
        ..Change::default()
    };
    let refused = |change| {
        Job::new("a.weight", integers, &change)
            .err()
            .map(|e| e.to_string())
    };
    assert!(refused(change).unwrap().contains("it is I8"));
    // An integer tensor takes no floats in its place, either.
    let floats = Change {
        replaced: Some(w.tensor()),
        ..Change::default()
    };
    assert!(refused(floats).unwrap().contains("it is I8"));
    let row = Owned::made(Dtype::F32, &[1, 5], 1);
    let float_rows = Change {
        rows: vec![Rows {
            indices: &[0],
            values: row.tensor(),
        }],
        ..Change::default()
    };
    assert!(refused(float_rows).unwrap().contains("it is I8"));
}
