//! How the skinny kernels, which stream one matrix, split their work over blocks.

use super::{DeviceProps, Variant};

/// How a kernel splits the rows of its streamed matrix over blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RowSplit {
    /// The number of splits of the rows.
    pub row_splits: usize,
    /// Rows of a split, a multiple of every kernel's row block. The last split may have fewer.
    pub rows_per_split: usize,
}

impl RowSplit {
    /// A multiple of every tile's row block, so that sums do not depend on the tile.
    const ROWS: usize = 64;

    /// Splits the rows so that there is about one block per multiprocessor. `side_by_side` is the
    /// number of blocks for the same rows: one per column group and rank tile. More blocks would
    /// only add traffic, because every split writes and reads partial sums, and one block keeps
    /// enough copies in flight.
    pub(super) fn new(tokens: usize, side_by_side: usize, device: &DeviceProps) -> Self {
        if tokens == 0 {
            return Self {
                row_splits: 0,
                rows_per_split: Self::ROWS,
            };
        }
        let wanted = Self::wanted(side_by_side, device);
        let row_blocks = tokens.div_ceil(Self::ROWS);
        let rows_per_split = row_blocks.div_ceil(wanted.min(row_blocks)) * Self::ROWS;
        Self {
            row_splits: tokens.div_ceil(rows_per_split),
            rows_per_split,
        }
    }

    /// The most row splits of a matrix with up to so many rows.
    pub(super) fn most(tokens: usize, side_by_side: usize, device: &DeviceProps) -> usize {
        Self::wanted(side_by_side, device).min(tokens.div_ceil(Self::ROWS))
    }

    fn wanted(side_by_side: usize, device: &DeviceProps) -> usize {
        let multiprocessors = device.multiprocessors() as usize;
        let fewer = (multiprocessors / side_by_side).max(1);
        // Rounded up where rounding down would leave more than a fifth of the device idle.
        if 5 * fewer * side_by_side >= 4 * multiprocessors {
            fewer
        } else {
            multiprocessors.div_ceil(side_by_side)
        }
    }
}

/// The number of column groups of a matrix.
pub(super) fn column_groups(variant: Variant, columns: usize) -> usize {
    columns.div_ceil(variant.block().1)
}
