//! The table of adapters: what it takes and refuses, and rows that name what isn't there.

use half::bf16;
use lora_kernels::cudarc::driver::result;
use lora_kernels::{AdapterTable, DType, Error, Problem, RowAdapters, TableLora};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::batch::{Batch, OnDevice, Served, assert_right, numbers, on_device};
use crate::common::device::gpu;

fn served(random: &mut StdRng) -> Served<bf16, bf16> {
    let mut served = Served::new(random, 136, &[(72, 20), (40, 8)], 4, 2);
    served.fill(random, 0, &[5, 8]);
    served.fill(random, 2, &[20, 0]);
    served
}

#[test]
fn adapters_come_and_go() {
    let random = &mut StdRng::seed_from_u64(1);
    let first = served(random);
    let mut now = first.clone();
    let mut device = OnDevice::new(&first, &gpu().stream);
    let batch = |random: &mut StdRng, lists: Vec<Vec<(usize, f32)>>| Batch {
        x: numbers(random, lists.len() * 136, 1.0),
        lists,
    };
    let rows = batch(
        random,
        vec![vec![(0, 1.0), (2, 0.5)], vec![(2, -1.0)], vec![]],
    );
    let y = device.run(&rows, 0.0);
    assert_right(&now, &rows, &y, 0.0);
    assert_eq!(device.table.ranks(2), Some([20, 0].as_slice()));

    // Replaced, and another in the first empty slot
    now.fill(random, 2, &[3, 7]);
    now.fill(random, 1, &[1, 1]);
    for (slot, expected) in [(2, None), (1, Some(1))] {
        let adapter = now.adapters[slot].as_ref().expect("filled");
        let parts = on_device(&gpu().stream, adapter);
        match expected {
            None => device.table.replace(slot, parts).expect("a slot"),
            Some(expected) => assert_eq!(device.table.insert(parts).expect("a slot"), expected),
        }
    }
    let rows = batch(
        random,
        vec![vec![(1, 1.0)], vec![(2, 1.0), (1, 2.0)], vec![(0, 1.0)]],
    );
    let y = device.run(&rows, 0.0);
    assert_right(&now, &rows, &y, 0.0);

    device.table.remove(0).expect("a slot");
    assert_eq!(device.table.ranks(0), None);
    let error = device.table.lists(&[&[], &[(0, 1.0)]]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::EmptySlot {
                row: 1,
                slot: 0,
                ..
            }
        ),
        "{error}"
    );
}

/// Such rows are rows without an adapter there, and the table tells.
#[test]
fn rows_that_name_nothing_are_told_of() {
    let random = &mut StdRng::seed_from_u64(2);
    let served = served(random);
    let mut device = OnDevice::new(&served, &gpu().stream);
    let x = numbers(random, 4 * 136, 1.0);
    let lists = vec![vec![(0, 1.0)], vec![], vec![(2, 1.0)], vec![]];
    let batch = Batch { x, lists };
    let slots = |wrong: [i32; 2]| [0, -1, wrong[0], -7, wrong[1], 2, -1, -1];
    let weights = [1.0; 8];
    let y = device.run_slots(&batch, &slots([-1, -1]), &weights, 0.0);
    assert_right(&served, &batch, &y, 0.0);
    assert!(!device.table.take_wrong().unwrap());
    // One past the end, empty ones, the largest
    for wrong in [[4, -1], [1, -1], [-1, 3], [i32::MAX, 1]] {
        let given = device.run_slots(&batch, &slots(wrong), &weights, 0.0);
        assert_eq!(given, y, "{wrong:?}");
        assert!(device.table.take_wrong().unwrap(), "{wrong:?}");
        assert!(!device.table.take_wrong().unwrap(), "{wrong:?}");
    }
    // What has a weight of 0 isn't named.
    let mut weights = weights;
    (weights[2], weights[4]) = (0.0, 0.0);
    let given = device.run_slots(&batch, &slots([1, i32::MAX]), &weights, 0.0);
    assert_eq!(given, y);
    assert!(!device.table.take_wrong().unwrap());
}

