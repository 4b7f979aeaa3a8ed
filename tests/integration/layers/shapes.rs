//! Forward and backward compared with the f64 reference for many sizes, ranks, types and
//! placements.

use std::collections::HashSet;

use crate::common::data::Placement::{AlignedView, Dense, OddView};
use crate::common::device::Number;
use crate::common::layer::{LayerCase, TestLayer};
use half::{bf16, f16};
use lora_kernels::plan::{Arch, DeviceProps, Launch, Operation, Variant};
use lora_kernels::{BackwardPlan, ForwardPlan, Role};

/// Every rank that peers got wrong, on layers of odd and even sizes.
fn ranks() -> Vec<LayerCase> {
    let sizes = [(17, 896, 128), (128, 130, 71)];
    let ranks = [1, 3, 8, 16, 24, 64, 320];
    let cases = sizes
        .into_iter()
        .flat_map(|(m, k, n)| ranks.map(|r| LayerCase::new(m, k, n, r)));
    // Each rank has a case with dropout and one without. A third of the weights are stored
    // transposed.
    let cases = cases.enumerate().map(|(i, case)| {
        let case = case.transposed(i % 3 == 2);
        if i % 2 == 0 { case.dropout(0.1) } else { case }
    });
    cases.collect()
}

/// All sizes from one element to just past the edge of a tile or a vector.
fn edges() -> Vec<LayerCase> {
    let mut cases = Vec::new();
    for (m, k, n, r) in [
        (1, 1, 1, 1),
        (1, 2, 1, 1),
        (2, 1, 3, 2),
        (1, 8, 7, 9),
        (3, 15, 17, 5),
        (63, 33, 65, 15),
        (64, 64, 64, 16),
        (65, 31, 63, 17),
        (129, 129, 127, 63),
        (127, 257, 129, 65),
    ] {
        for placement in [Dense, AlignedView, OddView] {
            let transposed = cases.len() % 2 == 1;
            cases.push(
                LayerCase::new(m, k, n, r)
                    .placed(placement)
                    .dropout(0.3)
                    .transposed(transposed),
            );
        }
    }
    cases
}

/// Views into larger matrices, and mixtures in which a single tensor of the layer prevents wide
/// loads or stores.
fn placements() -> Vec<LayerCase> {
    let case = LayerCase::new(130, 200, 136, 24).dropout(0.2);
    let of_layers = Role::ALL
        .into_iter()
        .filter(|&tensor| tensor != Role::Merged);
    let alone = of_layers.flat_map(|tensor| {
        let case = &case;
        [
            case.clone().with_placement(tensor, OddView),
            case.clone()
                .placed(OddView)
                .with_placement(tensor, AlignedView),
        ]
    });
    [Dense, AlignedView, OddView]
        .map(|placement| case.clone().placed(placement))
        .into_iter()
        .chain(alone)
        .collect()
}

/// Plans for devices of other sizes. With one multiprocessor, blocks with a large tile take many
/// turns; with a thousand, there are small tiles and many splits of rows and of K.
fn devices() -> Vec<LayerCase> {
    let mut cases = Vec::new();
    for multiprocessors in [1, 1000] {
        for (m, k, n, r) in [(200, 136, 512, 8), (128, 384, 128, 40), (140, 392, 328, 24)] {
            for (placement, transposed) in
                [(AlignedView, false), (AlignedView, true), (OddView, false)]
            {
                let case = LayerCase::new(m, k, n, r)
                    .placed(placement)
                    .transposed(transposed);
                cases.push(case.dropout(0.25).multiprocessors(multiprocessors));
            }
        }
    }
    cases
}

/// Few tiles with a large K: blocks share them, and the last one to arrive sums the parts.
fn split_depth() -> Vec<LayerCase> {
    let mut cases = Vec::new();
    for (m, k, n, r) in [
        (65, 1024, 64, 8),
        (128, 2048, 48, 16),
        (300, 1040, 136, 24),
        (1024, 1200, 24, 3),
        (512, 1026, 77, 5),
        (200, 72, 1500, 8),
        (77, 45, 1201, 17),
    ] {
        let case = LayerCase::new(m, k, n, r);
        cases.push(match cases.len() % 2 {
            0 => case.dropout(0.1),
            _ => case.placed(AlignedView).transposed(true),
        });
    }
    // There are more parts than concurrent blocks, so some blocks take a second part.
    for placement in [AlignedView, OddView] {
        cases.push(
            LayerCase::new(40, 4096, 264, 8)
                .placed(placement)
                .multiprocessors(3),
        );
    }
    cases
}

