//! The inputs of a layer.

use cudarc::driver::{CudaView, DeviceRepr};

use crate::bind::Lora;
use crate::{
    Dropout, DynMatMut, DynMatRef, Element, Mask, MatMut, MatRef, ReadMatrix, WeightLayout,
    WriteMatrix,
};

/// x and the adapted linear layers applied to it, for [`LoraLinear`](crate::LoraLinear). All sizes
/// are taken from the matrices.
///
/// `M` is the type of x and the weights, `B` that of a bias, `A` that of an adapter's matrices:
/// [`LoraInputs`] and [`DynLoraInputs`] name the two combinations that there are.
#[non_exhaustive]
pub struct Inputs<M, B, A> {
    /// (tokens, in_features)
    pub x: M,
    /// Between one and [`Problem::MAX_PROJECTIONS`](crate::Problem::MAX_PROJECTIONS) projections
    /// that share x. At least one has an adapter, and either all have a bias or none has.
    pub projections: Vec<InputProjection<M, B, A>>,
    /// How every weight is stored.
    pub weight_layout: WeightLayout,
    /// Dropout on the adapters' input. All adapters use the same mask.
    pub dropout: Option<Dropout>,
    /// Where backward gets the dropout mask from.
    pub mask: Mask,
    /// Whether the bits of a row of y depend on nothing but this row, its adapter and the weights.
    pub batch_invariant: bool,
}

/// A linear layer of [`Inputs`]: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ.
#[non_exhaustive]
pub struct InputProjection<M, B, A> {
    /// W, (out_features, in_features), or transposed as [`Inputs::weight_layout`] says
    pub weight: M,
    /// (out_features)
    pub bias: Option<B>,
    /// A, (rank, in_features), and B, (out_features, rank); `None` if the layer has no adapter
    pub lora: Option<Lora<A>>,
}

/// [`Inputs`] with tensors of type `T` and adapters of type `A`.
pub type LoraInputs<'a, T, A = T> = Inputs<MatRef<'a, T>, CudaView<'a, T>, MatRef<'a, A>>;

/// One linear layer of [`LoraInputs`].
pub type LoraProjection<'a, T, A = T> =
    InputProjection<MatRef<'a, T>, CudaView<'a, T>, MatRef<'a, A>>;

/// [`Inputs`] with element types that are known at run time only.
pub type DynLoraInputs<'a> = Inputs<DynMatRef<'a>, DynMatRef<'a>, DynMatRef<'a>>;

/// One linear layer of [`DynLoraInputs`].
pub type DynLoraProjection<'a> = InputProjection<DynMatRef<'a>, DynMatRef<'a>, DynMatRef<'a>>;

/// A matrix that [`LoraLinear`](crate::LoraLinear) reads: [`MatRef`] or [`DynMatRef`].
pub trait LayerMatrix: ReadMatrix {
    /// The elements of slices of results: those of the matrix, or bytes.
    type Slice: DeviceRepr;
    /// The matrix to write to that has the same elements.
    type Mut<'m>: WriteMatrix;
}

impl<T: Element> LayerMatrix for MatRef<'_, T> {
    type Slice = T;
    type Mut<'m> = MatMut<'m, T>;
}

impl LayerMatrix for DynMatRef<'_> {
    type Slice = u8;
    type Mut<'m> = DynMatMut<'m>;
}

impl<M, B, A> Inputs<M, B, A> {
    /// Layers applied to x. The defaults are weights stored (out_features, in_features) and no
    /// dropout.
    pub fn new(x: M, projections: impl Into<Vec<InputProjection<M, B, A>>>) -> Self {
        Self {
            x,
            projections: projections.into(),
            weight_layout: WeightLayout::default(),
            dropout: None,
            mask: Mask::default(),
            batch_invariant: false,
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

    /// Sets whether the bits of a row of y depend on nothing but this row: not on other rows, nor
    /// on whether [`LoraLinear::forward`](crate::LoraLinear::forward) or
    /// [`LoraLinear::infer`](crate::LoraLinear::infer) computes it. The default is not, which can
    /// be faster.
    pub fn with_batch_invariance(mut self, batch_invariant: bool) -> Self {
        self.batch_invariant = batch_invariant;
        self
    }

    /// Sets how every weight is stored.
    pub fn with_weight_layout(mut self, weight_layout: WeightLayout) -> Self {
        self.weight_layout = weight_layout;
        self
    }
}

impl<M, B, A> InputProjection<M, B, A> {
    /// A layer with an adapter, without a bias.
    pub fn new(weight: M, lora: Lora<A>) -> Self {
        Self {
            lora: Some(lora),
            ..Self::without_adapter(weight)
        }
    }

    /// A layer without an adapter, for calls with other layers that have one.
    pub fn without_adapter(weight: M) -> Self {
        Self {
            weight,
            bias: None,
            lora: None,
        }
    }

    /// Sets the bias (out_features).
    pub fn with_bias(mut self, bias: impl Into<Option<B>>) -> Self {
        self.bias = bias.into();
        self
    }
}
