//! What a call computes with: weights, adapters and choices.

use candle_core::Tensor;
use lora_kernels::{Dropout, Mask, WeightLayout};

use crate::Backend;

/// One linear layer of those that share x: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ.
#[derive(Debug, Clone)]
pub struct Projection {
    /// W (out_features, in_features), or (in_features, out_features) as [`Options::weight_layout`]
    /// says; of x's type. Frozen: it gets no gradient, even where it is a variable.
    pub weight: Tensor,
    /// (out_features), of x's type, in all projections of a call or in none. Frozen, as the weight.
    pub bias: Option<Tensor>,
    /// What is trained. At least one projection of a call has one.
    pub lora: Option<Lora>,
}

/// An adapter. Both matrices are of x's type, or both f32 over an x of 16 bits; in all projections
/// of a call the same.
#[derive(Debug, Clone)]
pub struct Lora {
    /// lora_A (rank, in_features)
    pub a: Tensor,
    /// lora_B (out_features, rank)
    pub b: Tensor,
    /// lora_alpha / rank, or lora_alpha / √rank for rsLoRA.
    pub scaling: f32,
}

impl Lora {
    /// Whether it is part of a graph.
    pub(crate) fn is_tracked(&self) -> bool {
        self.a.track_op() || self.b.track_op()
    }
}

/// How a call computes.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Dropout on the adapters' input; none by default. The mask is a function of p, seed, offset,
    /// row and column alone, and all projections see the same: change the offset from call to call
    /// ([`crate::Masks`] does).
    pub dropout: Option<Dropout>,
    /// Whether backward reads the dropout's mask from memory (one bit per element of x, the
    /// default) or draws it again.
    pub mask: Mask,
    /// Which way round every weight of the call is stored; (out_features, in_features) by default.
    pub weight_layout: WeightLayout,
    /// Where it computes; by default where the tensors are.
    pub backend: Backend,
}
