//! The scaling of a module: from a config, from an `alpha` tensor, or given.

use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;

use super::Scaling;
use crate::adapter::ScalingSource;
use crate::base::Home;
use crate::regular;
use crate::shown::{shape, shown};
use crate::tensor::Tensor;
use crate::{Error, Result};

impl Scaling {
    pub(super) fn of_rank(self, rank: usize) -> Result<f32> {
        let (name, given, factor) = match self {
            Scaling::Factor(factor) => ("scaling", factor, factor),
            Scaling::Alpha(alpha) => ("lora_alpha", alpha, alpha / rank as f64),
        };
        checked(name, given, factor as f32)
    }
}

pub(super) fn checked(name: &'static str, given: f64, factor: f32) -> Result<f32> {
    if given > 0.0 && factor > 0.0 && factor.is_finite() {
        Ok(factor)
    } else {
        Err(Error::Scaling { name, given })
    }
}

/// The number that an `alpha` tensor holds. The inner error is a reason that follows its name.
pub(super) fn alpha(tensor: Tensor<'_>) -> Result<std::result::Result<f64, String>> {
    if !is_scalar(tensor) {
        return Ok(Err(format!(
            "has shape {}: an alpha beside lora_A and lora_B is a single number",
            shape(tensor.shape)
        )));
    }
    Ok(match number(tensor.dtype, &tensor.read()?) {
        None => Err(format!(
            "is {:?}; an alpha must be F64, F32, F16, BF16, I64 or I32",
            tensor.dtype
        )),
        Some(value) if value > 0.0 && value.is_finite() => Ok(value),
        Some(value) => Err(format!(
            "is {value}: an alpha must be finite and more than 0"
        )),
    })
}

/// Whether a tensor has the shape [] or [1].
pub(super) fn is_scalar(tensor: Tensor<'_>) -> bool {
    matches!(tensor.shape, [] | [1])
}

/// Whether an alpha tensor's value is the config's, rounded to the tensor's type.
pub(super) fn agrees(tensor: Tensor<'_>, value: f64, config: f64) -> bool {
    let rounding = match tensor.dtype {
        Dtype::F32 => 1.0 / f64::from(1u32 << 24),
        Dtype::F16 => 1.0 / f64::from(1u32 << 11),
        Dtype::BF16 => 1.0 / f64::from(1u32 << 8),
        _ => 0.0,
    };
    (value - config).abs() <= config * rounding
}

fn number(dtype: Dtype, data: &[u8]) -> Option<f64> {
    Some(match dtype {
        Dtype::F64 => f64::from_le_bytes(*data.first_chunk()?),
        Dtype::F32 => f64::from(f32::from_le_bytes(*data.first_chunk()?)),
        Dtype::BF16 => {
            let bits = u32::from(u16::from_le_bytes(*data.first_chunk()?));
            f64::from(f32::from_bits(bits << 16))
        }
        Dtype::F16 => f16(u16::from_le_bytes(*data.first_chunk()?)),
        Dtype::I64 => i64::from_le_bytes(*data.first_chunk()?) as f64,
        Dtype::I32 => f64::from(i32::from_le_bytes(*data.first_chunk()?)),
        _ => return None,
    })
}

/// The value of a half-precision float's bits.
fn f16(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(bits & 0x3ff) / 1024.0;
    sign * match bits >> 10 & 0x1f {
        // Powers of two by shifts, because `powi` has an unspecified precision.
        0 => fraction / f64::from(1u32 << 14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction) * f64::from(1u32 << exponent) / f64::from(1u32 << 15),
    }
}

/// The scaling in the `params.json` that mistral-finetune writes beside `lora.safetensors`. Other
/// files of that name, such as those of base models, have none.
pub(super) fn of_params(home: &Home, tensors: &Path) -> Result<Option<f64>> {
    let path = tensors.with_file_name("params.json");
    if !regular::is_there(&path)? {
        return Ok(None);
    }
    let text = home.read_text(&path, LARGEST_PARAMS)?;
    let params: Value = serde_json::from_str(&text).map_err(|error| Error::Json {
        path: path.clone(),
        reason: shown(&error.to_string()),
    })?;
    Ok(params
        .get("lora")
        .and_then(|lora| lora.get("scaling"))
        .and_then(Value::as_f64))
}

/// In bytes. Real ones have a few hundred.
const LARGEST_PARAMS: u64 = 1 << 20;

/// What holds scalings of this source, for an error.
pub(super) fn holder(source: ScalingSource) -> &'static str {
    match source {
        ScalingSource::Config => "PEFT's adapter_config.json",
        ScalingSource::Header => "its header (lora_adapter_metadata)",
        ScalingSource::AlphaTensor => "its alpha tensors",
        ScalingSource::Params => "the params.json beside it",
        ScalingSource::Given | ScalingSource::Default => {
            "kohya's format, where a missing alpha is the rank"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_floats_are_numbers() {
        for (bits, value) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 1.0 / f64::from(1u32 << 24)),
            (0x4c00, 16.0),
        ] {
            assert_eq!(f16(bits), value);
        }
        assert!(f16(0x7c01).is_nan());
    }

    #[test]
    fn alphas_are_single_numbers_above_0() {
        let of = |dtype, shape, data| alpha(Tensor::named("x.alpha", dtype, shape, data)).unwrap();
        assert_eq!(of(Dtype::BF16, &[], &[0x00, 0x41]), Ok(8.0));
        assert_eq!(of(Dtype::I64, &[1], &[4, 0, 0, 0, 0, 0, 0, 0]), Ok(4.0));
        assert!(
            of(Dtype::F32, &[], &[0; 4])
                .unwrap_err()
                .contains("more than 0")
        );
        assert!(
            of(Dtype::F32, &[2], &[0; 8])
                .unwrap_err()
                .contains("single")
        );
        assert!(of(Dtype::U8, &[], &[1]).unwrap_err().contains("U8"));
    }
}
