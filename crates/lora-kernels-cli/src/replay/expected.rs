//! The values that each result is compared with.

use lora_kernels::reference::{self, Adapter, Intermediates, Layer, Projection, ShapeError, View};

use lora_kernels_cases::{RecordedLayer, RoundedInputs};

use super::Number;
use super::report::Reference;

/// The expected results of a recorded layer: from the file if it holds them, else from the f64
/// reference.
pub struct Expected<'a, T> {
    case: &'a RecordedLayer,
    inputs: &'a RoundedInputs<T>,
    backward: Option<reference::Backward>,
}

impl<'a, T: Number> Expected<'a, T> {
    pub fn new(case: &'a RecordedLayer, inputs: &'a RoundedInputs<T>) -> Self {
        Self {
            case,
            inputs,
            backward: None,
        }
    }

    /// The expected tensor `name`, row-major, and where it comes from.
    pub fn tensor(&mut self, name: &str) -> Result<(Vec<f64>, Reference), ShapeError> {
        let recorded = &self.case.results;
        let recorded = match name {
            "y" => &recorded.y,
            "dx" => &recorded.dx,
            "d_lora_A" => &recorded.d_lora_a,
            _ => &recorded.d_lora_b,
        };
        if let Some(matrix) = recorded {
            let values = matrix.data.iter().map(|&value| f64::from(value)).collect();
            return Ok((values, Reference::Recorded));
        }
        if name == "y" {
            let y = reference::forward(&self.layer()?, Intermediates::Exact)?.y;
            let values = y.into_iter().flat_map(|y| y.value).collect();
            return Ok((values, Reference::Computed));
        }
        let scale = self.inputs.gradient_scale;
        let gradients = self.backward()?;
        let scaled = match (name, gradients.adapters.iter().flatten().next()) {
            ("d_lora_A", Some(adapter)) => &adapter.d_lora_a,
            ("d_lora_B", Some(adapter)) => &adapter.d_lora_b,
            _ => &gradients.dx,
        };
        let values = scaled.value.iter().map(|value| value / scale).collect();
        Ok((values, Reference::Computed))
    }

    /// The gradients for the scaled dy.
    fn backward(&mut self) -> Result<&reference::Backward, ShapeError> {
        let gradients = match self.backward.take() {
            Some(gradients) => gradients,
            None => {
                let dy = self.inputs.dy.as_deref().unwrap_or_default();
                let dy = View::new(dy, self.case.tokens(), self.case.out_features())?;
                reference::backward(&self.layer()?, &[dy], Intermediates::Exact)?
            }
        };
        Ok(self.backward.insert(gradients))
    }

    fn layer(&self) -> Result<Layer<'a, T>, ShapeError> {
        let RecordedLayer {
            x,
            weight,
            lora_a,
            lora_b,
            ..
        } = self.case;
        Ok(Layer {
            x: View::new(&self.inputs.x, x.rows, x.cols)?,
            projections: vec![Projection {
                weight: View::new(&self.inputs.weight, weight.rows, weight.cols)?,
                bias: self.inputs.bias.as_deref(),
                adapter: Some(Adapter {
                    a: View::new(&self.inputs.lora_a, lora_a.rows, lora_a.cols)?,
                    b: View::new(&self.inputs.lora_b, lora_b.rows, lora_b.cols)?,
                    scaling: self.case.scaling,
                }),
            }],
            dropout: None,
        })
    }
}
