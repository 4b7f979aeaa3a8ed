//! What each result is compared with.

use lora_kernels::reference::{self, Intermediates, Layer, ShapeError, View};

use crate::case::Case;
use crate::inputs::{Inputs, Number};
use crate::report::Reference;

/// The right results of a case: the file's where it holds them, the f64 reference's otherwise.
pub struct Expected<'a, T> {
    case: &'a Case,
    inputs: &'a Inputs<T>,
    backward: Option<reference::Backward>,
}

impl<'a, T: Number> Expected<'a, T> {
    pub fn new(case: &'a Case, inputs: &'a Inputs<T>) -> Self {
        Self {
            case,
            inputs,
            backward: None,
        }
    }

    /// The tensor of this name, row-major.
    pub fn tensor(&mut self, name: &str) -> Result<(Vec<f64>, Reference), ShapeError> {
        let recorded = &self.case.recorded;
        let (recorded, scale) = match name {
            "y" => (&recorded.y, 1.0),
            "dx" => (&recorded.dx, self.inputs.gradient_scale),
            "d_lora_A" => (&recorded.d_lora_a, self.inputs.gradient_scale),
            _ => (&recorded.d_lora_b, self.inputs.gradient_scale),
        };
        if let Some(matrix) = recorded {
            let values = matrix.data.iter().map(|&value| f64::from(value) * scale).collect();
            return Ok((values, Reference::Recorded));
        }
        let values = match name {
            "y" => {
                reference::forward(&self.layer()?, T::DTYPE, Intermediates::Exact)?
                    .y
                    .value
            }
            "dx" => self.backward()?.dx.value.clone(),
            "d_lora_A" => self.backward()?.d_lora_a.value.clone(),
            _ => self.backward()?.d_lora_b.value.clone(),
        };
        Ok((values, Reference::Computed))
    }

    fn backward(&mut self) -> Result<&reference::Backward, ShapeError> {
        let gradients = match self.backward.take() {
            Some(gradients) => gradients,
            None => {
                let dy = self.inputs.dy.as_deref().unwrap_or_default();
                let dy = View::new(dy, self.case.tokens(), self.case.out_features())?;
                reference::backward(&self.layer()?, dy, T::DTYPE, Intermediates::Exact)?
            }
        };
        Ok(self.backward.insert(gradients))
    }

    fn layer(&self) -> Result<Layer<'a, T>, ShapeError> {
        let Case {
            x,
            weight,
            lora_a,
            lora_b,
            ..
        } = self.case;
        Ok(Layer {
            x: View::new(&self.inputs.x, x.rows, x.cols)?,
            weight: View::new(&self.inputs.weight, weight.rows, weight.cols)?,
            bias: self.inputs.bias.as_deref(),
            lora_a: View::new(&self.inputs.lora_a, lora_a.rows, lora_a.cols)?,
            lora_b: View::new(&self.inputs.lora_b, lora_b.rows, lora_b.cols)?,
            scaling: self.case.scaling,
            dropout: None,
        })
    }
}
