//! What a problem is asked for: sizes, types, shapes and layouts.

use super::{Problem, Projection};
use crate::{DType, Formats, Layout, Mask, Role, RowAdapters, WeightLayout};

impl Problem {
    /// Rows of x: M. Without any, a forward gives an empty y and a backward zero gradients.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of x: K.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The layers that share x.
    pub fn projections(&self) -> &[Projection] {
        &self.projections
    }

    /// The type of each role.
    pub fn formats(&self) -> &Formats {
        &self.formats
    }

    /// The element type of the activations: x, y, dy, dx and the bias.
    pub fn dtype(&self) -> DType {
        self.formats.activations
    }

    /// The element type of lora_A and lora_B.
    pub fn adapter_dtype(&self) -> DType {
        self.formats.adapters
    }

    /// The element type of a tensor.
    pub fn dtype_of(&self, tensor: Role) -> DType {
        match tensor {
            Role::X | Role::Y | Role::DY | Role::DX | Role::Bias => self.formats.activations,
            Role::Weight | Role::Merged => self.formats.weight.dtype(),
            Role::LoraA | Role::LoraB => self.formats.adapters,
            Role::DLoraA | Role::DLoraB => self.formats.gradients,
        }
    }

    /// Which adapter each row of x uses.
    pub fn row_adapters(&self) -> RowAdapters {
        self.row_adapters
    }

    /// Whether a bias is added to every y.
    pub fn has_bias(&self) -> bool {
        self.bias
    }

    /// Whether the adapters' input goes through dropout.
    pub fn has_dropout(&self) -> bool {
        self.dropout
    }

    /// Whether seed and offset of the dropout are read from device memory.
    pub fn has_dropout_from_memory(&self) -> bool {
        self.dropout_words
    }

    /// The row and the column of the whole layer's dropout mask where this problem's begins.
    pub fn mask_origin(&self) -> (u64, u64) {
        (self.mask_origin.0.into(), self.mask_origin.1)
    }

    /// Where backward gets the dropout mask from.
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// How the weights are stored.
    pub fn weight_layout(&self) -> WeightLayout {
        self.weight_layout
    }

    /// Whether backward computes dx.
    pub fn has_input_gradient(&self) -> bool {
        self.input_gradient
    }

    /// Whether there will be no backward.
    pub fn is_inference(&self) -> bool {
        self.inference
    }

    /// Whether the bits of a row of y depend on this row alone.
    pub fn is_batch_invariant(&self) -> bool {
        self.batch_invariant
    }

    /// Whether only the adapters are computed.
    pub fn is_delta_only(&self) -> bool {
        self.delta_only
    }

    /// Whether an output is added to its previous values.
    pub fn accumulates(&self, tensor: Role) -> bool {
        self.accumulate[tensor as usize] || self.delta_only && matches!(tensor, Role::Y | Role::DX)
    }

    /// The layout of x, dx, or a tensor of the first projection.
    pub fn layout(&self, tensor: Role) -> Layout {
        self.layout_of(0, tensor)
    }

    /// The layout of a tensor of a projection.
    pub fn layout_of(&self, projection: usize, tensor: Role) -> Layout {
        match self.layouts.get(home(projection, tensor)) {
            Some(layouts) => layouts[tensor as usize],
            None => self.contiguous(projection, tensor),
        }
    }

    /// (rows, columns) of x, dx, or a tensor of the first projection.
    pub fn shape(&self, tensor: Role) -> (usize, usize) {
        self.shape_of(0, tensor)
    }

    /// (rows, columns) of a tensor of a projection. A projection that doesn't exist has no features
    /// and no rank.
    pub fn shape_of(&self, projection: usize, tensor: Role) -> (usize, usize) {
        let Projection { out_features, rank } = self
            .projections
            .get(projection)
            .copied()
            .unwrap_or_default();
        match tensor {
            Role::X | Role::DX => (self.tokens, self.in_features),
            Role::Weight | Role::Merged => self.weight_layout.shape(out_features, self.in_features),
            Role::LoraA | Role::DLoraA => (rank, self.in_features),
            Role::LoraB | Role::DLoraB => (out_features, rank),
            Role::Y | Role::DY => (self.tokens, out_features),
            Role::Bias => (1, out_features),
        }
    }

    /// The columns of S and T: the sum of the ranks, each rounded up to 16, and with a table as
    /// many for each place in a row's list.
    pub fn padded_ranks(&self) -> usize {
        self.rank_offset(self.projections.len())
    }

    /// The first column of a projection in S and T.
    pub fn rank_offset(&self, projection: usize) -> usize {
        let before = self.projections.iter().take(projection);
        let ranks: usize = before.map(Projection::padded_rank).sum();
        ranks.saturating_mul(self.row_adapters.per_row())
    }

    /// The projections that have an adapter, with their indices.
    pub(crate) fn adapted(&self) -> impl Iterator<Item = (usize, Projection)> + '_ {
        let all = self.projections.iter().copied().enumerate();
        all.filter(|(_, projection)| projection.is_adapted())
    }

    pub(super) fn contiguous(&self, projection: usize, tensor: Role) -> Layout {
        Layout {
            row_stride: self.shape_of(projection, tensor).1 as i64,
            alignment: match tensor {
                Role::Bias | Role::DLoraA | Role::DLoraB => self.dtype_of(tensor).size(),
                _ => 16,
            },
        }
    }
}

/// The projection that the layout of a tensor is stored with.
pub(super) fn home(projection: usize, tensor: Role) -> usize {
    if matches!(tensor, Role::X | Role::DX) {
        0
    } else {
        projection
    }
}
