//! Batch-invariant problems: a row's bits are those of the row alone, whatever else is in the
//! batch, in whichever order, however many rows there are, and whether a backward follows or not.

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::batch::{Batch, List, OnDevice, Served, numbers};
use crate::common::device::{Number, gpu};

const REQUESTS: usize = 24;
const COMPOSITIONS: usize = 16;

fn rows_keep_their_bits<T: Number, A: Number>(in_features: usize, seed: u64) {
    let random = &mut StdRng::seed_from_u64(seed);
    let sizes = [(136, 40), (72, 40)];
    let mut served = Served::<T, A>::new(random, in_features, &sizes, 9, 3);
    served.batch_invariant = true;
    for slot in 0..served.adapters.len() {
        let ranks = [0; 2].map(|_| random.random_range(0..=40));
        served.fill(random, slot, &ranks);
    }
    let requests: Vec<(Vec<T>, List)> = (0..REQUESTS)
        .map(|_| {
            let places = 0..random.random_range(0..=3);
            let list = places.map(|_| (random.random_range(0..9), random.random_range(-1.0..2.0)));
            let list = list.collect();
            (numbers(random, in_features, 1.0), list)
        })
        .collect();
    // Plans for other numbers of multiprocessors divide the work otherwise.
    let mut bits: Vec<Vec<Vec<T>>> = Vec::new();
    let ways = [
        (1, 3, true),
        (2, COMPOSITIONS, true),
        (108, 1, true),
        (2, 3, false),
    ];
    for (multiprocessors, compositions, inference) in ways {
        (served.multiprocessors, served.inference) = (multiprocessors, inference);
        let mut on_device = OnDevice::new(&served, &gpu().stream);
        let mut run = |which: &[usize]| -> Vec<Vec<Vec<T>>> {
            let x = which.iter().flat_map(|&i| requests[i].0.clone());
            let lists = which.iter().map(|&i| requests[i].1.clone());
            let (x, lists) = (x.collect(), lists.collect());
            let y = on_device.run(&Batch { x, lists }, 0.0);
            (0..which.len())
                .map(|row| {
                    let of = y.iter().zip(&served.projections);
                    of.map(|(y, sizes)| {
                        y[row * sizes.out_features..][..sizes.out_features].to_vec()
                    })
                    .collect()
                })
                .collect()
        };
        if bits.is_empty() {
            bits = (0..REQUESTS).map(|i| run(&[i]).remove(0)).collect();
        }
        for composition in 0..compositions {
            // Many rows go another way than few.
            let most = if composition % 4 == 0 { 12 } else { 2 } * REQUESTS;
            let mut which: Vec<usize> = (0..most).map(|i| i % REQUESTS).collect();
            which.shuffle(random);
            which.truncate(random.random_range(1..=which.len()));
            for (row, (i, y)) in which.iter().zip(run(&which)).enumerate() {
                let same = y.iter().flatten().zip(bits[*i].iter().flatten());
                let mut same = same.map(|(a, b)| a.to_f64().to_bits() == b.to_f64().to_bits());
                assert!(
                    same.all(|same| same),
                    "row {row} of {which:?} on {multiprocessors} multiprocessors"
                );
            }
        }
    }
}

#[test]
fn rows_keep_their_bits_in_bf16() {
    rows_keep_their_bits::<bf16, bf16>(584, 1);
}

#[test]
fn rows_keep_their_bits_in_f16_with_f32_adapters() {
    rows_keep_their_bits::<f16, f32>(136, 2);
}

#[test]
fn rows_keep_their_bits_in_f32_at_any_alignment() {
    rows_keep_their_bits::<f32, f32>(131, 3);
}

/// An infinite element in one tenant's adapter stays with the rows that go through it.
#[test]
fn what_an_adapter_holds_reaches_no_other_row() {
    let random = &mut StdRng::seed_from_u64(4);
    let mut served = Served::<bf16, bf16>::new(random, 264, &[(72, 16)], 2, 1);
    served.fill(random, 0, &[16]);
    served.fill(random, 1, &[16]);
    let batch = Batch {
        x: numbers(random, 6 * 264, 1.0),
        lists: [vec![(0, 1.0)], vec![(1, 1.0)], vec![]].concat_twice(),
    };
    let expected = OnDevice::new(&served, &gpu().stream).run(&batch, 0.0);
    for poison in [f32::INFINITY, f32::NAN] {
        let mut poisoned = served.clone();
        let adapter = poisoned.adapters[1].as_mut().expect("an adapter");
        let part = adapter[0].as_mut().expect("a part");
        part.a[5] = bf16::from_f32(poison);
        part.b[7] = bf16::from_f32(poison);
        let y = OnDevice::new(&poisoned, &gpu().stream).run(&batch, 0.0);
        for row in [0, 2, 3, 5] {
            assert_eq!(
                y[0][row * 72..][..72],
                expected[0][row * 72..][..72],
                "row {row}"
            );
        }
        assert!(y[0][72..144].iter().any(|value| !value.is_finite()));
    }
}

trait ConcatTwice {
    fn concat_twice(self) -> Vec<List>;
}

impl ConcatTwice for [List; 3] {
    fn concat_twice(self) -> Vec<List> {
        [self.clone(), self].concat()
    }
}
