//! The recorded inputs in the element type of a run.

use lora_kernels::Element;

use crate::gradient_scale::gradient_scale;
use crate::{Defect, RecordedLayer};

/// The recorded inputs, rounded to the element type of a run, row-major.
#[derive(Debug, Clone)]
pub struct RoundedInputs<T> {
    /// (tokens, in_features)
    pub x: Vec<T>,
    /// (out_features, in_features)
    pub weight: Vec<T>,
    /// (out_features)
    pub bias: Option<Vec<T>>,
    /// (rank, in_features)
    pub lora_a: Vec<T>,
    /// (out_features, rank)
    pub lora_b: Vec<T>,
    /// (tokens, out_features), multiplied by `gradient_scale`
    pub dy: Option<Vec<T>>,
    /// The factor that dy was multiplied by. Gradients computed from it carry the same factor.
    pub gradient_scale: f64,
}

impl<T: Element> RoundedInputs<T> {
    /// Rounds the inputs of a layer.
    ///
    /// # Errors
    /// [`Defect::TooLarge`] if a number is too large for `T`, [`Defect::Reference`] if the
    /// reference refuses the shapes.
    pub fn new(layer: &RecordedLayer) -> Result<Self, Defect> {
        let gradient_scale = match &layer.dy {
            Some(dy) => gradient_scale(T::DTYPE, layer, dy)?,
            None => 1.0,
        };
        Ok(Self {
            x: layer.x.rounded(1.0)?,
            weight: layer.weight.rounded(1.0)?,
            bias: layer
                .bias
                .as_ref()
                .map(|bias| bias.rounded(1.0))
                .transpose()?,
            lora_a: layer.lora_a.rounded(1.0)?,
            lora_b: layer.lora_b.rounded(1.0)?,
            dy: layer
                .dy
                .as_ref()
                .map(|dy| dy.rounded(gradient_scale))
                .transpose()?,
            gradient_scale,
        })
    }
}
