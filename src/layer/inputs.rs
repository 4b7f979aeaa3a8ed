//! What a layer computes on.

use cudarc::driver::CudaView;

use crate::{Dropout, Lora, Mask, MatRef, WeightLayout};

/// x and the adapted linear layers applied to it, as [`LoraLinear`](crate::LoraLinear) takes them.
/// All sizes are those of the matrices. `T` is the type of the tensors, `A` that of the adapters.
#[non_exhaustive]
pub struct LoraInputs<'a, T, A = T> {
    /// (tokens, in_features)
    pub x: MatRef<'a, T>,
    /// One, or up to [`Problem::MAX_PROJECTIONS`](crate::Problem::MAX_PROJECTIONS) that share x; at
    /// least one has an adapter, and all have a bias or none.
    pub projections: Vec<LoraProjection<'a, T, A>>,
    /// Which way round every weight is stored.
    pub weight_layout: WeightLayout,
    /// Dropout on the adapters' input. All of them see x under the same mask.
    pub dropout: Option<Dropout>,
    /// Where backward finds the dropout's mask.
    pub mask: Mask,
}

/// One linear layer of [`LoraInputs`]: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ.
#[non_exhaustive]
pub struct LoraProjection<'a, T, A = T> {
    /// W, (out_features, in_features), or transposed as [`LoraInputs::weight_layout`] says
    pub weight: MatRef<'a, T>,
    /// (out_features)
    pub bias: Option<CudaView<'a, T>>,
    /// A, (rank, in_features), and B, (out_features, rank); none where the layer has no adapter
    pub lora: Option<Lora<'a, A>>,
}

impl<'a, T, A> LoraInputs<'a, T, A> {
    /// Layers applied to x, with weights stored (out_features, in_features) and without dropout.
    pub fn new(x: MatRef<'a, T>, projections: impl Into<Vec<LoraProjection<'a, T, A>>>) -> Self {
        Self {
            x,
            projections: projections.into(),
            weight_layout: WeightLayout::default(),
            dropout: None,
            mask: Mask::default(),
        }
    }

    /// With dropout on the adapters' input, or without.
    pub fn with_dropout(mut self, dropout: impl Into<Option<Dropout>>) -> Self {
        self.dropout = dropout.into();
        self
    }

    /// With the dropout's mask kept from forward to backward, or drawn again.
    pub fn with_mask(mut self, mask: Mask) -> Self {
        self.mask = mask;
        self
    }

    /// With every weight stored this way round.
    pub fn with_weight_layout(mut self, weight_layout: WeightLayout) -> Self {
        self.weight_layout = weight_layout;
        self
    }
}

impl<'a, T, A> LoraProjection<'a, T, A> {
    /// A layer with an adapter, without a bias.
    pub fn new(weight: MatRef<'a, T>, lora: Lora<'a, A>) -> Self {
        Self {
            lora: Some(lora),
            ..Self::without_adapter(weight)
        }
    }

    /// A layer without an adapter, beside others that have one.
    pub fn without_adapter(weight: MatRef<'a, T>) -> Self {
        Self {
            weight,
            bias: None,
            lora: None,
        }
    }

    /// With a bias (out_features), or without.
    pub fn with_bias(mut self, bias: impl Into<Option<CudaView<'a, T>>>) -> Self {
        self.bias = bias.into();
        self
    }
}