/// Sizes of real models. Only one or two sizes of a case are large: a case costs the product of all
/// three, each filled up to whole tiles.
fn large() -> Vec<LayerCase> {
    vec![
        LayerCase::new(1, 4096, 136, 72).dropout(0.5),
        LayerCase::new(63, 4096, 72, 64),
        LayerCase::new(63, 130, 3696, 64).dropout(0.1),
        LayerCase::new(4097, 136, 24, 16).dropout(0.05),
        LayerCase::new(4097, 72, 40, 24).bias(false),
        LayerCase::new(4097, 40, 136, 3)
            .placed(OddView)
            .dropout(0.1),
        LayerCase::new(17, 24, 32001, 8).bias(false),
        LayerCase::new(65, 24, 12289, 24)
            .placed(AlignedView)
            .dropout(0.1),
    ]
}

fn check_all<T: Number>(cases: Vec<LayerCase>) {
    for case in cases {
        TestLayer::<T>::random(&case).check();
    }
}

fn every_rank<T: Number>() {
    check_all::<T>(ranks());
}

fn every_edge<T: Number>() {
    check_all::<T>(edges());
}

fn every_placement<T: Number>() {
    check_all::<T>(placements());
}

fn every_device_size<T: Number>() {
    check_all::<T>(devices());
}

fn every_split_of_the_depth<T: Number>() {
    check_all::<T>(split_depth());
}

fn every_large_size<T: Number>() {
    check_all::<T>(large());
}

for_each_dtype!(
    every_rank,
    every_edge,
    every_placement,
    every_device_size,
    every_split_of_the_depth,
    every_large_size
);

/// The launches of a case on an A100, or on one with the case's number of multiprocessors.
fn launches<T: Number>(case: &LayerCase) -> Vec<Launch> {
    let (problem, device) = (case.problem::<T>(), DeviceProps::a100());
    let multiprocessors = case.multiprocessors.unwrap_or(device.multiprocessors());
    let device = device.with_multiprocessors(multiprocessors);
    let (forward, backward) = (
        ForwardPlan::new(&problem, &device).expect("a plan"),
        BackwardPlan::new(&problem, &device).expect("a plan"),
    );
    [forward.launches(), backward.launches()].concat()
}

#[test]
fn the_cases_launch_every_kernel_of_a_layer() {
    fn launched<T: Number>(to: &mut HashSet<Variant>) {
        for case in [ranks(), edges(), placements(), devices(), split_depth()].concat() {
            to.extend(launches::<T>(&case).iter().map(|launch| launch.variant));
        }
    }
    let mut variants = HashSet::new();
    launched::<bf16>(&mut variants);
    launched::<f16>(&mut variants);
    launched::<f32>(&mut variants);
    // Merges, few tokens and rows of several adapters have their own cases, and so have Hopper's
    // kernels.
    let layers = Variant::all().filter(|variant| {
        use Operation::{Forward, GradA, GradB, GradX, Shrink};
        let of_layers = [Shrink, Forward, GradB, GradA, GradX];
        of_layers.contains(&variant.operation) && variant.arch == Arch::Sm80
    });
    let missing = layers.filter(|variant| !variants.contains(variant));
    let missing: Vec<&str> = missing.map(Variant::symbol).collect();
    assert!(missing.is_empty(), "no case launches {missing:#?}");
}

/// The cases cover turns that walk K backwards, splits of K, and both together.
#[test]
fn the_cases_take_turns_and_split_the_depth() {
    let all = [devices(), split_depth()].concat();
    let schedules: Vec<_> = all
        .iter()
        .flat_map(|case| [launches::<bf16>(case), launches::<f32>(case)].concat())
        .filter_map(|launch| launch.schedule)
        .collect();
    assert!(schedules.iter().any(|schedule| schedule.serpentine));
    assert!(
        schedules
            .iter()
            .any(|schedule| schedule.serpentine && schedule.splits > 1)
    );
    assert!(
        schedules
            .iter()
            .any(|schedule| schedule.group_n < schedule.tiles_n)
    );
    for case in split_depth() {
        let splits = |launch: &Launch| launch.schedule.is_some_and(|schedule| schedule.splits > 1);
        assert!(launches::<bf16>(&case).iter().any(splits), "{case:?}");
    }
}
