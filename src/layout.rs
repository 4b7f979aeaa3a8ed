//! Layouts of matrices in memory.

use crate::{DType, Error, Result, Role};

/// The layout of a matrix in memory. The elements of a row are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Elements from the start of one row to the start of the next; at least the number of columns.
    pub row_stride: i64,
    /// The alignment of the first element's address in bytes: a power of two, at least the
    /// element's size. A plan made for 16 can choose the fast kernels. A call with a less aligned
    /// address is an error.
    pub alignment: usize,
}

impl Layout {
    /// Checks that a tensor with this shape can have the layout.
    pub(crate) fn check(
        &self,
        tensor: Role,
        (rows, columns): (usize, usize),
        dtype: DType,
    ) -> Result<()> {
        let bytes = self
            .row_stride
            .checked_mul(rows as i64)
            .and_then(|n| n.checked_mul(dtype.size() as i64));
        if self.row_stride < columns as i64 || bytes.is_none() {
            return Err(Error::Stride {
                tensor,
                given: self.row_stride,
                columns,
            });
        }
        if !self.alignment.is_power_of_two() || self.alignment < dtype.size() {
            return Err(Error::LayoutAlignment {
                tensor,
                given: self.alignment,
                element: dtype.size(),
            });
        }
        Ok(())
    }

    /// Whether every row starts at a multiple of `bytes`.
    pub(crate) fn rows_aligned(&self, rows: usize, dtype: DType, bytes: u64) -> bool {
        let row_bytes = self.row_stride as u64 * dtype.size() as u64;
        // A single row has no other row that its stride could misalign.
        self.alignment as u64 >= bytes && (rows <= 1 || row_bytes.is_multiple_of(bytes))
    }
}

/// How the base weight is stored. The adapters' matrices are (r, K) and (N, r) in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum WeightLayout {
    /// (out_features, in_features), as in `torch.nn.Linear`.
    #[default]
    OutIn = 0,
    /// (in_features, out_features), as in GPT-2's `Conv1D`: PEFT's `fan_in_fan_out`.
    InOut = 1,
}

impl WeightLayout {
    /// (rows, columns) of a weight as stored.
    pub(crate) fn shape(self, out_features: usize, in_features: usize) -> (usize, usize) {
        match self {
            WeightLayout::OutIn => (out_features, in_features),
            WeightLayout::InOut => (in_features, out_features),
        }
    }
}
