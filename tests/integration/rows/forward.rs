//! Forwards of batches whose rows have adapters of a table, and backwards on what they saved.

use half::{bf16, f16};
use lora_kernels::RowAdapters;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::batch::Batch;
use super::check_forward::check_both;
use super::layer::Layer;
use crate::common::device::Number;

#[test]
fn an_adapter_per_row() {
    assert!(!check_both::<bf16, bf16>(&Batch::random(
        70,
        48,
        72,
        &[8, 16, 5]
    )));
    assert!(!check_both::<f32, f32>(&Batch::random(
        70,
        48,
        72,
        &[8, 16, 5]
    )));
}

/// Any batch of up to 300 rows: ranks of all sizes, lists with weights, dropout of any kind,
/// projections that share x, slots that are empty, the adapters' part alone.
fn any(seed: u64) -> Batch {
    let random = &mut SmallRng::seed_from_u64(seed);
    let tokens = match random.random_range(0..8) {
        0 => random.random_range(129..=300),
        1 | 2 => random.random_range(1..=16),
        _ => random.random_range(17..=128),
    };
    let vectors = random.random_bool(0.5);
    let mut size = |most: usize| match vectors {
        true => 8 * random.random_range(1..=most / 8),
        false => random.random_range(1..=most),
    };
    let (in_features, out_features) = (size(96), [size(80), size(40)]);
    let most_ranks = [20, 20, 20, 80][random.random_range(0..4)];
    let mut projections = vec![(out_features[0], most_ranks)];
    if random.random_bool(0.4) {
        projections.push((out_features[1], [0, 20][random.random_range(0..2)]));
    }
    let table: Vec<_> = (0..random.random_range(1..=6))
        .map(|_| {
            let ranks = projections
                .iter()
                .map(|&(_, most)| match random.random_bool(0.15) {
                    true => 0,
                    false => random.random_range(most.min(1)..=most),
                });
            let ranks = ranks.collect();
            random.random_bool(0.85).then_some(ranks)
        })
        .collect();
    let per_row = random.random_range(1..=RowAdapters::MOST_PER_ROW);
    let places = tokens * per_row;
    let slots = (0..places).map(|_| random.random_range(-1..table.len() as i32));
    let slots: Vec<i32> = slots.collect();
    let weights = random.random_bool(0.5).then(|| {
        let weights = (0..places).map(|_| [1.0, -0.7, 0.0, 0.3][random.random_range(0..4)]);
        weights.collect()
    });
    let dropout = random.random_bool(0.6);
    Batch {
        projections,
        per_row,
        weights,
        dropout,
        redrawn: random.random_bool(0.5),
        from_memory: dropout && random.random_bool(0.3),
        origin: [(0, 0), (1000, 64)][random.random_range(0..2)],
        transposed: random.random_bool(0.3),
        delta_only: random.random_bool(0.2),
        accumulate: random.random_bool(0.3),
        batch_invariant: random.random_bool(0.3),
        odd: random.random_bool(0.3),
        multiprocessors: Some(random.random_range(1..=4)),
        slots: Some(slots),
        table,
        ..Batch::random(tokens, in_features, out_features[0], &[1])
    }
}

