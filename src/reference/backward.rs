//! The gradients for a given dy, with an error bound for every element.

use super::bounds::{Bounded, Intermediates, Operand, Store, reduction_error};
use super::forward::shrink;
use super::layer::{Adapter, Layer, expect, rounded};
use super::philox::KeepMask;
use super::product::product;
use super::rounding::Precision;
use super::view::{ShapeError, View};
use crate::Element;

/// The results of the backward pass.
#[derive(Debug, Clone)]
pub struct Backward {
    /// dx (tokens, in_features), the sum over all projections
    pub dx: Bounded,
    /// The gradients of each projection's adapter, if it has one.
    pub adapters: Vec<Option<AdapterGradients>>,
}

/// The gradients of an adapter, in the adapter's type.
#[derive(Debug, Clone)]
pub struct AdapterGradients {
    /// T (tokens, rank)
    pub t: Bounded,
    /// The gradient of lora_A (rank, in_features)
    pub d_lora_a: Bounded,
    /// The gradient of lora_B (out_features, rank)
    pub d_lora_b: Bounded,
}

/// Computes the gradients for `dy`, which holds a matrix (tokens, out_features) for each
/// projection.
///
/// # Errors
/// If the shapes of the tensors don't fit each other.
pub fn backward<T, A>(
    layer: &Layer<'_, T, A>,
    dy: &[View<'_, T>],
    intermediates: Intermediates,
) -> Result<Backward, ShapeError>
where
    T: Element + Into<f64>,
    A: Element + Into<f64>,
{
    layer.check()?;
    if dy.len() != layer.projections.len() {
        return Err(ShapeError::Projections {
            given: dy.len(),
            expected: layer.projections.len(),
        });
    }
    let store = Store::of::<T>(intermediates);
    let mask = layer.mask();
    let dropped = layer.dropped_x(mask.as_ref());
    let mut dx = InputGradient::new(layer, mask);
    let mut adapters = Vec::new();
    for (projection, &dy) in layer.projections.iter().zip(dy) {
        expect("dy", dy, (layer.tokens(), projection.weight.rows()))?;
        dx.add_base(dy, projection.weight);
        adapters.push(projection.adapter.map(|adapter| {
            let t = expand_gradient(adapter, dy, store);
            dx.add_adapter(&t, adapter, store.precision);
            AdapterGradients {
                d_lora_a: d_lora_a::<T, A>(layer, &t, &dropped),
                d_lora_b: d_lora_b(&shrink(layer, adapter, &dropped, store), dy, adapter),
                t,
            }
        }));
    }
    Ok(Backward {
        dx: dx.stored(store.precision),
        adapters,
    })
}

/// T (tokens, rank)
fn expand_gradient<T, A>(adapter: Adapter<'_, A>, dy: View<'_, T>, store: Store) -> Bounded
where
    T: Element + Into<f64>,
    A: Element + Into<f64>,
{
    let (out_features, rank) = (adapter.b.rows(), adapter.b.cols());
    let elements = rounded(adapter.b, store.precision);
    let sums = product(dy, View::dense(&elements, out_features, rank).transposed());
    let scaling = f64::from(adapter.scaling);
    Bounded::intermediate(dy.rows(), rank, store, |row, col| {
        let i = row * rank + col;
        let error = reduction_error(out_features, 1, scaling.abs() * sums.magnitude[i]);
        (scaling * sums.sum[i], error)
    })
}

fn d_lora_a<T, A>(layer: &Layer<'_, T, A>, t: &Bounded, dropped: &[f64]) -> Bounded
where
    T: Element + Into<f64>,
    A: Element + Into<f64>,
{
    let (tokens, in_features) = (layer.tokens(), layer.in_features());
    let keep_scale = layer.keep_scale();
    let x = View::dense(dropped, tokens, in_features);
    let sums = Operand::of(t).transposed().times(x.transposed());
    Bounded::output(t.cols, in_features, Precision::of(A::DTYPE), |row, col| {
        let (sum, magnitude, inherited) = sums.at(row * in_features + col);
        let error = reduction_error(tokens, 1, keep_scale * magnitude) + keep_scale * inherited;
        (keep_scale * sum, error)
    })
}

fn d_lora_b<A: Element>(
    s: &Bounded,
    dy: View<'_, impl Element + Into<f64>>,
    adapter: Adapter<'_, A>,
) -> Bounded {
    let scaling = f64::from(adapter.scaling);
    let sums = Operand::of(s).transposed().times(dy.transposed()); // (rank, out_features)
    Bounded::output(dy.cols(), s.cols, Precision::of(A::DTYPE), |row, col| {
        let (sum, magnitude, inherited) = sums.scaled_at(col * dy.cols() + row, scaling);
        (sum, reduction_error(dy.rows(), 1, magnitude) + inherited)
    })
}

/// dx before it is stored: one accumulator sums the terms of all projections.
struct InputGradient {
    rows: usize,
    cols: usize,
    mask: Option<KeepMask>,
    keep_scale: f64,
    terms: usize,
    sum: Vec<f64>,
    magnitude: Vec<f64>,
    inherited: Vec<f64>,
}

impl InputGradient {
    fn new<T, A>(layer: &Layer<'_, T, A>, mask: Option<KeepMask>) -> Self
    where
        T: Element + Into<f64>,
        A: Element + Into<f64>,
    {
        let elements = layer.tokens() * layer.in_features();
        Self {
            rows: layer.tokens(),
            cols: layer.in_features(),
            mask,
            keep_scale: layer.keep_scale(),
            terms: 0,
            sum: vec![0.0; elements],
            magnitude: vec![0.0; elements],
            inherited: vec![0.0; elements],
        }
    }

    fn add_base<T: Element + Into<f64>>(&mut self, dy: View<'_, T>, weight: View<'_, T>) {
        let base = product(dy, weight.transposed());
        for (i, (sum, magnitude)) in base.sum.iter().zip(&base.magnitude).enumerate() {
            self.sum[i] += sum;
            self.magnitude[i] += magnitude;
        }
        self.terms += dy.cols();
    }

    fn add_adapter<A: Element + Into<f64>>(
        &mut self,
        t: &Bounded,
        adapter: Adapter<'_, A>,
        precision: Precision,
    ) {
        let elements = rounded(adapter.a, precision);
        let a = View::dense(&elements, adapter.a.rows(), adapter.a.cols());
        let sums = Operand::of(t).times(a.transposed());
        for row in 0..self.rows {
            for col in 0..self.cols {
                if self.mask.as_ref().is_none_or(|mask| mask.keeps(row, col)) {
                    let i = row * self.cols + col;
                    let (sum, magnitude, inherited) = sums.at(i);
                    self.sum[i] += self.keep_scale * sum;
                    self.magnitude[i] += self.keep_scale * magnitude;
                    self.inherited[i] += self.keep_scale * inherited;
                }
            }
        }
        self.terms += adapter.a.rows();
    }

    fn stored(self, precision: Precision) -> Bounded {
        Bounded::output(self.rows, self.cols, precision, |row, col| {
            let i = row * self.cols + col;
            let error = reduction_error(self.terms, 1, self.magnitude[i]) + self.inherited[i];
            (self.sum[i], error)
        })
    }
}
