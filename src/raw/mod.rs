//! Launches on device addresses and a `CUstream`, for frameworks, C, and other programs that own
//! their memory.
//!
//! A call enqueues its kernels and returns. It doesn't allocate, synchronise, read device memory,
//! lock, or record events. Loading [`Kernels`] resolves all functions and raises their
//! shared-memory limits, so a call can be captured in a CUDA graph.

mod calls;
mod driver;
mod images;
mod kept_errors;
mod kernels;
mod launch;
mod prepared;
mod table_entry;
mod tensor_map;

pub use driver::context;
pub(crate) use driver::{driver_error, make_current};
pub use images::{built_architectures, built_toolkit};
pub(crate) use kept_errors::KeptErrors;
pub use kernels::Kernels;
#[doc(hidden)]
pub use prepared::PreparedLaunch;
pub use table_entry::{
    GRADIENT_ENTRY_BYTES, RawTableGradients, TABLE_ENTRY_BYTES, gradient_entry, table_entry,
};
pub use tensor_map::encode_tensor_map;

use crate::bind::{Backward, BackwardProjection, Forward, ForwardProjection, Merge, Raw};
pub use crate::bind::{DevicePointer, ForwardRecord, MergeWeight, RawTable, Saved};

/// The adapters that the rows of [`ForwardArgs`] or [`BackwardArgs`] go through.
pub type RowsArgs = crate::bind::RawRows;

/// Arguments of [`Kernels::forward_raw`]. Shapes, strides and alignments are those of the plan's
/// problem.
pub type ForwardArgs<'a> = Forward<Raw, &'a [ForwardProjectionArgs]>;

/// One projection of [`ForwardArgs`].
pub type ForwardProjectionArgs = ForwardProjection<Raw>;

/// One adapter of [`ForwardArgs`], [`BackwardArgs`] or [`MergeArgs`].
pub type LoraArgs = crate::bind::Lora<DevicePointer>;

/// Arguments of [`Kernels::backward_raw`]. Shapes, strides and alignments are those of the plan's
/// problem. Without a record, it is not checked that the backward fits its forward.
pub type BackwardArgs<'a> = Backward<Raw, &'a [BackwardProjectionArgs]>;

/// One projection of [`BackwardArgs`].
pub type BackwardProjectionArgs = BackwardProjection<Raw>;

/// The gradients of one adapter of [`BackwardArgs`].
pub type LoraGradientsArgs = crate::bind::LoraGradients<DevicePointer>;

/// Arguments of [`Kernels::merge_raw`]. Shapes, strides and alignments are those of the plan's
/// problem. In `MergeWeight::Apart`, the weight and the merged weight may have the same address:
/// the merge is then in place.
pub type MergeArgs<'a> = Merge<Raw, &'a [LoraArgs]>;
