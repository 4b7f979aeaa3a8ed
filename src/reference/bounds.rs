//! Error bounds and their propagation: from a sum to a stored value, and from there into the next
//! product.

use super::product::{Product, product};
use super::rounding::Precision;
use super::view::View;
use crate::Element;

/// The unit roundoff of f32, the type that the kernels accumulate in.
const F32_ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// Whether S and T are rounded between the product that computes them and the one that uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intermediates {
    /// They stay in f64: the mathematical result.
    Exact,
    /// They are rounded to the layer's type, as the kernels store them.
    Rounded,
}

/// A matrix with an error bound for each element of a correct result.
#[derive(Debug, Clone)]
pub struct Bounded {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// The values, row-major.
    pub value: Vec<f64>,
    /// The largest error of a kernel that computes and stores each element correctly.
    pub bound: Vec<f64>,
    /// The part of the bound that is due to computing, before the value is rounded to be stored.
    error: Vec<f64>,
    precision: Precision,
}

/// The error of an f32 sum of `terms` products whose absolute values add up to `magnitude`,
/// followed by a multiplication with `scalars` numbers.
pub(super) fn reduction_error(terms: usize, scalars: usize, magnitude: f64) -> f64 {
    (1.5 * terms as f64 + scalars as f64) * F32_ROUNDING * magnitude
}

/// How intermediate values are stored.
#[derive(Clone, Copy)]
pub(super) struct Store {
    pub precision: Precision,
    pub intermediates: Intermediates,
}

impl Store {
    pub(super) fn of<T: Element>(intermediates: Intermediates) -> Self {
        Self {
            precision: Precision::of(T::DTYPE),
            intermediates,
        }
    }
}

impl Bounded {
    /// Rounds final results, given each element's sum and the sum's error.
    pub(super) fn output(
        rows: usize,
        cols: usize,
        precision: Precision,
        sum: impl Fn(usize, usize) -> (f64, f64),
    ) -> Self {
        let elements = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        let (value, error): (Vec<f64>, Vec<f64>) = elements.map(|(row, col)| sum(row, col)).unzip();
        let stored =
            |(value, error): (&f64, &f64)| error + precision.rounding_error(value.abs() + error);
        Self {
            rows,
            cols,
            bound: value.iter().zip(&error).map(stored).collect(),
            value,
            error,
            precision,
        }
    }

    /// Rounds intermediate values, given each element's sum and the sum's error.
    pub(super) fn intermediate(
        rows: usize,
        cols: usize,
        store: Store,
        sum: impl Fn(usize, usize) -> (f64, f64),
    ) -> Self {
        let mut matrix = Self::output(rows, cols, store.precision, sum);
        if store.intermediates == Intermediates::Rounded {
            let round = |value| store.precision.round(value);
            for ((value, bound), error) in matrix
                .value
                .iter_mut()
                .zip(&mut matrix.bound)
                .zip(&matrix.error)
            {
                let rounded = round(*value);
                *bound = (round(*value + error) - rounded).max(rounded - round(*value - error));
                *value = rounded;
            }
        }
        matrix
    }

    /// The result of a kernel that adds to the output's previous values, in f32 and rounded once.
    ///
    /// # Panics
    /// If `previous` has another shape.
    pub fn added_to<T: Copy + Into<f64>>(&self, previous: View<'_, T>) -> Self {
        let shape = (previous.rows(), previous.cols());
        assert_eq!(
            shape,
            (self.rows, self.cols),
            "what is added to has another shape"
        );
        Self::output(self.rows, self.cols, self.precision, |row, col| {
            let i = row * self.cols + col;
            let value = self.value[i] + previous.at(row, col);
            let error = self.error[i];
            (value, error + reduction_error(1, 0, value.abs() + error))
        })
    }
}

/// S or T as the left factor of a product, with the errors of its elements.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    matrix: &'a Bounded,
    transposed: bool,
}

/// A product with an inexact operand.
pub(super) struct OperandProduct {
    pub(super) sum: Vec<f64>,
    /// Σ(|S|+εS)|B|
    pub(super) magnitude: Vec<f64>,
    /// Σ εS|B|
    pub(super) inherited: Vec<f64>,
}

impl<'a> Operand<'a> {
    pub(super) fn of(matrix: &'a Bounded) -> Self {
        Self {
            matrix,
            transposed: false,
        }
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    fn view(&self, data: &'a [f64]) -> View<'a, f64> {
        let view = View::dense(data, self.matrix.rows, self.matrix.cols);
        if self.transposed {
            view.transposed()
        } else {
            view
        }
    }

    pub(super) fn times<T: Copy + Into<f64> + Sync>(self, right: View<'_, T>) -> OperandProduct {
        let Product { sum, mut magnitude } = product(self.view(&self.matrix.value), right);
        let inherited = product(self.view(&self.matrix.bound), right).magnitude;
        magnitude
            .iter_mut()
            .zip(&inherited)
            .for_each(|(magnitude, inherited)| *magnitude += inherited);
        OperandProduct {
            sum,
            magnitude,
            inherited,
        }
    }
}
