//! Forward and backward of one layer, with the bound of every element.

use super::bounds::{Bounded, Intermediates, Operand, Store, reduction_error};
use super::philox::KeepMask;
use super::product::product;
use super::rounding::Precision;
use super::view::{ShapeError, View};
use crate::{DType, Dropout};

/// A linear layer with an adapter, and what goes in. Shapes as in the [module](super)'s description.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a, T> {
    /// x (tokens, in_features)
    pub x: View<'a, T>,
    /// W (out_features, in_features)
    pub weight: View<'a, T>,
    /// bias (out_features)
    pub bias: Option<&'a [T]>,
    /// lora_A (rank, in_features)
    pub lora_a: View<'a, T>,
    /// lora_B (out_features, rank)
    pub lora_b: View<'a, T>,
    /// s
    pub scaling: f32,
    /// Which elements of x the adapter sees; all of them without.
    pub dropout: Option<Dropout>,
}

/// What the forward pass computes.
#[derive(Debug, Clone)]
pub struct Forward {
    /// S (tokens, rank)
    pub s: Bounded,
    /// y (tokens, out_features)
    pub y: Bounded,
}

/// What the backward pass computes.
#[derive(Debug, Clone)]
pub struct Backward {
    /// T (tokens, rank)
    pub t: Bounded,
    /// dx (tokens, in_features)
    pub dx: Bounded,
    /// The gradient of lora_A (rank, in_features)
    pub d_lora_a: Bounded,
    /// The gradient of lora_B (out_features, rank)
    pub d_lora_b: Bounded,
}

