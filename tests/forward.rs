//! What forward promises beyond single sizes: repeatable bits, exact special cases, nothing taken from memory it was
//! not given.

mod common;

use common::check::bits;
use common::data::{Placed, Placement};
use common::device::Number;
use common::layer::{Case, Layer};
use lora_kernels::reference::{self, Intermediates};

/// Ranks up to 16 have kernels of their own.
fn of_rank(rank: usize) -> Case {
    Case::new(77, 200, 150, rank).dropout(0.1)
}

fn two_runs_give_the_same_bits<T: Number>() {
    for rank in [3, 8, 24] {
        let case = of_rank(rank);
        for case in [
            case.clone(),
            case.clone().placed(Placement::OddView),
            case.clone().multiprocessors(1),
        ] {
            let layer = Layer::<T>::random(&case);
            let (first, second) = (layer.forward(), layer.forward());
            assert_eq!(bits(&first.y), bits(&second.y), "{case:?}");
            assert_eq!(first.saved, second.saved, "{case:?}");
        }
    }
}

/// Sums run in the same order whatever the strides and alignments of a layer.
fn placement_does_not_change_the_bits<T: Number>() {
    for rank in [3, 8, 24] {
        let dense = Layer::<T>::random(&of_rank(rank));
        let expected = dense.forward();
        for placement in [Placement::AlignedView, Placement::OddView] {
            let run = dense.moved(placement).forward();
            assert_eq!(bits(&run.y), bits(&expected.y), "rank {rank}, {placement:?}");
            assert_eq!(run.saved, expected.saved, "rank {rank}, {placement:?}");
        }
    }
}

fn a_row_does_not_depend_on_the_others<T: Number>() {
    let all = Layer::<T>::random(&Case::new(77, 200, 150, 24));
    let y = all.forward().y.rows();
    let mut one = Layer::<T>::random(&Case::new(1, 200, 150, 24));
    for row in [0, 63, 76] {
        one.x = Placed::from_rows(&all.x.rows()[row * 200..][..200], 1, 200, Placement::Dense);
        let given = one.forward().y.rows();
        assert_eq!(given, y[row * 150..][..150], "row {row}");
    }
}

/// W·x where the adapter is off is exactly what a layer without one gives.
fn zero_scaling_or_zero_lora_b_leave_the_base_layer<T: Number>() {
    let layer = Layer::<T>::random(&Case::new(33, 80, 48, 8).scaling(0.0));
    let base = layer.forward();
    layer.check_forward(&base);
    let mut layer = Layer::<T>::random(&Case::new(33, 80, 48, 8));
    layer.lora_b = Placed::from_rows(&[T::from_f64(0.0); 48 * 8], 48, 8, Placement::Dense);
    assert_eq!(layer.forward().y.rows(), base.y.rows());
}

fn scalings_of_both_signs_and_many_sizes<T: Number>() {
    for scaling in [-2.0, 0.125, 1.0, 16.0 / 3.0, 60.0] {
        for p in [0.0, 0.5] {
            let layer = Layer::<T>::random(&Case::new(20, 96, 40, 12).scaling(scaling).dropout(p));
            layer.check();
        }
    }
}

/// With small integers every sum is exact, whatever its order: the result is right to the last bit or wrong.
fn integers_are_exact<T: Number>() {
    let (m, k, n) = (50, 70, 90);
    for r in [3, 8, 20] {
        let mut layer = Layer::<T>::random(&Case::new(m, k, n, r).scaling(2.0));
        let whole = |matrix: &Placed<T>, largest: i64| {
            let values: Vec<T> = (0..matrix.rows * matrix.cols)
                .map(|i| T::from_f64(((i as i64 * 7919) % (2 * largest + 1) - largest) as f64))
                .collect();
            Placed::from_rows(&values, matrix.rows, matrix.cols, Placement::Dense)
        };
        layer.x = whole(&layer.x, 1);
        layer.weight = whole(&layer.weight, 1);
        layer.bias = layer.bias.as_ref().map(|bias| whole(bias, 3));
        // One element of A per row: S holds small integers that every type keeps.
        let selects = |i: usize| if i / k == i % k { 1.0 } else { 0.0 };
        let lora_a: Vec<T> = (0..r * k).map(|i| T::from_f64(selects(i))).collect();
        layer.lora_a = Placed::from_rows(&lora_a, r, k, Placement::Dense);
        layer.lora_b = whole(&layer.lora_b, 1);
        let expected = reference::forward(&layer.reference(), T::DTYPE, Intermediates::Exact)
            .unwrap()
            .y;
        assert!(
            expected.value.iter().all(|value| value.abs() <= 256.0),
            "every type holds the results exactly"
        );
        let given: Vec<f64> = layer.forward().y.rows().into_iter().map(T::to_f64).collect();
        assert_eq!(given, expected.value, "rank {r}");
    }
}

/// A NaN or an infinity in a row of x shows in that row of y and in no other.
fn a_nan_stays_in_its_row<T: Number>() {
    let case = Case::new(70, 100, 60, 8);
    let mut layer = Layer::<T>::random(&case);
    let clean = layer.forward().y.rows();
    let at = layer.x.start + 65 * layer.x.row_stride + 99;
    layer.x.buffer[at] = T::from_f64(f64::NAN);
    let y = layer.forward().y.rows();
    assert!(y[65 * 60..66 * 60].iter().all(|value| value.to_f64().is_nan()));
    assert_eq!(y[..65 * 60], clean[..65 * 60]);
    assert_eq!(y[66 * 60..], clean[66 * 60..]);
}

for_each_dtype!(
    two_runs_give_the_same_bits,
    placement_does_not_change_the_bits,
    a_row_does_not_depend_on_the_others,
    zero_scaling_or_zero_lora_b_leave_the_base_layer,
    scalings_of_both_signs_and_many_sizes,
    integers_are_exact,
    a_nan_stays_in_its_row,
);
