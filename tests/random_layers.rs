//! Random layers: sizes, ranks, placements of each tensor, dropout, scaling and devices that no table thought of.

mod common;

use common::data::Placement;
use common::device::Number;
use common::layer::{Case, Layer};
use lora_kernels::Tensor;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Mostly small, with the sizes around tiles and vectors as likely as all others together.
fn size() -> impl Strategy<Value = usize> {
    let edges = prop::sample::select(vec![1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129]);
    prop_oneof![edges, 1usize..200]
}

fn placement() -> impl Strategy<Value = Placement> {
    prop::sample::select(vec![Placement::Dense, Placement::AlignedView, Placement::OddView])
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (size(), size(), size(), prop_oneof![1usize..20, 1usize..100]);
    let dropout = prop::option::of(0.0f32..0.9);
    let multiprocessors = prop::sample::select(vec![1u32, 4, 108, 1000]);
    let placements = prop::collection::vec(placement(), Tensor::ALL.len());
    (sizes, any::<bool>(), dropout, -3.0f32..3.0, multiprocessors, placements).prop_map(
        |((m, k, n, r), bias, dropout, scaling, multiprocessors, placements)| {
            let case = Case::new(m, k, n, r)
                .bias(bias)
                .scaling(scaling)
                .multiprocessors(multiprocessors);
            let case = Tensor::ALL
                .into_iter()
                .zip(placements)
                .fold(case, |case, (tensor, placement)| case.with_placement(tensor, placement));
            dropout.into_iter().fold(case, |case, p| case.dropout(p))
        },
    )
}

/// The same layers on every run; a failing one is shrunk to the smallest that fails.
fn agree_with_the_reference<T: Number>() {
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let result = runner.run(&case(), |case| {
        Layer::<T>::random(&case).check();
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

for_each_dtype!(agree_with_the_reference);
