//! The layer to compute. Both passes take its elements from here, rounded as the kernels use them.

use super::philox::KeepMask;
use super::rounding::Precision;
use super::view::{ShapeError, View};
use crate::{Dropout, Element};

/// x and the projections that share it. Shapes are those in the [module's documentation](super).
#[derive(Debug, Clone)]
pub struct Layer<'a, T, A = T> {
    /// x (tokens, in_features)
    pub x: View<'a, T>,
    /// The projections, at least one.
    pub projections: Vec<Projection<'a, T, A>>,
    /// The dropout on the adapters' input, if any.
    pub dropout: Option<Dropout>,
}

/// A linear layer, with or without an adapter.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a, T, A = T> {
    /// W (out_features, in_features). Pass a weight that is stored (in_features, out_features)
    /// [transposed](View::transposed).
    pub weight: View<'a, T>,
    /// bias (out_features)
    pub bias: Option<&'a [T]>,
    /// The adapter, which is trained.
    pub adapter: Option<Adapter<'a, A>>,
}

/// lora_A, lora_B and the scaling of their product. Elements are rounded to the type of x when they
/// are used.
#[derive(Debug, Clone, Copy)]
pub struct Adapter<'a, A> {
    /// lora_A (rank, in_features)
    pub a: View<'a, A>,
    /// lora_B (out_features, rank)
    pub b: View<'a, A>,
    /// The scaling s
    pub scaling: f32,
}

impl<T: Element + Into<f64>, A: Element + Into<f64>> Layer<'_, T, A> {
    pub(super) fn tokens(&self) -> usize {
        self.x.rows()
    }

    pub(super) fn in_features(&self) -> usize {
        self.x.cols()
    }

    pub(super) fn keep_scale(&self) -> f64 {
        self.dropout
            .map_or(1.0, |dropout| f64::from(dropout.keep_scale()))
    }

    pub(super) fn mask(&self) -> Option<KeepMask> {
        let mask = |dropout| KeepMask::new(self.tokens(), self.in_features(), dropout);
        self.dropout.as_ref().map(mask)
    }

    /// mask∘x (tokens, in_features)
    pub(super) fn dropped_x(&self, mask: Option<&KeepMask>) -> Vec<f64> {
        let elements =
            (0..self.tokens()).flat_map(|row| (0..self.in_features()).map(move |col| (row, col)));
        let kept = |row, col| mask.is_none_or(|mask| mask.keeps(row, col));
        elements
            .map(|(row, col)| {
                if kept(row, col) {
                    self.x.at(row, col)
                } else {
                    0.0
                }
            })
            .collect()
    }

    pub(super) fn check(&self) -> Result<(), ShapeError> {
        for Projection {
            weight,
            bias,
            adapter,
        } in &self.projections
        {
            let out_features = weight.rows();
            expect("weight", *weight, (out_features, self.in_features()))?;
            if let Some(bias) = bias {
                expect_shape("bias", (1, bias.len()), (1, out_features))?;
            }
            if let Some(Adapter { a, b, .. }) = adapter {
                expect("lora_A", *a, (a.rows(), self.in_features()))?;
                expect("lora_B", *b, (out_features, a.rows()))?;
            }
        }
        Ok(())
    }
}

/// The elements in row-major order, each rounded to `precision`.
pub(super) fn rounded<A: Copy + Into<f64>>(matrix: View<'_, A>, precision: Precision) -> Vec<f64> {
    let elements = (0..matrix.rows()).flat_map(|row| (0..matrix.cols()).map(move |col| (row, col)));
    elements
        .map(|(row, col)| precision.round(matrix.at(row, col)))
        .collect()
}

pub(super) fn expect<T: Copy + Into<f64>>(
    tensor: &'static str,
    given: View<'_, T>,
    expected: (usize, usize),
) -> Result<(), ShapeError> {
    expect_shape(tensor, (given.rows(), given.cols()), expected)
}

fn expect_shape(
    tensor: &'static str,
    given: (usize, usize),
    expected: (usize, usize),
) -> Result<(), ShapeError> {
    if given == expected {
        Ok(())
    } else {
        Err(ShapeError::Mismatch {
            tensor,
            given,
            expected,
        })
    }
}
