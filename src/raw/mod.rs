//! Launches on plain pointers and a plain stream: the layer for frameworks, C and anything with
//! memory of its own.
//!
//! A call enqueues its kernels and returns: no allocation, no synchronisation, no host read, no
//! lock, no event. All kernels are resolved and their shared memory raised when [`Kernels`] is
//! loaded, so a call can be captured in a CUDA graph.

mod calls;
mod driver;
mod images;
mod kernels;
mod launch;
mod prepared;

pub use driver::context;
pub(crate) use driver::driver_error;
pub use images::built_architectures;
pub use kernels::Kernels;
#[doc(hidden)]
pub use prepared::PreparedLaunch;

use crate::bind::{Backward, BackwardProjection, Forward, ForwardProjection, Merge, Raw};
pub use crate::bind::{DevicePointer, ForwardRecord, MergeWeight, Saved};

/// Arguments of [`Kernels::forward_raw`]. Shapes, strides and alignments are those of the plan's
/// problem.
pub type ForwardArgs<'a> = Forward<Raw, &'a [ForwardProjectionArgs]>;

/// One projection of [`ForwardArgs`].
pub type ForwardProjectionArgs = ForwardProjection<Raw>;

/// One adapter of [`ForwardArgs`], [`BackwardArgs`] or [`MergeArgs`].
pub type LoraArgs = crate::bind::Lora<DevicePointer>;

/// Arguments of [`Kernels::backward_raw`]. Shapes, strides and alignments are those of the plan's
/// problem. Without a record nobody checks that the backward fits its forward.
pub type BackwardArgs<'a> = Backward<Raw, &'a [BackwardProjectionArgs]>;

/// One projection of [`BackwardArgs`].
pub type BackwardProjectionArgs = BackwardProjection<Raw>;

/// The gradients of one adapter of [`BackwardArgs`].
pub type LoraGradientsArgs = crate::bind::LoraGradients<DevicePointer>;

/// Arguments of [`Kernels::merge_raw`]. Shapes, strides and alignments are those of the plan's
/// problem. A weight that is merged apart from itself may have the merged one's address: then it is
/// merged in place.
pub type MergeArgs<'a> = Merge<Raw, &'a [LoraArgs]>;
