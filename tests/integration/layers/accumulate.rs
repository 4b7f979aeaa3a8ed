//! Results that are added to previous values, in f32 and rounded once.

use crate::common::case::OUTPUTS;
use crate::common::data::Placed;
use crate::common::data::Placement::{AlignedView, Dense, OddView};
use crate::common::device::Number;
use crate::common::layer::{BackwardRun, ForwardRun, LayerCase, Lora, TestLayer};
use lora_kernels::Role;

fn case() -> LayerCase {
    LayerCase::new(70, 136, 104, 20)
}

/// Several projections with so large a K that blocks share the tiles of y if there are many
/// multiprocessors.
fn shared() -> LayerCase {
    LayerCase::sharing_x(66, 1032, &[(72, 8), (40, 0), (16, 17)])
}

/// A layer whose blocks share the tiles of dx in the same way.
fn wide() -> LayerCase {
    LayerCase::sharing_x(66, 40, &[(800, 8), (240, 0)])
}

/// Each output alone and all together, added to random numbers.
fn results_are_added_to_what_was_there<T: Number>() {
    let alone = OUTPUTS.map(|tensor| vec![tensor]);
    for tensors in alone.into_iter().chain([OUTPUTS.to_vec()]) {
        for case in [
            case().dropout(0.2),
            case().placed(OddView),
            case().placed(AlignedView).multiprocessors(1),
            shared().multiprocessors(1000).dropout(0.1),
            shared()
                .placed(OddView)
                .multiprocessors(1000)
                .transposed(true),
            wide().multiprocessors(1000),
            wide()
                .multiprocessors(1000)
                .placed(AlignedView)
                .dropout(0.2),
        ] {
            TestLayer::<T>::random(&case.accumulate(&tensors)).check();
        }
    }
}

/// The gradients of an f32 adapter are added without rounding to the 16-bit type.
fn gradients_in_f32_are_added_in_f32<T: Number>() {
    for case in [case().dropout(0.2), shared().placed(OddView)] {
        TestLayer::<T, f32>::random(&case.accumulate(&OUTPUTS)).check();
    }
}

/// Small integers, for which every sum is exact.
fn integers<T: Number>(case: &LayerCase) -> TestLayer<T> {
    let mut layer = TestLayer::random(case);
    let whole =
        |matrix: &Placed<T>| matrix.map(|row, col, _| ((row * 5 + col * 7) % 3) as f64 - 1.0);
    let selecting = |matrix: &Placed<T>| {
        let cols = matrix.cols;
        matrix.map(|row, col, _| if row % cols == col { 1.0 } else { 0.0 })
    };
    layer.x = whole(&layer.x);
    for projection in &mut layer.projections {
        projection.weight = whole(&projection.weight);
        projection.bias = projection.bias.as_ref().map(whole);
        projection.dy = selecting(&projection.dy);
        if let Some(Lora { a, b }) = &mut projection.lora {
            (*a, *b) = (selecting(a), selecting(b));
        }
    }
    layer
}

/// Makes the results of a run the previous values of the next one.
fn go_on<T: Number>(layer: &mut TestLayer<T>, forward: &ForwardRun<T>, backward: &BackwardRun<T>) {
    layer.dx = backward.dx.clone();
    for (i, projection) in layer.projections.iter_mut().enumerate() {
        projection.y = forward.y[i].clone();
        projection.gradients = backward.gradients[i].clone();
    }
}

fn twice_is_double_and_a_first_time_over_zeros_is_once<T: Number>() {
    for case in [
        case().placed(Dense),
        shared().multiprocessors(1000),
        wide().placed(OddView).multiprocessors(1000),
    ] {
        let mut case = case.bias(false);
        case.projections
            .iter_mut()
            .for_each(|sizes| sizes.scaling = 2.0);
        let run = |layer: &TestLayer<T>| {
            let forward = layer.forward();
            let backward = layer.backward(&forward.saved);
            (forward, backward)
        };
        let once = run(&integers::<T>(&case));

        let mut layer = integers::<T>(&case.clone().accumulate(&OUTPUTS));
        let zeros = |matrix: &Placed<T>| matrix.map(|_, _, _| 0.0);
        layer.dx = layer.dx.as_ref().map(zeros);
        for projection in &mut layer.projections {
            projection.y = zeros(&projection.y);
            projection.gradients = (projection.gradients.as_ref()).map(|Lora { a, b }| Lora {
                a: zeros(a),
                b: zeros(b),
            });
        }
        for factor in [1.0, 2.0, 3.0] {
            let (forward, backward) = run(&layer);
            go_on(&mut layer, &forward, &backward);
            let times = |matrix: &Placed<T>| matrix.map(|_, _, value| factor * value).rows();
            for (i, y) in forward.y.iter().enumerate() {
                assert!(
                    y.rows() == times(&once.0.y[i]),
                    "y {i}, {factor} times: {case:?}"
                );
            }
            assert!(
                backward.dx().rows() == times(once.1.dx()),
                "dx, {factor} times: {case:?}"
            );
            for (i, (given, once)) in backward.gradients.iter().zip(&once.1.gradients).enumerate() {
                if let (Some(given), Some(once)) = (given, once) {
                    assert!(
                        given.a.rows() == times(&once.a),
                        "d_lora_A {i}, {factor} times: {case:?}"
                    );
                    assert!(
                        given.b.rows() == times(&once.b),
                        "d_lora_B {i}, {factor} times: {case:?}"
                    );
                }
            }
        }
    }
}

/// A previous NaN stays and doesn't spread: only the element itself is read.
fn only_the_element_itself_is_added_to<T: Number>() {
    let mut layer = TestLayer::<T>::random(&case().accumulate(&[Role::Y]));
    let clean = layer.forward().y[0].rows();
    let nan = |row, col, value| {
        if (row, col) == (33, 71) {
            f64::NAN
        } else {
            value
        }
    };
    layer.first().y = layer.first().y.map(nan);
    let given = layer.forward().y[0].rows();
    for (i, (given, clean)) in given.iter().zip(&clean).enumerate() {
        if i == 33 * 104 + 71 {
            assert!(given.to_f64().is_nan());
        } else {
            assert_eq!(given, clean, "element {i}");
        }
    }
}

for_each_dtype!(
    results_are_added_to_what_was_there,
    gradients_in_f32_are_added_in_f32,
    twice_is_double_and_a_first_time_over_zeros_is_once,
    only_the_element_itself_is_added_to,
);
