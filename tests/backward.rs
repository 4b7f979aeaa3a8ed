//! What backward promises beyond single sizes: repeatable bits, exact special cases, gradients that are overwritten and
//! not added to.

mod common;

use common::check::bits;
use common::data::{Placed, Placement};
use common::device::Number;
use common::layer::{BackwardRun, Case, Layer};
use lora_kernels::reference::{self, Intermediates};

fn case() -> Case {
    of_rank(24)
}

/// Ranks up to 16 have kernels of their own.
fn of_rank(rank: usize) -> Case {
    Case::new(150, 200, 150, rank).dropout(0.1)
}

fn all_bits<T: Number>(run: &BackwardRun<T>) -> [Vec<u8>; 3] {
    [bits(&run.dx), bits(&run.d_lora_a), bits(&run.d_lora_b)]
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
            let layer = Layer::<T>::random(&case);
            let saved = layer.forward().saved;
            let (first, second) = (layer.backward(&saved), layer.backward(&saved));
            assert!(all_bits(&first) == all_bits(&second), "{case:?}");
        }
    }
}

fn placement_does_not_change_the_bits<T: Number>() {
    for rank in [3, 8, 24] {
        let dense = Layer::<T>::random(&of_rank(rank));
        let expected = dense.backward(&dense.forward().saved);
        for placement in [Placement::AlignedView, Placement::OddView] {
            let moved = dense.moved(placement);
            let run = moved.backward(&moved.forward().saved);
            assert!(all_bits(&run) == all_bits(&expected), "rank {rank}, {placement:?}");
        }
    }
}

fn no_gradient_in_means_none_out<T: Number>() {
    let mut layer = Layer::<T>::random(&case());
    layer.dy = Placed::from_rows(&[T::from_f64(0.0); 150 * 150], 150, 150, Placement::Dense);
    let run = layer.backward(&layer.forward().saved);
    for (name, gradient) in [
        ("dx", &run.dx),
        ("d_lora_A", &run.d_lora_a),
        ("d_lora_B", &run.d_lora_b),
    ] {
        assert!(gradient.rows().iter().all(|value| value.to_f64() == 0.0), "{name}");
    }
}

/// Gradients are linear in dy, and doubling is exact in every type, as long as no number is subnormal: hence the large
/// dy.
fn twice_the_gradient_in_is_twice_the_gradient_out<T: Number>() {
    let times = |factor: f64, matrix: &Placed<T>| -> Vec<T> {
        let values = matrix.rows().into_iter();
        values.map(|value| T::from_f64(factor * value.to_f64())).collect()
    };
    let with_dy = |factor: f64| {
        let mut layer = Layer::<T>::random(&case());
        layer.dy = Placed::from_rows(
            &times(factor, &layer.dy),
            layer.dy.rows,
            layer.dy.cols,
            Placement::Dense,
        );
        layer.backward(&layer.forward().saved)
    };
    let (once, twice) = (with_dy(256.0), with_dy(512.0));
    assert!(twice.d_lora_a.rows() == times(2.0, &once.d_lora_a), "d_lora_A");
    assert!(twice.d_lora_b.rows() == times(2.0, &once.d_lora_b), "d_lora_B");
    assert!(twice.dx.rows() == times(2.0, &once.dx), "dx");
}

/// Where lora_B is zero, as at the start of a training, T is: only lora_B has a gradient, and dx is the base layer's.
fn a_fresh_adapter_has_a_gradient_in_lora_b_only<T: Number>() {
    let mut layer = Layer::<T>::random(&case());
    layer.lora_b = Placed::from_rows(&[T::from_f64(0.0); 150 * 24], 150, 24, Placement::Dense);
    let (_, run) = layer.check();
    assert!(run.d_lora_a.rows().iter().all(|value| value.to_f64() == 0.0));
    assert!(run.d_lora_b.rows().iter().all(|value| value.to_f64() != 0.0));
}

/// With small integers every sum is exact, whatever its order and however it is split: the result is right to the last
/// bit or wrong.
fn integers_are_exact<T: Number>() {
    let (m, k, n) = (100, 70, 90);
    for (r, multiprocessors) in [3, 8, 20].into_iter().flat_map(|r| [(r, 1), (r, 1000)]) {
        let case = Case::new(m, k, n, r).scaling(2.0).multiprocessors(multiprocessors);
        let mut layer = Layer::<T>::random(&case);
        // One element per row: S and T hold small integers that every type keeps, and so does everything after.
        let selecting = |rows: usize, cols: usize| {
            let values: Vec<T> = (0..rows * cols)
                .map(|i| T::from_f64(if i / cols % cols == i % cols { 1.0 } else { 0.0 }))
                .collect();
            Placed::from_rows(&values, rows, cols, Placement::Dense)
        };
        let signs = |rows: usize, cols: usize, step: usize| {
            let values: Vec<T> = (0..rows * cols)
                .map(|i| T::from_f64(((i * step + i / cols) % 3) as f64 - 1.0))
                .collect();
            Placed::from_rows(&values, rows, cols, Placement::Dense)
        };
        layer.x = signs(m, k, 7);
        layer.weight = signs(n, k, 5);
        layer.dy = selecting(m, n);
        layer.lora_a = selecting(r, k);
        layer.lora_b = selecting(n, r);
        let expected =
            reference::backward(&layer.reference(), layer.dy.view(), T::DTYPE, Intermediates::Exact).unwrap();
        let run = layer.backward(&layer.forward().saved);
        for (name, given, expected) in [
            ("dx", &run.dx, &expected.dx),
            ("d_lora_A", &run.d_lora_a, &expected.d_lora_a),
            ("d_lora_B", &run.d_lora_b, &expected.d_lora_b),
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
            assert!(
                given == expected.value,
                "{name}, rank {r}, {multiprocessors} multiprocessors"
            );
        }
    }
}

for_each_dtype!(
    two_runs_give_the_same_bits,
    placement_does_not_change_the_bits,
    no_gradient_in_means_none_out,
    twice_the_gradient_in_is_twice_the_gradient_out,
    a_fresh_adapter_has_a_gradient_in_lora_b_only,
    integers_are_exact,
);
