//! A case's numbers in the type of the run.

use lora_kernels::cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use lora_kernels::{DType, Element};

use crate::case::{Case, Defect, Matrix};

/// A type that the kernels, the device's memory and the reference all know.
pub trait Number: Element + Into<f64> + DeviceRepr + ValidAsZeroBits {}

impl<T: Element + Into<f64> + DeviceRepr + ValidAsZeroBits> Number for T {}

/// The case's inputs, rounded to the run's type.
pub struct Inputs<T> {
    pub x: Vec<T>,
    pub weight: Vec<T>,
    pub bias: Option<Vec<T>>,
    pub lora_a: Vec<T>,
    pub lora_b: Vec<T>,
    pub dy: Option<Vec<T>>,
    /// What dy was multiplied with, and so the gradients are.
    pub gradient_scale: f64,
}

impl<T: Element> Inputs<T> {
    pub fn new(case: &Case) -> Result<Self, Defect> {
        let gradient_scale = case.dy.as_ref().map_or(1.0, |dy| gradient_scale(T::DTYPE, dy));
        Ok(Self {
            x: case.x.rounded(1.0)?,
            weight: case.weight.rounded(1.0)?,
            bias: case.bias.as_ref().map(|bias| bias.rounded(1.0)).transpose()?,
            lora_a: case.lora_a.rounded(1.0)?,
            lora_b: case.lora_b.rounded(1.0)?,
            dy: case.dy.as_ref().map(|dy| dy.rounded(gradient_scale)).transpose()?,
            gradient_scale,
        })
    }
}

/// A power of two that brings the largest |dy| to at least 1 and below 2, for f16: recorded gradients are often below
/// its smallest number. Training in f16 scales the loss for the same reason.
fn gradient_scale(dtype: DType, dy: &Matrix) -> f64 {
    let largest = dy
        .data
        .iter()
        .fold(0.0f64, |largest, &value| largest.max(f64::from(value.abs())));
    if dtype != DType::F16 || largest == 0.0 {
        return 1.0;
    }
    (-largest.log2().floor()).exp2()
}
