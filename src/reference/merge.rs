//! Merging on the CPU, with the same bits as the kernels.

use super::layer::Adapter;
use super::view::{ShapeError, View};
use crate::{Element, MergeReport, WeightLayout};

/// A merged weight.
#[derive(Debug, Clone)]
pub struct Merged<T> {
    /// The merged weight, dense and row-major, in the layout of the weight.
    pub weight: Vec<T>,
    /// What storing it loses. The report's sums are taken in another order than the kernels'.
    pub report: MergeReport,
}

/// Computes merged = W + Σ scaling·B·A. For each element and adapter, the sum over the rank is
/// taken in f32 with fused multiply-adds and multiplied by the scaling. These values are summed in
/// the adapters' order and added to W in f32, and the result is rounded once. The report counts
/// elements that are not finite; nothing is refused because of them.
///
/// W is (out_features, in_features), or transposed as `layout` says. lora_A is (rank, in_features),
/// lora_B (out_features, rank).
///
/// # Errors
/// [`ShapeError::Mismatch`] if an adapter does not fit the weight.
pub fn merge<T, A>(
    weight: View<'_, T>,
    layout: WeightLayout,
    adapters: &[Adapter<'_, A>],
) -> Result<Merged<T>, ShapeError>
where
    T: Element + Into<f64>,
    A: Element + Into<f64>,
{
    let operands = adapters
        .iter()
        .map(|adapter| Operands::new(weight, layout, adapter))
        .collect::<Result<Vec<_>, _>>()?;
    let columns = weight.cols();
    let mut merged = Merged {
        weight: Vec::with_capacity(weight.rows() * columns),
        report: MergeReport::default(),
    };
    let (mut product, mut delta) = (vec![0.0; columns], vec![0.0; columns]);
    for row in 0..weight.rows() {
        delta.fill(0.0);
        for operand in &operands {
            product.fill(0.0);
            for (rank, across) in operand.across.iter().enumerate() {
                add_multiple(&mut product, operand.down.at(row, rank) as f32, across);
            }
            for (delta, &product) in delta.iter_mut().zip(&product) {
                *delta = operand.scaling.mul_add(product, *delta);
            }
        }
        for (column, &delta) in delta.iter().enumerate() {
            let old = weight.at(row, column) as f32;
            let new = T::from_f64((old + delta).into());
            count(&mut merged.report, old, delta, new.to_f64() as f32);
            merged.weight.push(new);
        }
    }
    Ok(merged)
}

/// sums += factor · row, each with one rounding.
fn add_multiple(sums: &mut [f32], factor: f32, row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: this processor has both.
        return unsafe { add_multiple_with_fma(sums, factor, row) };
    }
    add_multiple_in_order(sums, factor, row);
}

/// The same compiled for processors that fuse multiply-adds. For others, each is a call.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_multiple_with_fma(sums: &mut [f32], factor: f32, row: &[f32]) {
    add_multiple_in_order(sums, factor, row);
}

#[inline(always)]
fn add_multiple_in_order(sums: &mut [f32], factor: f32, row: &[f32]) {
    for (sum, &value) in sums.iter_mut().zip(row) {
        *sum = factor.mul_add(value, *sum);
    }
}

/// An adapter arranged for the weight's layout: the delta is scaling · down (rows, r) · across (r,
/// columns).
struct Operands<'a, A> {
    down: View<'a, A>,
    across: Vec<Vec<f32>>,
    scaling: f32,
}

impl<'a, A: Element + Into<f64>> Operands<'a, A> {
    fn new<T: Element + Into<f64>>(
        weight: View<'_, T>,
        layout: WeightLayout,
        adapter: &Adapter<'a, A>,
    ) -> Result<Self, ShapeError> {
        let (out_features, in_features) = match layout {
            WeightLayout::OutIn => (weight.rows(), weight.cols()),
            WeightLayout::InOut => (weight.cols(), weight.rows()),
        };
        let rank = adapter.a.rows();
        for (tensor, view, expected) in [
            ("lora_A", adapter.a, (rank, in_features)),
            ("lora_B", adapter.b, (out_features, rank)),
        ] {
            let given = (view.rows(), view.cols());
            if given != expected {
                return Err(ShapeError::Mismatch {
                    tensor,
                    given,
                    expected,
                });
            }
        }
        let (down, across) = match layout {
            WeightLayout::OutIn => (adapter.b, adapter.a),
            WeightLayout::InOut => (adapter.a.transposed(), adapter.b.transposed()),
        };
        let line = |row| {
            (0..across.cols())
                .map(|column| across.at(row, column) as f32)
                .collect()
        };
        Ok(Self {
            down,
            across: (0..across.rows()).map(line).collect(),
            scaling: adapter.scaling,
        })
    }
}

fn count(report: &mut MergeReport, old: f32, delta: f32, merged: f32) {
    report.elements += 1;
    if !merged.is_finite() {
        report.non_finite += 1;
        return;
    }
    report.nonzero += u64::from(delta != 0.0);
    report.unchanged += u64::from(delta != 0.0 && merged == old);
    let error = f64::from((merged - old) - delta);
    report.delta_squares += f64::from(delta) * f64::from(delta);
    report.error_squares += error * error;
}
