//! Random layers: sizes, ranks, projections, placements of each tensor, dropout, scalings, types
//! and devices beyond those in tables.

use crate::common::case::OUTPUTS;
use crate::common::data::Placement;
use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer};
use lora_kernels::{DType, Role};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The number of layers of a type. `cargo xtask test` repeats some of the 16-bit ones with the
/// other tensor-core models, and `hopper` some on an H100, whose tiles are larger. Layers in f32
/// take about five times as long to emulate, and go through the same code but for the products
/// themselves.
fn cases(dtype: DType) -> u32 {
    let is_hopper = gpu().kernels.props().compute_capability() == (9, 0);
    match (std::env::var_os("PTX_EMULATOR_NUMERICS"), dtype) {
        _ if is_hopper => 60,
        (Some(_), _) => 250,
        (None, DType::F32) => 350,
        (None, _) => 700,
    }
}

/// Mostly small sizes. Those around the sizes of tiles and vectors are as likely as all others
/// together.
fn size() -> impl Strategy<Value = usize> {
    let edges = select(vec![
        1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 72, 127, 128, 129, 136,
    ]);
    prop_oneof![2 => edges, 1 => 1usize..100, 1 => (1usize..25).prop_map(|eights| 8 * eights)]
}

/// (out_features, rank) of each projection.
fn projections() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let rank = || prop_oneof![3 => 1usize..20, 1 => 1usize..100];
    let adapted = || (size(), rank());
    let more = prop::collection::vec((size(), prop_oneof![1 => Just(0), 3 => rank()]), 1..4);
    let several =
        (adapted(), more, any::<prop::sample::Index>()).prop_map(|(adapted, mut all, at)| {
            all.insert(at.index(all.len() + 1), adapted);
            all.iter_mut()
                .for_each(|(out_features, _)| *out_features = (*out_features).min(72));
            all
        });
    prop_oneof![2 => adapted().prop_map(|single| vec![single]), 1 => several]
}

/// The same placement for all tensors, or one for each.
fn placements(count: usize) -> impl Strategy<Value = Vec<Placement>> {
    let any_place = || {
        select(vec![
            Placement::Dense,
            Placement::AlignedView,
            Placement::OddView,
        ])
    };
    let mixed = prop::collection::vec(any_place(), count);
    prop_oneof![2 => any_place().prop_map(move |placement| vec![placement; count]), 1 => mixed]
}

fn case() -> impl Strategy<Value = LayerCase> {
    // A few layers have so large a K that blocks share tiles.
    let in_features = prop_oneof![15 => size(), 1 => 1024usize..1200];
    let sizes = (size(), in_features, projections());
    let scalings = prop::collection::vec(-3.0f32..3.0, 8);
    let dropout = (prop::option::of(0.0f32..0.9), any::<bool>());
    let accumulate = prop_oneof![1 => Just(vec![]), 1 => subsequence(OUTPUTS.to_vec(), 0..=4)];
    let multiprocessors = select(vec![1u32, 4, 108, 1000]);
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.8));
    let rest = (scalings, dropout, accumulate, multiprocessors, flags);
    let placed = sizes.prop_flat_map(|sizes| {
        let count = Role::ALL.len() * sizes.2.len();
        (Just(sizes), placements(count))
    });
    (placed, rest).prop_map(|(((m, k, projections), placements), rest)| {
        let (
            scalings,
            (dropout, redrawn),
            accumulate,
            multiprocessors,
            (bias, transposed, input_gradient),
        ) = rest;
        let mut case = LayerCase::sharing_x(m, k, &projections)
            .bias(bias)
            .transposed(transposed)
            .input_gradient(input_gradient)
            .redrawn(redrawn)
            .accumulate(&accumulate)
            .multiprocessors(multiprocessors);
        for (sizes, scaling) in case.projections.iter_mut().zip(scalings) {
            sizes.scaling = scaling;
        }
        for (i, placements) in placements.chunks(Role::ALL.len()).enumerate() {
            for (tensor, &placement) in Role::ALL.into_iter().zip(placements) {
                case = case.with_placement_of(i, tensor, placement);
            }
        }
        dropout.into_iter().fold(case, LayerCase::dropout)
    })
}

/// The layers are the same on every run. A failing layer is shrunk to the smallest one that fails.
fn agree_with_the_reference<T: Number>() {
    let config = Config {
        cases: cases(T::DTYPE),
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    // A third of the 16-bit layers have adapters in f32.
    let wide = prop::bool::weighted(0.33).prop_map(|wide| wide && T::DTYPE != DType::F32);
    let result = runner.run(&(case(), wide), |(case, wide)| {
        if wide {
            TestLayer::<T, f32>::random(&case).check();
        } else {
            TestLayer::<T>::random(&case).check();
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

for_each_dtype!(agree_with_the_reference);
