//! The inputs of a call: weights, adapters and options.

use candle_core::Tensor;
use lora_kernels::{Dropout, Mask, WeightLayout};

use crate::Backend;

/// One of the linear layers that share x: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ.
#[derive(Debug, Clone)]
pub struct Projection {
    /// W in x's type, (out_features, in_features) or (in_features, out_features), as
    /// [`Options::weight_layout`] says. It is frozen: it gets no gradient, even if it is a
    /// variable.
    pub weight: Tensor,
    /// The bias (out_features) in x's type. Either all projections of a call have one or none has.
    /// It is frozen like the weight.
    pub bias: Option<Tensor>,
    /// The adapter, which is trained. At least one projection of a call must have one.
    pub lora: Option<Lora>,
}

/// An adapter. Both matrices have x's type, or are f32 if x has 16 bits. The type is the same in
/// all projections of a call.
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
    /// Whether one of the matrices is part of a graph.
    pub(crate) fn is_tracked(&self) -> bool {
        self.a.track_op() || self.b.track_op()
    }
}

/// The options of a call.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Dropout on the adapters' input; none by default. The mask depends only on p, seed, offset,
    /// row and column, and all projections share it. Change the offset from call to call, as
    /// [`crate::Masks`] does.
    pub dropout: Option<Dropout>,
    /// Whether backward reads the dropout mask from memory (the default, one bit per element of x)
    /// or draws it again.
    pub mask: Mask,
    /// How every weight of the call is stored; (out_features, in_features) by default.
    pub weight_layout: WeightLayout,
    /// Where the call computes; by default where the tensors are.
    pub backend: Backend,
}
