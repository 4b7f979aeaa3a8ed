//! Backwards of batches whose rows have adapters of a table.

use half::{bf16, f16};

use super::batch::Batch;
use super::check_backward::check;

#[test]
fn an_adapter_per_row() {
    assert!(!check::<bf16, bf16>(&Batch::random(
        40,
        48,
        72,
        &[8, 16, 5]
    )));
}

/// Sizes at and around those of tiles, ranks of several groups and tiles.
#[test]
fn sizes_and_ranks() {
    check::<bf16, bf16>(&Batch::random(1, 8, 8, &[1]));
    check::<f16, f16>(&Batch::random(65, 136, 64, &[33, 1, 64]));
    check::<bf16, bf16>(&Batch::random(200, 72, 24, &[80, 3, 16, 16]));
    check::<bf16, f32>(&Batch::random(70, 64, 130, &[20, 7]));
    check::<f32, f32>(&Batch::random(67, 68, 36, &[20, 3, 65]));
}

#[test]
fn rows_off_vectors_and_a_transposed_weight() {
    for odd in [false, true] {
        let batch = |transposed| Batch {
            odd,
            transposed,
            ..Batch::random(66, 72, 40, &[9, 17])
        };
        check::<bf16, bf16>(&batch(true));
        check::<f32, f32>(&batch(true));
        if odd {
            check::<f16, f32>(&batch(false));
            check::<f32, f32>(&batch(false));
        }
    }
}

/// The mask is drawn for the rows that an adapter has, wherever they lie.
#[test]
fn dropout() {
    for redrawn in [false, true] {
        let batch = Batch {
            dropout: true,
            redrawn,
            ..Batch::random(90, 136, 40, &[9, 16])
        };
        check::<bf16, bf16>(&batch);
        check::<f32, f32>(&batch);
    }
}

/// A shard's mask, and one whose seed is in memory
#[test]
fn dropout_of_shards_and_from_memory() {
    let batch = |redrawn, from_memory| Batch {
        dropout: true,
        redrawn,
        from_memory,
        origin: (77, 24),
        ..Batch::random(70, 72, 40, &[9, 16])
    };
    check::<bf16, bf16>(&batch(false, true));
    check::<bf16, bf16>(&batch(true, true));
    check::<f32, f32>(&batch(true, false));
    check::<bf16, bf16>(&Batch {
        origin: (0, 0),
        ..batch(true, true)
    });
}

/// Weights of any sign, of 0, which is no adapter, and a slot that a row names twice.
fn lists() -> Batch {
    let slots = (0..70 * 4).map(|at| [0, 2, -1, 1, 0, 2, 3, 0, 1][at * 7 % 9]);
    let weights = (0..70 * 4).map(|at| [1.0, -0.5, 0.0, 0.25, 2.0][at * 3 % 5]);
    Batch {
        per_row: 4,
        slots: Some(slots.collect()),
        weights: Some(weights.collect()),
        ..Batch::random(70, 72, 40, &[9, 20, 16, 4])
    }
}

#[test]
fn lists_with_weights() {
    check::<bf16, bf16>(&lists());
    check::<f32, f32>(&lists());
    let unweighted = || Batch {
        weights: None,
        ..lists()
    };
    check::<f32, f32>(&unweighted());
    check::<bf16, f32>(&unweighted());
}

#[test]
fn projections_share_x() {
    let batch = Batch {
        projections: vec![(40, 20), (24, 0), (72, 8)],
        table: vec![
            Some(vec![20, 0, 3]),
            None,
            Some(vec![0, 0, 8]),
            Some(vec![5, 0, 0]),
        ],
        ..Batch::random(70, 72, 8, &[1, 1, 1, 1])
    };
    assert!(check::<bf16, bf16>(&batch), "slot 1 is empty");
    check::<f32, f32>(&batch);
}

#[test]
fn results_are_added() {
    let batch = Batch {
        accumulate: true,
        ..Batch::random(70, 72, 40, &[9, 20])
    };
    check::<bf16, bf16>(&batch);
    check::<f16, f32>(&batch);
}

/// Slots that don't exist and empty ones are none, and the table's word tells. Adapters without
/// rows keep their gradients.
#[test]
fn rows_that_name_nothing() {
    let named = |slot: i32| Batch {
        slots: Some(
            (0..30)
                .map(|row| if row % 3 == 0 { slot } else { 4 })
                .collect(),
        ),
        table: [8, 8, 8, 0, 8]
            .map(|rank| (rank > 0).then(|| vec![rank]))
            .to_vec(),
        ..Batch::random(30, 40, 24, &[8])
    };
    assert!(!check::<bf16, bf16>(&named(-1)));
    assert!(!check::<bf16, bf16>(&named(i32::MIN)));
    assert!(check::<bf16, bf16>(&named(3)));
    assert!(check::<bf16, bf16>(&named(5)));
    assert!(check::<bf16, bf16>(&named(i32::MAX)));
    // A weight of 0 names nothing.
    let silent = |slot| Batch {
        weights: Some((0..30).map(|row| [0.0, 1.0][row.min(1) % 2]).collect()),
        slots: Some((0..30).map(|row| if row == 0 { slot } else { 4 }).collect()),
        ..named(-1)
    };
    assert!(!check::<bf16, bf16>(&silent(3)));
    assert!(!check::<bf16, bf16>(&silent(i32::MAX)));
    let nobody = Batch {
        slots: Some(vec![-1; 30]),
        ..named(-1)
    };
    assert!(!check::<bf16, bf16>(&nobody));
}

/// Only who writes entries without us can make such ones.
#[test]
fn ranks_that_no_table_takes_are_none() {
    for rank in [-1, i32::MIN, 33, i32::MAX] {
        let batch = Batch {
            wrong_rank: Some((1, rank)),
            ..Batch::random(40, 48, 24, &[8, 20, 16])
        };
        assert!(check::<bf16, bf16>(&batch), "{rank}");
    }
}

#[test]
fn nobody_wants_dx() {
    check::<bf16, bf16>(&Batch {
        input_gradient: false,
        ..Batch::random(40, 48, 24, &[8, 16])
    });
}

#[test]
fn a_batch_without_rows() {
    check::<bf16, bf16>(&Batch::random(0, 48, 24, &[8, 16]));
}

/// Many slots, few of them named: the list of the batch's adapters goes over words of bits.
#[test]
fn a_large_table() {
    let mut table = vec![None; 3000];
    for slot in [0, 31, 32, 1023, 1024, 2999] {
        table[slot] = Some(vec![4]);
    }
    let slots = (0..40).map(|row| [2999, 31, 1024, 0, -1, 32, 1023][row % 7]);
    check::<bf16, bf16>(&Batch {
        table,
        slots: Some(slots.collect()),
        ..Batch::random(40, 24, 16, &[4])
    });
}

/// An adapter of NaN spoils the rows that have it, and no other row, whatever tile they share.
#[test]
fn a_spoilt_adapter_stays_with_its_rows() {
    let batch = Batch {
        poisoned: Some(1),
        ..Batch::random(100, 72, 40, &[9, 20, 16])
    };
    check::<bf16, bf16>(&batch);
    check::<f32, f32>(&batch);
}

/// Several turns of the blocks, and tiles that share their depth.
#[test]
fn few_and_many_multiprocessors() {
    for multiprocessors in [1, 3, 1000] {
        check::<bf16, bf16>(&Batch {
            multiprocessors: Some(multiprocessors),
            dropout: true,
            ..Batch::random(260, 264, 600, &[9, 40])
        });
    }
}
