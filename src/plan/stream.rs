//! Splits of the kernels that stream one matrix: shrink, grad_b and grad_a.

use super::{DeviceProps, Variant};
use crate::{Problem, Role};

/// How a streaming kernel splits its rows over blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowSplit {
    /// Blocks one below the other, each with its own rows.
    pub row_splits: usize,
    /// Rows of a split, a multiple of any kernel's row block; the last split may have fewer.
    pub rows_per_split: usize,
}

impl RowSplit {
    /// Of every tile's row blocks a whole number, so that sums do not depend on the tile.
    const ROWS: usize = 64;

    /// With so many blocks side by side, one per column group and rank tile, about one block per
    /// multiprocessor: partial sums are written and read once per split, and one block keeps enough
    /// copies in flight.
    pub(super) fn new(tokens: usize, side_by_side: usize, device: &DeviceProps) -> Self {
        if tokens == 0 {
            return Self {
                row_splits: 0,
                rows_per_split: Self::ROWS,
            };
        }
        let multiprocessors = device.multiprocessors() as usize;
        let fewer = (multiprocessors / side_by_side).max(1);
        // Rounded up where rounding down would leave more than a fifth of the device idle.
        let wanted = if 5 * fewer * side_by_side >= 4 * multiprocessors {
            fewer
        } else {
            multiprocessors.div_ceil(side_by_side)
        };
        let row_blocks = tokens.div_ceil(Self::ROWS);
        let rows_per_split = row_blocks.div_ceil(wanted.min(row_blocks)) * Self::ROWS;
        Self {
            row_splits: tokens.div_ceil(rows_per_split),
            rows_per_split,
        }
    }
}

/// Column groups of one matrix.
pub(super) fn column_groups(variant: Variant, columns: usize) -> usize {
    columns.div_ceil(variant.block().1)
}

/// Blocks that sum the partial gradients of each adapted projection: eight elements per thread, at
/// most a block per multiprocessor in all.
pub(super) fn reduce_blocks(
    problem: &Problem,
    tensor: Role,
    threads: u32,
    device: &DeviceProps,
) -> Vec<u32> {
    let adapted = problem.adapted().count() as u64;
    let most = (u64::from(device.multiprocessors()) / adapted).max(1);
    let blocks = |(projection, _)| {
        let (rows, columns) = problem.shape_of(projection, tensor);
        let elements = rows as u64 * columns as u64;
        elements.div_ceil(8 * u64::from(threads)).clamp(1, most) as u32
    };
    problem.adapted().map(blocks).collect()
}
