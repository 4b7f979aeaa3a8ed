//! Properties of backward for all sizes: repeatable bits, exact special cases, gradients that are
//! overwritten and not added to, and no dx if none is wanted.

use crate::common::call::BackwardCall;
use crate::common::data::{Placed, Placement};
use crate::common::device::{Number, gpu};
use crate::common::layer::{BackwardRun, LayerCase, TestLayer, assert_same_bits};
use lora_kernels::reference::Intermediates;

fn case() -> LayerCase {
    of_rank(24)
}

fn of_rank(rank: usize) -> LayerCase {
    LayerCase::new(150, 200, 150, rank).dropout(0.1)
}

fn two_runs_give_the_same_bits<T: Number>() {
    for rank in [3, 8, 24] {
        let case = of_rank(rank);
        for case in [
            case.clone(),
            case.clone().placed(Placement::OddView),
            case.clone().multiprocessors(1),
            case.clone().multiprocessors(1000),
        ] {
            let layer = TestLayer::<T>::random(&case);
            let saved = layer.forward().saved;
            let (first, second) = (layer.backward(&saved).bits(), layer.backward(&saved).bits());
            assert_same_bits(&second, &first, &format!("{case:?}"));
        }
    }
}

/// The workspace needn't be reset between calls.
fn two_runs_in_the_same_memory_give_the_same_bits<T: Number>() {
    for multiprocessors in [1, 1000] {
        let layer = TestLayer::<T>::random(
            &LayerCase::new(130, 72, 1032, 8).multiprocessors(multiprocessors),
        );
        let (plan, saved) = (layer.backward_plan(), layer.forward().saved);
        let mut call = BackwardCall::new(&layer, &plan, &saved);
        let mut run = || {
            call.run(&gpu().stream, &plan).expect("backward runs");
            call.read_back().bits()
        };
        let first = run();
        assert_same_bits(&run(), &first, "the second run");
    }
}

/// The order of sums doesn't depend on the placement of tensors.
fn placement_does_not_change_the_bits<T: Number>() {
    for rank in [3, 8, 24] {
        let case = LayerCase::new(150, 200, 152, rank).dropout(0.1);
        let layer = TestLayer::<T>::random(&case.placed(Placement::AlignedView));
        let moved = layer.moved(Placement::Dense);
        let variants = |layer: &TestLayer<T>| -> Vec<_> {
            let plan = layer.backward_plan();
            plan.launches()
                .iter()
                .map(|launch| launch.variant)
                .collect()
        };
        assert_eq!(variants(&layer), variants(&moved));
        let saved = layer.forward().saved;
        let expected = layer.backward(&saved).bits();
        assert_same_bits(
            &moved.backward(&saved).bits(),
            &expected,
            &format!("rank {rank}"),
        );
    }
}

/// Leaving out dx doesn't change the other gradients, because they use the same kernels.
fn without_dx_the_others_are_the_same<T: Number>() {
    for case in [
        case(),
        case().placed(Placement::OddView),
        case().multiprocessors(1000),
    ] {
        let layer = TestLayer::<T>::random(&case);
        let saved = layer.forward().saved;
        let with = layer.backward(&saved).bits();
        let without = TestLayer::<T>::random(&case.input_gradient(false));
        let run = without.backward(&saved);
        without.check_backward(&run);
        assert_same_bits(&run.bits(), &with[1..], "without dx");
    }
}

fn all_zero<T: Number>(matrix: &Placed<T>) -> bool {
    matrix.rows().iter().all(|value| value.to_f64() == 0.0)
}

fn no_gradient_in_means_none_out<T: Number>() {
    let mut layer = TestLayer::<T>::random(&case());
    layer.first().dy = layer.first().dy.map(|_, _, _| 0.0);
    let run = layer.backward(&layer.forward().saved);
    assert!(all_zero(run.dx()) && all_zero(&run.lora().a) && all_zero(&run.lora().b));
}

