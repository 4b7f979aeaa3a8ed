//! Properties of forward for all sizes: repeatable bits, exact special cases, and no use of memory
//! outside of its tensors.

use crate::common::call::ForwardCall;
use crate::common::data::{Placed, Placement};
use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};
use lora_kernels::reference::Intermediates;

fn of_rank(rank: usize) -> LayerCase {
    LayerCase::new(77, 200, 150, rank).dropout(0.1)
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
            let (first, second) = (layer.forward().bits(), layer.forward().bits());
            assert_same_bits(&second, &first, &format!("{case:?}"));
        }
    }
}

/// The workspace needn't be reset between calls.
fn two_runs_in_the_same_memory_give_the_same_bits<T: Number>() {
    for multiprocessors in [1, 1000] {
        let layer = TestLayer::<T>::random(
            &LayerCase::new(130, 1032, 72, 8).multiprocessors(multiprocessors),
        );
        let plan = layer.forward_plan();
        assert_eq!(
            plan.workspace_bytes() > 0,
            multiprocessors > 1,
            "a thousand share tiles"
        );
        let mut call = ForwardCall::new(&layer, &plan);
        let mut run = || {
            call.run(&gpu().stream, &plan).expect("forward runs");
            call.read_back().bits()
        };
        let first = run();
        assert_same_bits(&run(), &first, "the second run");
    }
}

/// The order of sums doesn't depend on the placement of tensors.
fn placement_does_not_change_the_bits<T: Number>() {
    for rank in [3, 8, 24] {
        let layer = TestLayer::<T>::random(&of_rank(rank).placed(Placement::AlignedView));
        let moved = layer.moved(Placement::Dense);
        let variants = |layer: &TestLayer<T>| -> Vec<_> {
            let plan = layer.forward_plan();
            plan.launches()
                .iter()
                .map(|launch| launch.variant)
                .collect()
        };
        assert_eq!(variants(&layer), variants(&moved));
        assert_same_bits(
            &moved.forward().bits(),
            &layer.forward().bits(),
            &format!("rank {rank}"),
        );
    }
}

fn a_row_does_not_depend_on_the_others<T: Number>() {
    let layer = TestLayer::<T>::random(&LayerCase::new(77, 200, 150, 24));
    let y = layer.forward().y[0].rows();
    for row in [0, 63, 76] {
        let mut others = layer.clone();
        others.x = layer
            .x
            .map(|r, _, value| if r == row { value } else { 2.0 - value });
        let given = others.forward().y[0].rows();
        assert_eq!(
            given[row * 150..][..150],
            y[row * 150..][..150],
            "row {row}"
        );
        assert_ne!(given, y);
    }
}

/// A layer whose adapter contributes nothing gives the bits of a layer without one.
fn zero_scaling_or_zero_lora_b_leave_the_base_layer<T: Number>() {
    let layer = TestLayer::<T>::random(&LayerCase::new(33, 80, 48, 8).scaling(0.0));
    let base = layer.forward();
    layer.check_forward(&base);
    let mut layer = TestLayer::<T>::random(&LayerCase::new(33, 80, 48, 8));
    layer.lora().b = layer.lora().b.map(|_, _, _| 0.0);
    assert_eq!(layer.forward().y[0].rows(), base.y[0].rows());
}

fn scalings_of_both_signs_and_many_sizes<T: Number>() {
    for scaling in [-2.0, 0.125, 1.0, 16.0 / 3.0, 60.0] {
        for p in [0.0, 0.5] {
            TestLayer::<T>::random(&LayerCase::new(20, 96, 40, 12).scaling(scaling).dropout(p))
                .check();
        }
    }
}

/// With small integers every sum is exact in any order and split, so the result must be right to
/// the last bit.
fn integers_are_exact<T: Number>() {
    for (r, multiprocessors) in [3, 8, 20].into_iter().flat_map(|r| [(r, 1), (r, 1000)]) {
        for transposed in [false, true] {
            let case = LayerCase::new(50, 150, 90, r)
                .scaling(2.0)
                .transposed(transposed);
            let mut layer = TestLayer::<T>::random(&case.multiprocessors(multiprocessors));
            let whole = |matrix: &Placed<T>, largest: usize| {
                matrix.map(|row, col, _| {
                    ((row * 31 + col * 7919) % (2 * largest + 1)) as f64 - largest as f64
                })
            };
            layer.x = whole(&layer.x, 1);
            let projection = layer.first();
            projection.weight = whole(&projection.weight, 1);
            projection.bias = projection.bias.as_ref().map(|bias| whole(bias, 3));
            let lora = layer.lora();
            // One element of A per row, so that S holds small integers that every type represents.
            lora.a = lora.a.map(|row, col, _| if row == col { 1.0 } else { 0.0 });
            lora.b = whole(&lora.b, 1);
            let expected = &layer.expected_forward(Intermediates::Exact).y[0];
            assert!(
                expected.value.iter().all(|value| value.abs() <= 256.0),
                "every type holds the results exactly"
            );
            let given: Vec<f64> = layer.forward().y[0]
                .rows()
                .into_iter()
                .map(T::to_f64)
                .collect();
            assert_eq!(given, expected.value, "{:?}", layer.case);
        }
    }
}

/// A NaN or an infinity in a row of x affects only that row of y.
fn a_nan_stays_in_its_row<T: Number>() {
    let mut layer = TestLayer::<T>::random(&LayerCase::new(70, 100, 60, 8));
    let clean = layer.forward().y[0].rows();
    let nan = |row, col, value| {
        if (row, col) == (65, 99) {
            f64::NAN
        } else {
            value
        }
    };
    layer.x = layer.x.map(nan);
    let y = layer.forward().y[0].rows();
    assert!(
        y[65 * 60..66 * 60]
            .iter()
            .all(|value| value.to_f64().is_nan())
    );
    assert_eq!(y[..65 * 60], clean[..65 * 60]);
    assert_eq!(y[66 * 60..], clean[66 * 60..]);
}

for_each_dtype!(
    two_runs_give_the_same_bits,
    two_runs_in_the_same_memory_give_the_same_bits,
    placement_does_not_change_the_bits,
    a_row_does_not_depend_on_the_others,
    zero_scaling_or_zero_lora_b_leave_the_base_layer,
    scalings_of_both_signs_and_many_sizes,
    integers_are_exact,
    a_nan_stays_in_its_row,
);
