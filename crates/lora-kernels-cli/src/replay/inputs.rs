//! The recorded inputs in the element type of the run.

use lora_kernels::Element;
use lora_kernels::cudarc::driver::{DeviceRepr, ValidAsZeroBits};

use super::recorded::{Defect, RecordedLayer};
use super::scale::gradient_scale;

/// An element type that the kernels, cudarc and the reference all support.
pub trait Number: Element + Into<f64> + DeviceRepr + ValidAsZeroBits {}

impl<T: Element + Into<f64> + DeviceRepr + ValidAsZeroBits> Number for T {}

/// The recorded inputs, rounded to the run's type.
pub struct Inputs<T> {
    pub x: Vec<T>,
    pub weight: Vec<T>,
    pub bias: Option<Vec<T>>,
    pub lora_a: Vec<T>,
    pub lora_b: Vec<T>,
    pub dy: Option<Vec<T>>,
    /// The factor that dy was multiplied by. The device's gradients carry the same factor.
    pub gradient_scale: f64,
}

impl<T: Element> Inputs<T> {
    pub fn new(case: &RecordedLayer) -> Result<Self, Defect> {
        let gradient_scale = match &case.dy {
            Some(dy) => gradient_scale(T::DTYPE, case, dy)?,
            None => 1.0,
        };
        Ok(Self {
            x: case.x.rounded(1.0)?,
            weight: case.weight.rounded(1.0)?,
            bias: case
                .bias
                .as_ref()
                .map(|bias| bias.rounded(1.0))
                .transpose()?,
            lora_a: case.lora_a.rounded(1.0)?,
            lora_b: case.lora_b.rounded(1.0)?,
            dy: case
                .dy
                .as_ref()
                .map(|dy| dy.rounded(gradient_scale))
                .transpose()?,
            gradient_scale,
        })
    }
}
