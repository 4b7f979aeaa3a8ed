//! The tensor maps of a call: which box of an operand one bulk copy takes.
//!
//! Elements have 16 bits and boxes 64 columns: a row of a box has 128 bytes, within which the
//! swizzle permutes. What a product sums over lies along the rows of a K-major operand, and along
//! the columns of an MN-major one.

use super::memory::Buffer;
use super::params::{PackJob, PackParams};
use super::{BoxedMatrix, DevicePointer, Swizzle, TensorMap, common};
use crate::plan::{Packing, Tile};
use crate::{Problem, Result, Role};

/// Makes a tensor map, as the driver does.
pub(crate) type Encode = fn(&BoxedMatrix) -> Result<TensorMap>;

/// Columns of every box.
const BOX_COLUMNS: u32 = 64;

/// Rows of the boxes of outputs, and of MN-major weights.
const SQUARE: u32 = BOX_COLUMNS;

/// Rows of the boxes of lora_A: the ranks of one wgmma.
const RANKS: u32 = 16;

/// What a box of a tensor holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Boxed {
    /// All rows of a tile, of x, S, dy or T.
    Rows,
    /// Half of a tile's columns, of a K-major weight or lora_B. Each block of a cluster brings one
    /// half for both.
    HalfOfColumns,
    /// 64 of the depth, of an MN-major weight.
    Depth,
    /// 16 of the depth, of lora_A.
    Ranks,
    /// A chunk of the epilogue, of y or dx.
    Output,
}

impl Boxed {
    fn rows(self, tile: Tile) -> u32 {
        match self {
            Boxed::Rows => tile.rows as u32,
            Boxed::HalfOfColumns => tile.columns as u32 / 2,
            Boxed::Depth | Boxed::Output => SQUARE,
            Boxed::Ranks => RANKS,
        }
    }
}

/// The maps of one launch.
pub(super) struct Maps<'a> {
    pub problem: &'a Problem,
    pub tile: Tile,
    pub encode: Encode,
}

impl Maps<'_> {
    /// The map of a tensor as the caller has it.
    pub fn tensor(
        &self,
        (projection, tensor): (usize, Role),
        address: DevicePointer,
        boxed: Boxed,
    ) -> Result<TensorMap> {
        let layout = self.problem.layout_of(projection, tensor);
        let shape = self.problem.shape_of(projection, tensor);
        self.matrix(shape, layout.row_stride as u64, address, boxed)
    }

    /// The map of an adapter's matrix, or of its copy in the workspace where there is one.
    pub fn adapter(
        &self,
        (projection, tensor): (usize, Role),
        address: DevicePointer,
        copy: Option<(DevicePointer, usize)>,
        boxed: Boxed,
    ) -> Result<TensorMap> {
        let Some((copy, row_stride)) = copy else {
            return self.tensor((projection, tensor), address, boxed);
        };
        let shape = self.problem.shape_of(projection, tensor);
        self.matrix(shape, row_stride as u64, copy, boxed)
    }

    /// The map of S or T, whose rows have no gaps.
    pub fn low_rank(&self, address: DevicePointer) -> Result<TensorMap> {
        let (tokens, ranks) = (self.problem.tokens(), self.problem.padded_ranks());
        self.matrix((tokens, ranks), ranks as u64, address, Boxed::Rows)
    }

    fn matrix(
        &self,
        (rows, columns): (usize, usize),
        row_stride: u64,
        address: DevicePointer,
        boxed: Boxed,
    ) -> Result<TensorMap> {
        let (rows, columns) = (rows as u64, columns as u64);
        // A single row may have any stride, which a map may not.
        let row_stride = match rows {
            1 => columns.next_multiple_of(8),
            _ => row_stride,
        };
        (self.encode)(&BoxedMatrix {
            address,
            dtype: self.problem.dtype(),
            rows,
            columns,
            row_stride,
            box_rows: boxed.rows(self.tile),
            box_columns: BOX_COLUMNS,
            swizzle: Swizzle::Bytes128,
        })
    }
}

/// Of each adapted projection, the address and the row stride of the copy that its matrix is packed
/// into, where it is.
pub(super) fn copies(
    packing: &Packing,
    workspace: Buffer,
) -> impl Iterator<Item = Option<(DevicePointer, usize)>> {
    let all = packing.of_adapted.iter();
    all.map(move |packed| packed.map(|packed| (workspace.at(packed.region), packed.row_stride)))
}

/// The parameters for packing a matrix of every adapted projection; `from` has an item for each.
pub(super) fn pack(
    problem: &Problem,
    tensor: Role,
    packing: &Packing,
    workspace: Buffer,
    from: impl Iterator<Item = DevicePointer>,
) -> PackParams {
    let mut params = PackParams {
        from_f32: common::adapter_f32(problem),
        ..bytemuck::Zeroable::zeroed()
    };
    let matrices = problem.adapted().zip(from).zip(&packing.of_adapted);
    for (((projection, _), from), packed) in matrices {
        let Some(packed) = packed else { continue };
        let (rows, columns) = problem.shape_of(projection, tensor);
        params.job[params.jobs as usize] = PackJob {
            from,
            to: workspace.at(packed.region),
            from_stride: problem.layout_of(projection, tensor).row_stride,
            to_stride: packed.row_stride as i64,
            rows: rows as i32,
            columns: columns as i32,
            first_block: params.blocks,
            pad: 0,
        };
        params.blocks += packed.blocks as i32;
        params.jobs += 1;
    }
    params
}
