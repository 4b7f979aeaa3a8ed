//! Forwards of rows with adapters of a table on Hopper: the product adds the adapters by `wgmma`.

use std::collections::HashSet;

use half::{bf16, f16};
use lora_kernels::ForwardPlan;
use lora_kernels::plan::{Arch, Operation, Variant};
use ptx_emulator::counters::Control;

use super::orders::orders;
use crate::common::device::{Number, gpu};
use crate::rows::batch::Batch;
use crate::rows::check_forward::{check_forward, outputs};

/// With which a batch of a few tiles has turns.
const FEW: Option<u32> = Some(2);
/// With which one large tile is as good as several small ones.
const ONE: Option<u32> = Some(1);

/// Ranks that end within a group, a stage, and after several stages; tiles that end within the
/// output; a depth of one step.
fn ranks() -> Vec<Batch> {
    vec![
        Batch {
            multiprocessors: FEW,
            ..Batch::random(300, 136, 264, &[8, 20, 16, 64, 3])
        },
        Batch {
            transposed: true,
            multiprocessors: FEW,
            ..Batch::random(129, 72, 392, &[1, 17, 136])
        },
        // y and lora_B have rows off 16 bytes.
        Batch {
            multiprocessors: ONE,
            ..Batch::random(120, 8, 115, &[1, 5, 63, 65])
        },
        Batch {
            transposed: true,
            multiprocessors: ONE,
            ..Batch::random(100, 64, 120, &[16])
        },
    ]
}

/// Several adapters per row with weights, one twice, projections that share x, one without
/// adapters, an empty slot, results that are added.
fn lists() -> Vec<Batch> {
    let slots = (0..200 * 4).map(|at| [0, 2, -1, 1, 0, 2, 3, 0, 1][at * 7 % 9]);
    let weights = (0..200 * 4).map(|at| [1.0, -0.5, 0.0, 0.25, 2.0][at * 3 % 5]);
    let listed = Batch {
        per_row: 4,
        slots: Some(slots.collect()),
        weights: Some(weights.collect()),
        multiprocessors: FEW,
        ..Batch::random(200, 72, 104, &[9, 20, 16, 4])
    };
    let shared = Batch {
        projections: vec![(40, 20), (24, 0), (272, 8)],
        table: vec![
            Some(vec![20, 0, 3]),
            None,
            Some(vec![0, 0, 8]),
            Some(vec![5, 0, 0]),
        ],
        accumulate: true,
        multiprocessors: FEW,
        ..Batch::random(140, 72, 8, &[1, 1, 1, 1])
    };
    vec![listed, shared]
}

/// More adapters than the ring has stages, tiles without any, and an adapter of NaN beside others.
fn tiles() -> Vec<Batch> {
    let many = Batch {
        multiprocessors: FEW,
        ..Batch::random(140, 24, 136, &[4; 30])
    };
    let empty = Batch {
        slots: Some(
            (0..390)
                .map(|row| if row % 256 < 128 { -1 } else { 1 })
                .collect(),
        ),
        multiprocessors: FEW,
        ..Batch::random(390, 72, 136, &[16, 24])
    };
    let spoilt = Batch {
        poisoned: Some(1),
        multiprocessors: ONE,
        ..Batch::random(110, 72, 120, &[9, 20, 16])
    };
    vec![many, empty, spoilt]
}

fn batches() -> Vec<Batch> {
    [ranks(), lists(), tiles()].concat()
}

fn check<T: Number, A: Number>(batches: &[Batch]) {
    for batch in batches {
        let variant = product::<T, A>(batch);
        assert_eq!(variant.arch, Arch::Sm90a, "{variant}");
        check_forward::<T, A>(batch);
    }
}

/// The kernel of the second launch.
fn product<T: Number, A: Number>(batch: &Batch) -> Variant {
    let device = *gpu().kernels.props();
    let multiprocessors = batch.multiprocessors.unwrap_or(device.multiprocessors());
    let device = device.with_multiprocessors(multiprocessors);
    let plan = ForwardPlan::new(&batch.problem::<T, A>(), &device).expect("a plan");
    plan.launches().last().expect("launches").variant
}

fn every_edge_in_bf16() {
    check::<bf16, bf16>(&batches());
}

fn every_edge_in_f16() {
    check::<f16, f16>(&ranks());
}

fn adapters_in_f32() {
    check::<bf16, f32>(&[ranks(), lists()].concat()[2..]);
}

/// Each kernel for rows is launched by a batch that runs.
fn the_batches_launch_every_kernel() {
    let launched = batches();
    let launched = { launched.iter() }.map(product::<bf16, bf16>);
    let of_f16 = ranks();
    let of_f16 = { of_f16.iter() }.map(product::<f16, f16>);
    let launched: HashSet<Variant> = launched.chain(of_f16).collect();
    let own = Variant::all().filter(|variant| {
        (variant.arch, variant.operation) == (Arch::Sm90a, Operation::ForwardRows)
    });
    let missing: Vec<_> = own.filter(|variant| !launched.contains(variant)).collect();
    assert!(missing.is_empty(), "no batch launches {missing:?}");
}

/// Nothing says that `wgmma` has the bits of `mma.sync`.
fn batch_invariant_results_take_the_kernels_of_all_devices() {
    let batch = Batch {
        batch_invariant: true,
        ..ranks().remove(0)
    };
    assert_eq!(product::<bf16, bf16>(&batch).arch, Arch::Sm80);
}

fn no_order_changes_a_bit() {
    gpu();
    let control = Control::loaded().expect("the emulated driver");
    let [ranks, lists, tiles] = [ranks(), lists(), tiles()].map(|mut all| all.swap_remove(0));
    for batch in [ranks, lists, tiles] {
        assert_eq!(product::<bf16, bf16>(&batch).arch, Arch::Sm90a);
        let expected = outputs::<bf16, bf16>(&batch);
        for (schedule, early) in orders() {
            control.schedule(&schedule).expect("a schedule");
            control.early_copies(early).expect("a setting");
            let given = outputs::<bf16, bf16>(&batch);
            assert!(
                given == expected,
                "under {schedule}, early copies: {early}: {batch:?}"
            );
        }
        control.schedule("fair").expect("a schedule");
        control.early_copies(false).expect("a setting");
    }
}

super::on_h100!(
    every_edge_in_bf16,
    every_edge_in_f16,
    adapters_in_f32,
    the_batches_launch_every_kernel,
    batch_invariant_results_take_the_kernels_of_all_devices,
    no_order_changes_a_bit,
);