/// Only who writes entries without us can make such ones.
#[test]
fn ranks_that_no_table_takes_are_none() {
    let random = &mut StdRng::seed_from_u64(4);
    let mut served = served(random);
    served.fill(random, 1, &[20, 8]);
    let mut device = OnDevice::new(&served, &gpu().stream);
    let lists = vec![vec![(0, 1.0), (1, 1.0)], vec![], vec![(1, -1.0)]];
    let slots = [0, 1, -1, -1, 1, -1];
    let weights = [1.0, 1.0, 0.0, 0.0, -1.0, 0.0];
    let mut batch = Batch {
        x: numbers(random, 3 * 136, 1.0),
        lists,
    };
    let y = device.run_slots(&batch, &slots, &weights, 0.0);
    assert_right(&served, &batch, &y, 0.0);
    assert!(!device.table.take_wrong().unwrap());
    // (slots, projections) of entries of 48 bytes, in which the rank is at 32
    let first = device.table.raw().entries + 2 * 48;
    batch.lists = vec![vec![(0, 1.0)], vec![], vec![]];
    for rank in [-1, i32::MIN, 33, i32::MAX] {
        for entry in [first, first + 48] {
            gpu().stream.synchronize().expect("nothing faults");
            // SAFETY: a word of the table, which nobody uses now.
            unsafe { result::memcpy_htod_sync(entry + 32, &[rank]) }.expect("a copy");
        }
        let y = device.run_slots(&batch, &slots, &weights, 0.0);
        assert_right(&served, &batch, &y, 0.0);
        assert!(device.table.take_wrong().unwrap(), "{rank}");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_changes() {
    let stream = &gpu().stream;
    let rows = RowAdapters::Table {
        slots: 2,
        per_row: 1,
    };
    let plain = Problem::new(1, 16, 8, 4, DType::BF16).unwrap();
    assert!(AdapterTable::new(stream, &plain).is_err());
    let problem = plain.with_row_adapters(rows).unwrap();
    let mut table = AdapterTable::new(stream, &problem).unwrap();
    let part = |rank: usize, a: usize, b: usize| {
        vec![Some(TableLora {
            a: stream.alloc_zeros::<bf16>(a).unwrap(),
            b: stream.alloc_zeros::<bf16>(b).unwrap(),
            rank,
            scaling: 1.0,
        })]
    };
    let refused = |table: &mut AdapterTable, parts| {
        let error = table.insert(parts).unwrap_err();
        assert_eq!(table.ranks(0), None, "{error}");
        error
    };
    let error = refused(&mut table, part(5, 80, 40));
    assert!(
        matches!(
            error,
            Error::TableRank {
                given: 5,
                most: 4,
                ..
            }
        ),
        "{error}"
    );
    let error = refused(&mut table, part(0, 16, 8));
    assert!(
        matches!(error, Error::TableRank { given: 0, .. }),
        "{error}"
    );
    let error = refused(&mut table, part(2, 31, 16));
    assert!(
        matches!(
            error,
            Error::Bounds {
                needed: 32,
                available: 31,
                ..
            }
        ),
        "{error}"
    );
    let error = refused(&mut table, part(2, 32, 15));
    assert!(matches!(error, Error::Bounds { needed: 16, .. }), "{error}");
    let error = refused(&mut table, Vec::new());
    assert!(
        matches!(
            error,
            Error::ProjectionCount {
                given: 0,
                planned: 1
            }
        ),
        "{error}"
    );
    let f32 = vec![Some(TableLora {
        a: stream.alloc_zeros::<f32>(32).unwrap(),
        b: stream.alloc_zeros::<f32>(16).unwrap(),
        rank: 2,
        scaling: 1.0,
    })];
    let error = table.insert(f32).unwrap_err();
    assert!(matches!(error, Error::PlannedDType { .. }), "{error}");
    let mut endless = part(2, 32, 16);
    endless[0].as_mut().unwrap().scaling = f32::INFINITY;
    let error = refused(&mut table, endless);
    assert!(matches!(error, Error::Scaling { .. }), "{error}");

    assert_eq!(table.insert(part(4, 64, 32)).unwrap(), 0);
    assert_eq!(table.insert(part(1, 16, 8)).unwrap(), 1);
    let error = table.insert(part(1, 16, 8)).unwrap_err();
    assert!(matches!(error, Error::TableFull { slots: 2 }), "{error}");
    let error = table.remove(2).unwrap_err();
    assert!(
        matches!(error, Error::NoSlot { given: 2, slots: 2 }),
        "{error}"
    );
    let error = table.lists(&[&[(0, 1.0), (1, 1.0)]]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::RowList {
                given: 2,
                places: 1,
                ..
            }
        ),
        "{error}"
    );
    let lists = table
        .segments([(2, [(1, 0.5)].as_slice()), (1, &[])])
        .unwrap();
    assert_eq!(lists.slots(), [1, 1, -1]);
    assert_eq!(lists.rows(), 3);
}

/// What is there stays, also a zero's sign: nothing is added.
#[test]
fn a_batch_without_adapters_leaves_y_alone() {
    let random = &mut StdRng::seed_from_u64(3);
    let mut served = served(random);
    served.biases = None;
    served.delta_only = true;
    let mut device = OnDevice::new(&served, &gpu().stream);
    for tokens in [3, 70] {
        let batch = Batch {
            x: numbers(random, tokens * 136, 1.0),
            lists: vec![vec![]; tokens],
        };
        let y = device.run(&batch, -0.0);
        let kept = |value: &bf16| value.to_bits() == bf16::NEG_ZERO.to_bits();
        assert!(y.iter().flatten().all(kept), "{tokens} tokens");
    }
}
