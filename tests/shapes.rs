//! Forward and backward against the f64 reference over sizes, ranks, types and placements in memory.

mod common;

use std::collections::HashSet;

use common::data::Placement::{AlignedView, Dense, OddView};
use common::device::Number;
use common::layer::{Case, Layer};
use half::{bf16, f16};
use lora_kernels::Tensor;
use lora_kernels::plan::Variant;

/// Every rank that peers got wrong, on a layer of odd and even sizes.
fn ranks() -> Vec<Case> {
    let sizes = [(17, 896, 128), (128, 130, 71)];
    let ranks = [1, 3, 8, 16, 24, 64, 320];
    let cases = sizes
        .into_iter()
        .flat_map(|(m, k, n)| ranks.map(|r| Case::new(m, k, n, r)));
    // Half of them with dropout, and each rank once with and once without.
    cases
        .enumerate()
        .map(|(i, case)| if i % 2 == 0 { case.dropout(0.1) } else { case })
        .collect()
}

/// All sizes from one element to just past a tile's or a vector's edge.
fn edges() -> Vec<Case> {
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
            cases.push(Case::new(m, k, n, r).placed(placement).dropout(0.3));
        }
    }
    cases
}

/// Matrices that are views into larger ones, and mixtures: each tensor of the layer by itself keeps kernels from wide
/// loads or stores.
fn placements() -> Vec<Case> {
    let case = Case::new(130, 200, 136, 24).dropout(0.2);
    let alone = Tensor::ALL.into_iter().flat_map(|tensor| {
        let case = &case;
        [
            case.clone().with_placement(tensor, OddView),
            case.clone().placed(OddView).with_placement(tensor, AlignedView),
        ]
    });
    [Dense, AlignedView, OddView]
        .map(|placement| case.clone().placed(placement))
        .into_iter()
        .chain(alone)
        .collect()
}

/// Plans for devices of other sizes: one multiprocessor takes wide tiles and a single split, a thousand take small
/// tiles and many splits.
fn devices() -> Vec<Case> {
    let mut cases = Vec::new();
    for multiprocessors in [1, 1000] {
        for (m, k, n, r) in [(300, 96, 264, 8), (300, 96, 264, 40), (140, 550, 650, 24)] {
            for placement in [AlignedView, OddView] {
                cases.push(
                    Case::new(m, k, n, r)
                        .placed(placement)
                        .dropout(0.25)
                        .multiprocessors(multiprocessors),
                );
            }
        }
    }
    cases
}

/// Sizes that real models have, one or two large ones at a time: all of them at once would take minutes.
fn large() -> Vec<Case> {
    vec![
        Case::new(1, 4096, 896, 320).dropout(0.5),
        Case::new(128, 4096, 128, 64),
        Case::new(128, 130, 3696, 64).dropout(0.1),
        Case::new(4097, 896, 128, 16).dropout(0.05),
        Case::new(4097, 72, 200, 24).bias(false),
        Case::new(4097, 40, 1000, 3).placed(OddView).dropout(0.1),
        Case::new(17, 64, 50257, 8).bias(false),
        Case::new(65, 40, 50257, 24).placed(AlignedView).dropout(0.1),
    ]
}

fn check_all<T: Number>(cases: Vec<Case>) {
    for case in cases {
        Layer::<T>::random(&case).check();
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

fn every_large_size<T: Number>() {
    check_all::<T>(large());
}

for_each_dtype!(
    every_rank,
    every_edge,
    every_placement,
    every_device_size,
    every_large_size
);

#[test]
fn the_cases_launch_every_kernel_there_is() {
    fn launched<T: Number>(to: &mut HashSet<Variant>) {
        for case in [ranks(), edges(), placements(), devices()].concat() {
            to.extend(case.forward_plan::<T>().launches().iter().map(|launch| launch.variant));
            to.extend(case.backward_plan::<T>().launches().iter().map(|launch| launch.variant));
        }
    }
    let mut variants = HashSet::new();
    launched::<bf16>(&mut variants);
    launched::<f16>(&mut variants);
    launched::<f32>(&mut variants);
    let missing: Vec<_> = Variant::all().filter(|variant| !variants.contains(variant)).collect();
    assert!(missing.is_empty(), "no case launches {missing:?}");
}
