//! What decides a call's plan: sizes, types, layouts and choices, as its arguments have them.

use crate::{Formats, Layout, Mask, Problem, Projection, Result, Role, WeightLayout};

/// Calls of one signature have the same plans. It is the key of the plans that are kept, and
/// problems are made of nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    pub tokens: usize,
    pub in_features: usize,
    pub formats: Formats,
    pub bias: bool,
    pub dropout: bool,
    pub mask: Mask,
    pub weight_layout: WeightLayout,
    /// Backward computes dx.
    pub input_gradient: bool,
    /// Backward adds dA and dB to what is there.
    pub accumulate: bool,
    pub x: Layout,
    pub projections: Vec<ProjectionSignature>,
}

/// One projection. Results that a call allocates are contiguous and aligned: no layout says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ProjectionSignature {
    pub sizes: Projection,
    pub weight: Layout,
    pub lora: Option<[Layout; 2]>,
    /// Where backward's dy is not contiguous and aligned.
    pub dy: Option<Layout>,
    /// Where backward adds to dA and dB.
    pub gradients: Option<[Layout; 2]>,
}

impl Signature {
    /// No problem is without tokens, and a call without any plans nothing: what is checked of it is
    /// checked for one token.
    pub fn problem(&self) -> Result<Problem> {
        let sizes: Vec<Projection> = self.projections.iter().map(|one| one.sizes).collect();
        let mut problem = Problem::sharing_x(
            self.tokens.max(1),
            self.in_features,
            &sizes,
            self.formats.activations,
        )?
        .with_formats(self.formats)?
        .with_bias(self.bias)
        .with_dropout(self.dropout)
        .with_mask(self.mask)
        .with_weight_layout(self.weight_layout)
        .with_input_gradient(self.input_gradient)
        .with_accumulate(Role::DLoraA, self.accumulate)?
        .with_accumulate(Role::DLoraB, self.accumulate)?
        .with_layout(Role::X, self.x)?;
        for (index, one) in self.projections.iter().enumerate() {
            problem = problem.with_layout_of(index, Role::Weight, one.weight)?;
            for (tensors, layouts) in [
                ([Role::LoraA, Role::LoraB], one.lora),
                ([Role::DLoraA, Role::DLoraB], one.gradients),
            ] {
                for (tensor, layout) in tensors.into_iter().zip(layouts.into_iter().flatten()) {
                    problem = problem.with_layout_of(index, tensor, layout)?;
                }
            }
            if let Some(layout) = one.dy {
                problem = problem.with_layout_of(index, Role::DY, layout)?;
            }
        }
        Ok(problem)
    }
}