/// y and what leads to it, for kernels that store `dtype`.
pub fn forward<T>(layer: &Layer<'_, T>, dtype: DType, intermediates: Intermediates) -> Result<Forward, ShapeError>
where
    T: Copy + Into<f64> + Sync,
{
    let shape = Shape::of(layer)?;
    let store = Store {
        precision: Precision::of(dtype),
        intermediates,
    };
    let s = shrink(layer, &shape, store);
    let base = product(layer.x, layer.weight);
    let adapter = Operand::of(&s).times(layer.lora_b);
    let bias = |col: usize| layer.bias.map_or(0.0, |bias| bias[col].into());
    let y = Bounded::from_fn(shape.tokens, shape.out_features, |row, col| {
        let i = row * shape.out_features + col;
        let magnitude = base.magnitude[i] + adapter.magnitude[i] + bias(col).abs();
        let error = reduction_error(shape.in_features + shape.rank + 1, 0, magnitude) + adapter.inherited[i];
        store.output(base.sum[i] + adapter.sum[i] + bias(col), error)
    });
    Ok(Forward { s, y })
}

/// The gradients that follow from `dy` (tokens, out_features), for kernels that store `dtype`.
pub fn backward<T>(
    layer: &Layer<'_, T>,
    dy: View<'_, T>,
    dtype: DType,
    intermediates: Intermediates,
) -> Result<Backward, ShapeError>
where
    T: Copy + Into<f64> + Sync,
{
    let shape = Shape::of(layer)?;
    expect("dy", (dy.rows(), dy.cols()), (shape.tokens, shape.out_features))?;
    let store = Store {
        precision: Precision::of(dtype),
        intermediates,
    };
    let keep_scale = layer.dropout.map_or(1.0, |dropout| f64::from(dropout.keep_scale()));

    let scaling = f64::from(layer.scaling);
    let sums = product(dy, layer.lora_b.transposed());
    let t = Bounded::from_fn(shape.tokens, shape.rank, |row, col| {
        let i = row * shape.rank + col;
        store.intermediate(
            scaling * sums.sum[i],
            reduction_error(shape.out_features, 1, scaling.abs() * sums.magnitude[i]),
        )
    });

    let base = product(dy, layer.weight.transposed());
    let adapter = Operand::of(&t).times(layer.lora_a.transposed());
    let mask = layer
        .dropout
        .map(|dropout| KeepMask::new(shape.tokens, shape.in_features, &dropout));
    let dx = Bounded::from_fn(shape.tokens, shape.in_features, |row, col| {
        let i = row * shape.in_features + col;
        let kept = if mask.as_ref().is_none_or(|mask| mask.keeps(row, col)) {
            keep_scale
        } else {
            0.0
        };
        let magnitude = base.magnitude[i] + kept * adapter.magnitude[i];
        let error = reduction_error(shape.out_features + shape.rank, 1, magnitude) + kept * adapter.inherited[i];
        store.output(base.sum[i] + kept * adapter.sum[i], error)
    });

    let dropped = dropped_x(layer, &shape);
    let sums = Operand::of(&t)
        .transposed()
        .times(View::dense(&dropped, shape.tokens, shape.in_features).transposed());
    let d_lora_a = Bounded::from_fn(shape.rank, shape.in_features, |row, col| {
        let i = row * shape.in_features + col;
        let error = reduction_error(shape.tokens, 1, keep_scale * sums.magnitude[i]) + keep_scale * sums.inherited[i];
        store.output(keep_scale * sums.sum[i], error)
    });

    let s = shrink(layer, &shape, store);
    let sums = Operand::of(&s).transposed().times(dy.transposed()); // (rank, out_features)
    let d_lora_b = Bounded::from_fn(shape.out_features, shape.rank, |row, col| {
        let i = col * shape.out_features + row;
        store.output(
            sums.sum[i],
            reduction_error(shape.tokens, 0, sums.magnitude[i]) + sums.inherited[i],
        )
    });
    Ok(Backward {
        t,
        dx,
        d_lora_a,
        d_lora_b,
    })
}

/// S (tokens, rank)
fn shrink<T: Copy + Into<f64> + Sync>(layer: &Layer<'_, T>, shape: &Shape, store: Store) -> Bounded {
    let keep_scale = layer.dropout.map_or(1.0, |dropout| f64::from(dropout.keep_scale()));
    let factor = f64::from(layer.scaling) * keep_scale;
    let dropped = dropped_x(layer, shape);
    let sums = product(View::dense(&dropped, shape.tokens, shape.in_features), layer.lora_a);
    Bounded::from_fn(shape.tokens, shape.rank, |row, col| {
        let i = row * shape.rank + col;
        // The factor is itself a product, rounded once.
        store.intermediate(
            factor * sums.sum[i],
            reduction_error(shape.in_features, 2, factor.abs() * sums.magnitude[i]),
        )
    })
}

/// The sizes of a layer whose tensors fit each other.
struct Shape {
    tokens: usize,
    in_features: usize,
    out_features: usize,
    rank: usize,
}

impl Shape {
    fn of<T: Copy + Into<f64>>(layer: &Layer<'_, T>) -> Result<Self, ShapeError> {
        let (tokens, in_features) = (layer.x.rows(), layer.x.cols());
        let (out_features, rank) = (layer.weight.rows(), layer.lora_a.rows());
        expect(
            "weight",
            (out_features, layer.weight.cols()),
            (out_features, in_features),
        )?;
        expect("lora_A", (rank, layer.lora_a.cols()), (rank, in_features))?;
        expect(
            "lora_B",
            (layer.lora_b.rows(), layer.lora_b.cols()),
            (out_features, rank),
        )?;
        if let Some(bias) = layer.bias {
            expect("bias", (1, bias.len()), (1, out_features))?;
        }
        Ok(Self {
            tokens,
            in_features,
            out_features,
            rank,
        })
    }
}

fn expect(tensor: &'static str, given: (usize, usize), expected: (usize, usize)) -> Result<(), ShapeError> {
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

/// mask∘x (tokens, in_features)
fn dropped_x<T: Copy + Into<f64>>(layer: &Layer<'_, T>, shape: &Shape) -> Vec<f64> {
    let mask = layer
        .dropout
        .map(|dropout| KeepMask::new(shape.tokens, shape.in_features, &dropout));
    let mut dropped = Vec::with_capacity(shape.tokens * shape.in_features);
    for row in 0..shape.tokens {
        for col in 0..shape.in_features {
            let kept = mask.as_ref().is_none_or(|mask| mask.keeps(row, col));
            dropped.push(if kept { layer.x.at(row, col) } else { 0.0 });
        }
    }
    dropped
}

#[cfg(test)]
mod tests;
