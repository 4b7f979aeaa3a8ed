//! Safe calls on cudarc's slices and streams: every shape, stride, bound, alignment, type and
//! context is checked before the first launch, and no stream involved may be captured. The kernels
//! are ordered with the streams that their memory belongs to.

mod calls;
pub(crate) mod check;
mod flags;
pub(crate) mod matrix;
mod merge;
pub(crate) mod order;
mod row_lists;
mod table;
mod views;

pub use calls::{
    Backward, BackwardProjection, DynBackward, DynBackwardProjection, DynForward,
    DynForwardProjection, DynLora, DynLoraGradients, Forward, ForwardProjection, Lora,
    LoraGradients,
};
pub use flags::Flags;
pub use matrix::{DynMatMut, DynMatRef, MatMut, MatRef, Matrix, ReadMatrix, WriteMatrix};
pub use merge::{DynMerge, Merge, MergeWeight};
pub use row_lists::RowLists;
pub use table::{
    AdapterTable, GradientTable, RawTableLora, TableGradients, TableLora, TableWithGradients,
};
pub use views::{Dynamic, RowsOfTable, RowsWithGradients, Typed, Views};
