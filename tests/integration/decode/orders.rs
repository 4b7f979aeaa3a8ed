//! Whatever order blocks and warps run in, and whenever copies land: the same bits, and flags that
//! are zero afterwards. Blocks that share tiles and work on S tell each other by flags, so late and
//! starved ones are what matters here.

use half::bf16;
use lora_kernels_test_device::{Selection, select};
use ptx_emulator::counters::Control;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::batch::{Batch, OnDevice, Served, assert_right, numbers, random};
use crate::common::device::{Number, gpu};

/// Named orders, and seeds of random ones.
fn orders() -> Vec<String> {
    let named = ["fair", "last-block-first", "one-ahead", "starve-warp"];
    let seeds = (1..=10).map(|seed| format!("seed:{seed}"));
    named.into_iter().map(str::to_owned).chain(seeds).collect()
}

/// A tile that all blocks share, whole tiles, several projections, adapters on some rows.
fn served<T: Number>(seed: u64, multiprocessors: u32, invariant: bool) -> (Served<T, T>, Batch<T>) {
    let random = &mut StdRng::seed_from_u64(seed);
    let mut served = Served::new(random, 536, &[(72, 40), (130, 40)], 5, 2);
    for slot in 0..5 {
        served.fill(random, slot, &[1 + 9 * slot, 40 - 9 * slot]);
    }
    served.multiprocessors = multiprocessors;
    served.batch_invariant = invariant;
    let lists = vec![
        vec![(4, 1.0)],
        vec![],
        vec![(0, 0.5), (3, -1.0)],
        vec![(1, 2.0), (4, 1.0)],
    ];
    let x = numbers(random, lists.len() * 536, 1.0);
    (served, Batch { x, lists })
}

fn no_order_changes_a_bit<T: Number>() {
    let Selection::Emulated { .. } = select().expect("a device, real or emulated") else {
        return;
    };
    gpu();
    let control = Control::loaded().expect("the emulated driver");
    for (seed, multiprocessors, invariant) in
        [(1, 1, false), (2, 6, false), (3, 12, false), (4, 2, true)]
    {
        let (served, batch) = served::<T>(seed, multiprocessors, invariant);
        let mut on_device = OnDevice::new(&served, &gpu().stream);
        let expected = on_device.run(&batch, 0.0);
        assert_right(&served, &batch, &expected, 0.0);
        for (number, order) in orders().into_iter().enumerate() {
            let early = number % 2 == 0;
            control.schedule(&order).expect("a schedule");
            control.early_copies(early).expect("a setting");
            // Twice on one workspace and the same flags
            for turn in 0..2 {
                let y = on_device.run(&batch, 0.0);
                assert!(
                    y == expected,
                    "{order}, early copies {early}, turn {turn}, seed {seed}"
                );
            }
        }
        control.schedule("fair").expect("a schedule");
        control.early_copies(false).expect("a setting");
    }
}

fn no_order_changes_a_bit_of_decode_in_bf16() {
    no_order_changes_a_bit::<bf16>();
}

fn no_order_changes_a_bit_of_decode_in_f32() {
    no_order_changes_a_bit::<f32>();
}

alone!(
    no_order_changes_a_bit_of_decode_in_bf16,
    no_order_changes_a_bit_of_decode_in_f32,
);

/// Batches of different sizes follow each other on one workspace.
#[test]
fn batches_follow_each_other_on_one_workspace() {
    let (served, _) = random::<bf16, bf16>(17);
    let mut on_device = OnDevice::new(&served, &gpu().stream);
    let filled: Vec<_> = (0..served.adapters.len())
        .filter(|&slot| served.adapters[slot].is_some())
        .collect();
    let random = &mut StdRng::seed_from_u64(5);
    for tokens in [1, 7, 64, 2, 33] {
        let lists = (0..tokens).map(|row| vec![(filled[row % filled.len()], 1.0)]);
        let batch = Batch {
            x: numbers(random, tokens * served.in_features, 1.0),
            lists: lists.collect(),
        };
        let y = on_device.run(&batch, 0.0);
        assert_right(&served, &batch, &y, 0.0);
    }
}

/// Two streams, each with a workspace and flags of its own, and one set of weights.
#[test]
fn two_streams_have_workspaces_of_their_own() {
    let (served, batch) = served::<bf16>(6, 5, false);
    let context = gpu().kernels.context();
    let streams = [0, 1].map(|_| context.new_stream().expect("a stream"));
    std::thread::scope(|scope| {
        for stream in &streams {
            scope.spawn(|| {
                let mut on_device = OnDevice::new(&served, stream);
                for _ in 0..5 {
                    let y = on_device.run(&batch, 0.0);
                    assert_right(&served, &batch, &y, 0.0);
                }
            });
        }
    });
}
