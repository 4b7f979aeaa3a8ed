//! y and S, with an error bound for every element.

use super::bounds::{Bounded, Intermediates, Operand, OperandProduct, Store, reduction_error};
use super::layer::{Adapter, Layer, Projection, rounded};
use super::product::product;
use super::view::{ShapeError, View};
use crate::Element;

/// The results of the forward pass for each projection.
#[derive(Debug, Clone)]
pub struct Forward {
    /// S (tokens, rank), for projections with an adapter
    pub s: Vec<Option<Bounded>>,
    /// y (tokens, out_features)
    pub y: Vec<Bounded>,
}

/// Computes y and S.
///
/// # Errors
/// If the shapes of the tensors don't fit each other.
pub fn forward<T, A>(
    layer: &Layer<'_, T, A>,
    intermediates: Intermediates,
) -> Result<Forward, ShapeError>
where
    T: Element + Into<f64>,
    A: Element + Into<f64>,
{
    layer.check()?;
    let store = Store::of::<T>(intermediates);
    let dropped = layer.dropped_x(layer.mask().as_ref());
    let mut results = Forward {
        s: Vec::new(),
        y: Vec::new(),
    };
    for projection in &layer.projections {
        let s = projection
            .adapter
            .map(|adapter| shrink(layer, adapter, &dropped, store));
        results.y.push(output(layer, projection, s.as_ref(), store));
        results.s.push(s);
    }
    Ok(results)
}

fn output<T, A>(
    layer: &Layer<'_, T, A>,
    projection: &Projection<'_, T, A>,
    s: Option<&Bounded>,
    store: Store,
) -> Bounded
where
    T: Element + Into<f64>,
    A: Element + Into<f64>,
{
    let out_features = projection.weight.rows();
    let base = product(layer.x, projection.weight);
    let adapter = projection.adapter.zip(s).map(|(Adapter { b, .. }, s)| {
        let elements = rounded(b, store.precision);
        Operand::of(s).times(View::dense(&elements, b.rows(), b.cols()))
    });
    let rank = s.map_or(0, |s| s.cols);
    let scaling = projection
        .adapter
        .map_or(0.0, |adapter| f64::from(adapter.scaling));
    let bias = |col: usize| projection.bias.map_or(0.0, |bias| bias[col].to_f64());
    Bounded::output(layer.tokens(), out_features, store.precision, |row, col| {
        let i = row * out_features + col;
        let (sum, magnitude, inherited) = adapter
            .as_ref()
            .map_or((0.0, 0.0, 0.0), |product| product.scaled_at(i, scaling));
        let magnitude = base.magnitude[i] + magnitude + bias(col).abs();
        let error = reduction_error(layer.in_features() + rank + 1, 1, magnitude) + inherited;
        (base.sum[i] + sum + bias(col), error)
    })
}

/// S (tokens, rank)
pub(super) fn shrink<T, A>(
    layer: &Layer<'_, T, A>,
    adapter: Adapter<'_, A>,
    dropped: &[f64],
    store: Store,
) -> Bounded
where
    T: Element + Into<f64>,
    A: Element + Into<f64>,
{
    let (rank, in_features) = (adapter.a.rows(), layer.in_features());
    let factor = layer.keep_scale();
    let elements = rounded(adapter.a, store.precision);
    let sums = product(
        View::dense(dropped, layer.tokens(), in_features),
        View::dense(&elements, rank, in_features),
    );
    Bounded::intermediate(layer.tokens(), rank, store, |row, col| {
        let i = row * rank + col;
        let error = reduction_error(in_features, 1, factor * sums.magnitude[i]);
        (factor * sums.sum[i], error)
    })
}

impl OperandProduct {
    /// (sum, magnitude, inherited error) of an element.
    pub(super) fn at(&self, index: usize) -> (f64, f64, f64) {
        (
            self.sum[index],
            self.magnitude[index],
            self.inherited[index],
        )
    }

    /// The same of the product times `scaling`.
    pub(super) fn scaled_at(&self, index: usize, scaling: f64) -> (f64, f64, f64) {
        let (sum, magnitude, inherited) = self.at(index);
        let factor = scaling.abs();
        (scaling * sum, factor * magnitude, factor * inherited)
    }
}
