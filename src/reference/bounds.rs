//! Errors and how they travel: from a sum to a stored value, and from there into the next product.

use super::product::{Product, product};
use super::rounding::Precision;
use super::view::View;

/// The unit roundoff of f32, which the kernels accumulate in.
const F32_ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// What happens to S and T between the product that makes them and the one that uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intermediates {
    /// They stay in f64: the mathematical result.
    Exact,
    /// They are rounded to the layer's type, as the kernels store them.
    Rounded,
}

/// A matrix and how far from it a right result can be.
#[derive(Debug, Clone)]
pub struct Bounded {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// The values, row-major.
    pub value: Vec<f64>,
    /// The largest error a kernel that computes and stores each of them rightly can make.
    pub bound: Vec<f64>,
}

/// The error of an f32 sum of `terms` products that add up to `magnitude` in absolute value, multiplied by `scalars`
/// numbers after.
pub(super) fn reduction_error(terms: usize, scalars: usize, magnitude: f64) -> f64 {
    (1.5 * terms as f64 + scalars as f64) * F32_ROUNDING * magnitude
}

/// How values are stored.
#[derive(Clone, Copy)]
pub(super) struct Store {
    pub precision: Precision,
    pub intermediates: Intermediates,
}

impl Store {
    /// A value that later products use: itself and the error a kernel's can have. `error` is that of the sum before it
    /// is stored.
    pub(super) fn intermediate(&self, value: f64, error: f64) -> (f64, f64) {
        match self.intermediates {
            Intermediates::Exact => self.output(value, error),
            Intermediates::Rounded => {
                let rounded = self.precision.round(value);
                let above = self.precision.round(value + error) - rounded;
                let below = rounded - self.precision.round(value - error);
                (rounded, above.max(below))
            }
        }
    }

    /// A value that leaves: itself and the error, rounding included.
    pub(super) fn output(&self, value: f64, error: f64) -> (f64, f64) {
        (value, error + self.precision.rounding_error(value.abs() + error))
    }
}

impl Bounded {
    pub(super) fn from_fn(rows: usize, cols: usize, element: impl Fn(usize, usize) -> (f64, f64)) -> Self {
        let (value, bound) = (0..rows)
            .flat_map(|row| (0..cols).map(move |col| (row, col)))
            .map(|(row, col)| element(row, col))
            .unzip();
        Self {
            rows,
            cols,
            value,
            bound,
        }
    }
}

/// S or T as the left side of a product: its values and its errors.
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
        if self.transposed { view.transposed() } else { view }
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