fn random_batches<T: Number, A: Number>(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let batch = any(seed);
        let run = || check_both::<T, A>(&batch);
        if let Err(cause) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            eprintln!("in the batch of seed {seed}: {batch:?}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[test]
fn random_batches_in_bf16() {
    random_batches::<bf16, bf16>(0..40);
}

#[test]
fn random_batches_in_f16_with_f32_adapters() {
    random_batches::<f16, f32>(100..125);
}

#[test]
fn random_batches_in_f32() {
    random_batches::<f32, f32>(200..225);
}

/// All rows go through one adapter, without a table: dropout, or the adapters' part alone.
#[test]
fn one_adapter_for_all_rows() {
    let batch = |dropout| Batch {
        dropout,
        ..Batch::one(130, 72, &[(40, 20), (24, 0), (16, 3)])
    };
    check_both::<bf16, bf16>(&batch(true));
    check_both::<f32, f32>(&batch(false));
    check_both::<f16, f32>(&Batch {
        delta_only: false,
        batch_invariant: true,
        odd: true,
        ..batch(true)
    });
}

/// Many groups of ranks, of one adapter and of many in a tile; whole tiles without adapters.
#[test]
fn large_ranks_and_tiles_without_adapters() {
    let ranks = [300, 1, 64, 17];
    let slots = (0..300).map(|row| match row / 64 {
        0 => -1,
        1 => 0,
        2 | 3 => row % 4,
        _ => [-1, 2][usize::from(row == 299)],
    });
    let batch = Batch {
        slots: Some(slots.collect()),
        dropout: true,
        ..Batch::random(300, 136, 72, &ranks)
    };
    check_both::<bf16, bf16>(&batch);
    check_both::<f32, f32>(&Batch {
        delta_only: true,
        ..batch
    });
}

/// An adapter of NaN spoils the rows that have it, and no other row, whatever tile they share.
#[test]
fn a_spoilt_adapter_stays_with_its_rows() {
    let batch = Batch {
        poisoned: Some(1),
        ..Batch::random(140, 72, 40, &[9, 20, 16])
    };
    check_both::<bf16, bf16>(&batch);
    check_both::<f32, f32>(&batch);
}

/// Slots that don't exist and empty ones are none, and the table's word tells.
#[test]
fn rows_that_name_nothing() {
    let named = |slot: i32, weight: f32| Batch {
        slots: Some(
            (0..80)
                .map(|row| if row == 70 { slot } else { 2 })
                .collect(),
        ),
        weights: Some(
            (0..80)
                .map(|row| if row == 70 { weight } else { 1.0 })
                .collect(),
        ),
        table: vec![Some(vec![8]), None, Some(vec![5])],
        ..Batch::random(80, 40, 24, &[8])
    };
    assert!(!check_both::<bf16, bf16>(&named(-1, 1.0)));
    assert!(!check_both::<bf16, bf16>(&named(1, 0.0)));
    assert!(check_both::<bf16, bf16>(&named(1, 1.0)));
    assert!(check_both::<bf16, bf16>(&named(3, 1.0)));
    assert!(check_both::<bf16, bf16>(&named(i32::MAX, 1.0)));
    for rank in [-1, 33] {
        let batch = Batch {
            wrong_rank: Some((2, rank)),
            ..named(0, 1.0)
        };
        assert!(check_both::<bf16, bf16>(&batch), "{rank}");
    }
}

/// A part of the rows, with the mask's origin, has the bits of these rows in the whole batch.
#[test]
fn parts_of_a_batch_have_its_bits() {
    parts_have_the_bits::<bf16, bf16>(584);
    parts_have_the_bits::<f32, f32>(131);
}

fn parts_have_the_bits<T: Number, A: Number>(in_features: usize) {
    let whole = Batch {
        dropout: true,
        batch_invariant: true,
        per_row: 2,
        slots: Some(
            (0..600)
                .map(|at| [0, 2, -1, 1, 1, 0, -1][at * 5 % 7])
                .collect(),
        ),
        ..Batch::random(300, in_features, 72, &[9, 40, 16])
    };
    let bits = |batch: &Batch| {
        let layer = Layer::<T, A>::new(batch);
        layer.run_forward();
        let rows = layer.y[0].read();
        let bits = |row: Vec<T>| row.into_iter().map(|y| y.into().to_bits()).collect();
        rows.into_iter().map(bits).collect::<Vec<Vec<u64>>>()
    };
    let expected = bits(&whole);
    for (rows, multiprocessors) in [(0..300, 1), (7..8, 108), (60..124, 2), (100..299, 3)] {
        let part = Batch {
            tokens: rows.len(),
            origin: (rows.start, 0),
            slots: whole
                .slots
                .as_ref()
                .map(|slots| slots[2 * rows.start..2 * rows.end].to_vec()),
            multiprocessors: Some(multiprocessors),
            ..whole.clone()
        };
        assert!(bits(&part) == expected[rows.clone()], "rows {rows:?}");
    }
}
