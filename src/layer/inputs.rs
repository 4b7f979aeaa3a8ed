//! The inputs of a layer.

use cudarc::driver::CudaView;

use crate::{Dropout, Lora, Mask, MatRef, WeightLayout};

/// x and the adapted linear layers applied to it, for [`LoraLinear`](crate::LoraLinear). All sizes
/// are taken from the matrices. `T` is the type of the tensors, `A` that of the adapters.
#[non_exhaustive]
pub struct LoraInputs<'a, T, A = T> {
    /// (tokens, in_features)
    pub x: MatRef<'a, T>,
    /// Between one and [`Problem::MAX_PROJECTIONS`](crate::Problem::MAX_PROJECTIONS) projections
    /// that share x. At least one has an adapter, and either all have a bias or none has.
    pub projections: Vec<LoraProjection<'a, T, A>>,
    /// How every weight is stored.
    pub weight_layout: WeightLayout,
    /// Dropout on the adapters' input. All adapters use the same mask.
    pub dropout: Option<Dropout>,
    /// Where backward gets the dropout mask from.
    pub mask: Mask,
}

/// A linear layer of [`LoraInputs`]: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ.
#[non_exhaustive]
pub struct LoraProjection<'a, T, A = T> {
    /// W, (out_features, in_features), or transposed as [`LoraInputs::weight_layout`] says
    pub weight: MatRef<'a, T>,
    /// (out_features)
    pub bias: Option<CudaView<'a, T>>,
    /// A, (rank, in_features), and B, (out_features, rank); `None` if the layer has no adapter
    pub lora: Option<Lora<'a, A>>,
}

impl<'a, T, A> LoraInputs<'a, T, A> {
    /// Layers applied to x. The defaults are weights stored (out_features, in_features) and no
    /// dropout.
    pub fn new(x: MatRef<'a, T>, projections: impl Into<Vec<LoraProjection<'a, T, A>>>) -> Self {
        Self {
            x,
            projections: projections.into(),
            weight_layout: WeightLayout::default(),
            dropout: None,
            mask: Mask::default(),
        }
    }

    /// Sets the dropout on the adapters' input.
    pub fn with_dropout(mut self, dropout: impl Into<Option<Dropout>>) -> Self {
        self.dropout = dropout.into();
        self
    }

    /// Sets whether the dropout mask is stored for backward or drawn again there.
    pub fn with_mask(mut self, mask: Mask) -> Self {
        self.mask = mask;
        self
    }

    /// Sets how every weight is stored.
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

    /// A layer without an adapter, for calls with other layers that have one.
    pub fn without_adapter(weight: MatRef<'a, T>) -> Self {
        Self {
            weight,
            bias: None,
            lora: None,
        }
    }

    /// Sets the bias (out_features).
    pub fn with_bias(mut self, bias: impl Into<Option<CudaView<'a, T>>>) -> Self {
        self.bias = bias.into();
        self
    }
}
