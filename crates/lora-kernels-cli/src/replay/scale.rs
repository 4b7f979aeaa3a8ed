//! What dy is multiplied with before it goes to f16, as training in f16 scales the loss: recorded
//! gradients are often below its smallest number, and some are beyond its largest.

use half::f16;
use lora_kernels::DType;
use lora_kernels::reference::{self, Adapter, Intermediates, Layer, Projection, ShapeError, View};

use super::case::{Case, Matrix};

/// What rounding to f16 changes of a number in its normal range, at most and relatively: half of
/// its epsilon. Numbers that lose more have come too close to zero.
const ROUNDING: f64 = 1.0 / 2048.0;
/// Below f16's largest number, 65504, by more than the rounding of inputs can lift a sum.
const FITS: f64 = 60_000.0;
/// Where a scale puts the largest number: at least half of this and at most all.
const TARGET: f64 = 16_384.0;

/// The power of two to multiply dy with. It is 1 unless dy, T or a gradient would overflow or lose
/// its small numbers.
pub fn gradient_scale(dtype: DType, case: &Case, dy: &Matrix) -> Result<f64, ShapeError> {
    if dtype != DType::F16 {
        return Ok(1.0);
    }
    let given: Vec<f64> = dy.data.iter().map(|&value| f64::from(value)).collect();
    let gradients = reference::backward(&layer(case)?, &[view(dy)?], Intermediates::Exact)?;
    let mut stored = vec![&given, &gradients.dx.value];
    for adapter in gradients.adapters.iter().flatten() {
        stored.extend([
            &adapter.t.value,
            &adapter.d_lora_a.value,
            &adapter.d_lora_b.value,
        ]);
    }
    let largest = stored
        .iter()
        .copied()
        .flatten()
        .fold(0.0f64, |largest, value| largest.max(value.abs()));
    let fits = largest <= FITS && stored.into_iter().all(|values| loss(values) <= ROUNDING);
    if fits || largest == 0.0 {
        return Ok(1.0);
    }
    Ok((TARGET / largest).log2().floor().exp2())
}

/// What rounding to f16 changes, relative to the whole: ‖f16(values) − values‖ / ‖values‖.
fn loss(values: &[f64]) -> f64 {
    // Squares of the smallest gradients would vanish even in f64.
    let largest = values
        .iter()
        .fold(0.0f64, |largest, value| largest.max(value.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    let (mut changed, mut whole) = (0.0, 0.0);
    for &value in values {
        changed += ((f16::from_f64(value).to_f64() - value) / largest).powi(2);
        whole += (value / largest).powi(2);
    }
    f64::sqrt(changed / whole)
}

fn layer(case: &Case) -> Result<Layer<'_, f32>, ShapeError> {
    Ok(Layer {
        x: view(&case.x)?,
        projections: vec![Projection {
            weight: view(&case.weight)?,
            bias: None,
            adapter: Some(Adapter {
                a: view(&case.lora_a)?,
                b: view(&case.lora_b)?,
                scaling: case.scaling,
            }),
        }],
        dropout: None,
    })
}

fn view(matrix: &Matrix) -> Result<View<'_, f32>, ShapeError> {
    View::new(&matrix.data, matrix.rows, matrix.cols)
}