/// Gradients are linear in dy, and doubling is exact in every type unless numbers are subnormal,
/// which the large dy avoids.
fn twice_the_gradient_in_is_twice_the_gradient_out<T: Number>() {
    let times = |factor: f64, matrix: &Placed<T>| matrix.map(|_, _, value| factor * value);
    let with_dy = |factor: f64| -> BackwardRun<T> {
        let mut layer = TestLayer::<T>::random(&case());
        layer.first().dy = times(factor, &layer.first().dy);
        layer.backward(&layer.forward().saved)
    };
    let (once, twice) = (with_dy(256.0), with_dy(512.0));
    for (name, once, twice) in [
        ("dx", once.dx(), twice.dx()),
        ("d_lora_A", &once.lora().a, &twice.lora().a),
        ("d_lora_B", &once.lora().b, &twice.lora().b),
    ] {
        assert!(twice.rows() == times(2.0, once).rows(), "{name}");
    }
}

/// If lora_B is zero, as at the start of training, T is zero too. Then only lora_B has a gradient,
/// and dx is the base layer's.
fn a_fresh_adapter_has_a_gradient_in_lora_b_only<T: Number>() {
    let mut layer = TestLayer::<T>::random(&case());
    layer.lora().b = layer.lora().b.map(|_, _, _| 0.0);
    let (_, run) = layer.check();
    assert!(all_zero(&run.lora().a));
    assert!(
        run.lora()
            .b
            .rows()
            .iter()
            .all(|value| value.to_f64() != 0.0)
    );
}

/// With small integers every sum is exact in any order and split, so the result must be right to
/// the last bit.
fn integers_are_exact<T: Number>() {
    for (r, multiprocessors) in [3, 8, 20].into_iter().flat_map(|r| [(r, 1), (r, 1000)]) {
        for transposed in [false, true] {
            let case = LayerCase::new(100, 70, 90, r)
                .scaling(2.0)
                .transposed(transposed);
            let mut layer = TestLayer::<T>::random(&case.multiprocessors(multiprocessors));
            // One element per row, so that S, T and all later values are small integers that every
            // type represents.
            let selecting = |matrix: &Placed<T>| {
                let cols = matrix.cols;
                matrix.map(|row, col, _| if row % cols == col { 1.0 } else { 0.0 })
            };
            let signs = |matrix: &Placed<T>, step: usize| {
                let cols = matrix.cols;
                matrix.map(|row, col, _| (((row * cols + col) * step + row) % 3) as f64 - 1.0)
            };
            layer.x = signs(&layer.x, 7);
            let projection = layer.first();
            projection.weight = signs(&projection.weight, 5);
            projection.dy = selecting(&projection.dy);
            let lora = layer.lora();
            lora.a = selecting(&lora.a);
            lora.b = selecting(&lora.b);
            let expected = layer.expected_backward(Intermediates::Exact);
            let adapter = expected.adapters[0].as_ref().unwrap();
            let run = layer.backward(&layer.forward().saved);
            for (name, given, expected) in [
                ("dx", run.dx(), &expected.dx),
                ("d_lora_A", &run.lora().a, &adapter.d_lora_a),
                ("d_lora_B", &run.lora().b, &adapter.d_lora_b),
            ] {
                assert!(
                    expected.value.iter().all(|value| value.abs() <= 256.0),
                    "every type holds {name} exactly"
                );
                assert!(
                    expected.value.iter().any(|&value| value != 0.0),
                    "{name} is not all zeros"
                );
                let given: Vec<f64> = given.rows().into_iter().map(T::to_f64).collect();
                assert!(given == expected.value, "{name}: {:?}", layer.case);
            }
        }
    }
}

for_each_dtype!(
    two_runs_give_the_same_bits,
    two_runs_in_the_same_memory_give_the_same_bits,
    placement_does_not_change_the_bits,
    without_dx_the_others_are_the_same,
    no_gradient_in_means_none_out,
    twice_the_gradient_in_is_twice_the_gradient_out,
    a_fresh_adapter_has_a_gradient_in_lora_b_only,
    integers_are_exact,
);
