//! The signature of a call: sizes, types, layouts and options, which decide its plan.

use crate::{Formats, Layout, Mask, Problem, Projection, Result, Role, WeightLayout};

/// The signature of a call. Calls with the same signature have the same plans, so it is the key of
/// the plan cache. Problems are made only from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    pub tokens: usize,
    pub in_features: usize,
    pub formats: Formats,
    pub bias: bool,
    pub dropout: bool,
    pub mask: Mask,
    pub weight_layout: WeightLayout,
    pub batch_invariant: bool,
    /// Whether there is no backward.
    pub inference: bool,
    /// Whether backward computes dx.
    pub input_gradient: bool,
    /// Whether backward adds dA and dB to previous values.
    pub accumulate: bool,
    pub x: Layout,
    pub projections: Vec<ProjectionSignature>,
}

/// The signature of a projection. Results that a call allocates are contiguous and aligned, so they
/// need no layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ProjectionSignature {
    pub sizes: Projection,
    pub weight: Layout,
    pub lora: Option<[Layout; 2]>,
    /// The layout of backward's dy, if it is not contiguous and aligned.
    pub dy: Option<Layout>,
    /// The layouts of dA and dB, if backward adds to them.
    pub gradients: Option<[Layout; 2]>,
}

impl Signature {
    /// Makes it that of a call without a backward, which stores no mask.
    pub fn infers(&mut self) {
        self.inference = true;
        self.mask = Mask::Redrawn;
    }

    pub fn problem(&self) -> Result<Problem> {
        let sizes: Vec<Projection> = self
            .projections
            .iter()
            .map(|projection| projection.sizes)
            .collect();
        let mut problem = Problem::sharing_x(
            self.tokens,
            self.in_features,
            &sizes,
            self.formats.activations,
        )?
        .with_formats(self.formats)?
        .with_bias(self.bias)
        .with_dropout(self.dropout)
        .with_mask(self.mask)
        .with_weight_layout(self.weight_layout)
        .with_batch_invariance(self.batch_invariant)
        .with_inference(self.inference)
        .with_input_gradient(self.input_gradient)
        .with_accumulate(Role::DLoraA, self.accumulate)?
        .with_accumulate(Role::DLoraB, self.accumulate)?
        .with_layout(Role::X, self.x)?;
        for (index, projection) in self.projections.iter().enumerate() {
            problem = problem.with_layout_of(index, Role::Weight, projection.weight)?;
            for (tensors, layouts) in [
                ([Role::LoraA, Role::LoraB], projection.lora),
                ([Role::DLoraA, Role::DLoraB], projection.gradients),
            ] {
                for (tensor, layout) in tensors.into_iter().zip(layouts.into_iter().flatten()) {
                    problem = problem.with_layout_of(index, tensor, layout)?;
                }
            }
            if let Some(layout) = projection.dy {
                problem = problem.with_layout_of(index, Role::DY, layout)?;
            }
        }
        Ok(problem)
    }
}
