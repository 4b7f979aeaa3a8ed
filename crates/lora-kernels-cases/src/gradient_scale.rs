//! The factor for dy before it is rounded to f16, like the loss scale of training in f16. Recorded
//! gradients are often below f16's smallest number, and some exceed its largest.

use half::f16;
use lora_kernels::DType;
use lora_kernels::reference::{self, Adapter, Intermediates, Projection, ShapeError, View};

use crate::{Matrix, RecordedLayer};

/// The largest relative error of rounding a number in f16's normal range: half of its epsilon.
/// Numbers with a larger error are too close to zero.
const ROUNDING: f64 = 1.0 / 2048.0;
/// The largest allowed value. Rounding of the inputs can't raise a sum from here to f16's largest
/// number, 65504.
const FITS: f64 = 60_000.0;
/// A scale brings the largest number to between half of this and this.
const TARGET: f64 = 16_384.0;

/// The power of two to multiply dy by. It is 1 unless dy, T or a gradient would overflow or lose
/// small numbers.
pub(crate) fn gradient_scale(
    dtype: DType,
    layer: &RecordedLayer,
    dy: &Matrix,
) -> Result<f64, ShapeError> {
    if dtype != DType::F16 {
        return Ok(1.0);
    }
    let given: Vec<f64> = dy.data.iter().map(|&value| f64::from(value)).collect();
    let gradients = reference::backward(&reference_of(layer)?, &[view(dy)?], Intermediates::Exact)?;
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
    Ok(power_of_two_below(TARGET / largest))
}

/// The largest power of two that is at most a positive number: exactly, as logarithms and powers of
/// floats have an unspecified precision.
fn power_of_two_below(number: f64) -> f64 {
    const SIGNIFICAND: u64 = (1 << (f64::MANTISSA_DIGITS - 1)) - 1;
    f64::from_bits(number.to_bits() & !SIGNIFICAND).max(f64::MIN_POSITIVE)
}

/// The relative error of rounding to f16: ‖f16(values) − values‖ / ‖values‖.
fn loss(values: &[f64]) -> f64 {
    // Values are divided by the largest, because squares of the smallest gradients underflow even
    // in f64.
    let largest = values
        .iter()
        .fold(0.0f64, |largest, value| largest.max(value.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    let (mut changed, mut whole) = (0.0, 0.0);
    for &value in values {
        let (error, part) = (
            (f16::from_f64(value).to_f64() - value) / largest,
            value / largest,
        );
        changed += error * error;
        whole += part * part;
    }
    f64::sqrt(changed / whole)
}

fn reference_of(layer: &RecordedLayer) -> Result<reference::Layer<'_, f32>, ShapeError> {
    Ok(reference::Layer {
        x: view(&layer.x)?,
        projections: vec![Projection {
            weight: view(&layer.weight)?,
            bias: None,
            adapter: Some(Adapter {
                a: view(&layer.lora_a)?,
                b: view(&layer.lora_b)?,
                scaling: layer.scaling,
            }),
        }],
        dropout: None,
    })
}

fn view(matrix: &Matrix) -> Result<View<'_, f32>, ShapeError> {
    View::new(&matrix.data, matrix.rows, matrix.cols)
}
