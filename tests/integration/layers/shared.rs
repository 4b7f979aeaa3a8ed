//! Several projections that share x: the sizes of grouped-query attention, of a gated MLP, of fused
//! weights that are partly adapted, and the largest number of projections.

use crate::common::data::Placement::{AlignedView, OddView};
use crate::common::device::Number;
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};
use lora_kernels::Role;

/// Query, key and value. Key and value have a quarter of the heads and another rank.
fn qkv() -> LayerCase {
    LayerCase::sharing_x(100, 192, &[(192, 16), (48, 8), (48, 8)])
}

fn gate_and_up() -> LayerCase {
    LayerCase::sharing_x(70, 136, &[(264, 24), (264, 24)])
}

/// loralib's `MergedLinear`: a fused query, key and value, whose key has no adapter.
fn merged_linear() -> LayerCase {
    LayerCase::sharing_x(65, 128, &[(128, 8), (128, 0), (128, 8)])
}

fn eight() -> LayerCase {
    let sizes = [
        (8, 1),
        (24, 0),
        (72, 17),
        (16, 16),
        (40, 3),
        (8, 0),
        (136, 33),
        (64, 5),
    ];
    LayerCase::sharing_x(33, 72, &sizes)
}

/// A layer whose blocks share the tiles of y if there are many multiprocessors.
fn deep() -> LayerCase {
    LayerCase::sharing_x(33, 1040, &[(40, 3), (72, 0), (8, 16)])
}

fn cases() -> Vec<LayerCase> {
    let all = [qkv(), gate_and_up(), merged_linear(), eight(), deep()].into_iter();
    all.flat_map(|case| {
        [
            case.clone().dropout(0.1),
            case.clone().multiprocessors(1).transposed(true),
            case.clone()
                .dropout(0.2)
                .redrawn(true)
                .multiprocessors(1000),
            case.clone().placed(AlignedView).dropout(0.3),
            case.clone().placed(OddView).bias(false),
            case.placed(OddView)
                .dropout(0.3)
                .transposed(true)
                .input_gradient(false),
        ]
    })
    .collect()
}

fn each_projection_is_the_references<T: Number>() {
    for case in cases() {
        TestLayer::<T>::random(&case).check();
    }
}

/// Each projection's tensors have a placement of their own.
fn each_projection_has_a_place_of_its_own<T: Number>() {
    for tensor in Role::ALL {
        let case = merged_linear()
            .dropout(0.1)
            .with_placement_of(2, tensor, OddView);
        TestLayer::<T>::random(&case).check();
    }
}

/// Separate calls compute the same results for each projection as a shared call, and their dx add
/// up.
fn separate_calls_agree<T: Number>() {
    for case in [qkv(), merged_linear().dropout(0.3)] {
        let layer = TestLayer::<T>::random(&case);
        let (forward, backward) = layer.check();
        let mut dx = vec![0.0; case.tokens * case.in_features];
        for (i, sizes) in case
            .projections
            .iter()
            .enumerate()
            .filter(|(_, sizes)| sizes.rank > 0)
        {
            let mut alone = layer.clone();
            alone.case.projections = vec![sizes.clone()];
            alone.projections = vec![layer.projections[i].clone()];
            let (own_forward, own_backward) = alone.check();
            for (name, given, expected) in [
                ("y", &forward.y[i], &own_forward.y[0]),
                (
                    "d_lora_A",
                    &backward.gradients[i].as_ref().unwrap().a,
                    &own_backward.lora().a,
                ),
                (
                    "d_lora_B",
                    &backward.gradients[i].as_ref().unwrap().b,
                    &own_backward.lora().b,
                ),
            ] {
                let difference =
                    lora_kernels::reference::cosine_difference(&given.rows(), &expected.rows());
                assert!(
                    difference < 1e-5,
                    "{name} of projection {i}: {difference:e}"
                );
            }
            let own = own_backward.dx().rows();
            dx.iter_mut()
                .zip(own)
                .for_each(|(sum, value)| *sum += value.to_f64());
        }
        if case.projections.iter().all(|sizes| sizes.rank > 0) {
            let difference = lora_kernels::reference::cosine_difference(&backward.dx().rows(), &dx);
            assert!(difference < 1e-5, "dx: {difference:e}");
        }
    }
}

/// The inputs of one projection don't affect the results of another.
fn a_projection_does_not_depend_on_the_others<T: Number>() {
    let layer = TestLayer::<T>::random(&qkv().dropout(0.1));
    let mut other = layer.clone();
    let changed = &mut other.projections[1];
    changed.weight = changed.weight.map(|_, _, value| -value);
    changed.dy = changed.dy.map(|_, _, value| 1.0 - value);
    let lora = changed.lora.as_mut().unwrap();
    lora.a = lora.a.map(|_, _, value| 0.5 - value);
    lora.b = lora.b.map(|_, _, value| 2.0 * value);
    let without = |layer: &TestLayer<T>| {
        let mut written = layer.written();
        written.retain(|(name, _)| !name.ends_with('1') && name != "saved" && name != "dx");
        written
    };
    assert_same_bits(&without(&other), &without(&layer), "with another key");
}

/// The largest number of projections; only the last has an adapter.
fn the_last_of_eight_alone_is_adapted<T: Number>() {
    let mut sizes = [(24, 0); 8];
    sizes[7] = (40, 6);
    for case in [
        LayerCase::sharing_x(40, 96, &sizes).dropout(0.2),
        LayerCase::sharing_x(40, 96, &sizes)
            .multiprocessors(1000)
            .placed(OddView),
    ] {
        TestLayer::<T>::random(&case).check();
    }
}

for_each_dtype!(
    each_projection_is_the_references,
    each_projection_has_a_place_of_its_own,
    separate_calls_agree,
    a_projection_does_not_depend_on_the_others,
    the_last_of_eight_alone_is_adapted,
);
