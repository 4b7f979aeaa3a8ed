//! Launches on plain pointers and a plain stream: the layer for frameworks, C and anything with
//! memory of its own.
//!
//! A call enqueues its kernels and returns: no allocation, no synchronisation, no host read, no
//! lock, no event. All kernels are resolved and their shared memory raised when [`Kernels`] is
//! loaded, so a call can be captured in a CUDA graph.

mod bare;
mod calls;
mod check;
mod driver;
mod images;
mod kernels;
mod merge;

#[doc(hidden)]
pub use bare::BareLaunch;
pub(crate) use check::{argument, scaling as check_scaling, which};
pub use driver::context;
pub(crate) use driver::driver_error;
pub use images::built_architectures;
pub use kernels::Kernels;
pub use merge::{MergeAdapterArgs, MergeArgs};

use crate::Dropout;

/// A device address, as `CUdeviceptr`.
pub type DevicePointer = u64;

/// Arguments of [`Kernels::forward_raw`]. Shapes, strides and alignments are those of the plan's
/// problem.
#[derive(Debug, Clone, Copy)]
pub struct ForwardArgs<'a> {
    /// (tokens, in_features)
    pub x: DevicePointer,
    /// As many as the problem has.
    pub projections: &'a [ForwardProjectionArgs],
    /// Present exactly if the problem has dropout.
    pub dropout: Option<Dropout>,
    /// Out: `plan.saved().bytes()` bytes, for backward
    pub saved: DevicePointer,
    /// `plan.workspace_bytes()` bytes of scratch; may be 0 where that is 0
    pub workspace: DevicePointer,
}

/// One projection of [`ForwardArgs`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardProjectionArgs {
    /// (out_features, in_features), or transposed as the problem says
    pub weight: DevicePointer,
    /// (out_features), 0 where the problem has none
    pub bias: DevicePointer,
    /// (rank, in_features), 0 where the rank is
    pub lora_a: DevicePointer,
    /// (out_features, rank), 0 where the rank is
    pub lora_b: DevicePointer,
    /// lora_alpha / rank, or lora_alpha / √rank; of no meaning where the rank is 0
    pub scaling: f32,
    /// Out: (tokens, out_features)
    pub y: DevicePointer,
}

/// Arguments of [`Kernels::backward_raw`]. Shapes, strides and alignments are those of the plan's
/// problem.
#[derive(Debug, Clone, Copy)]
pub struct BackwardArgs<'a> {
    /// (tokens, in_features)
    pub x: DevicePointer,
    /// As many as the problem has.
    pub projections: &'a [BackwardProjectionArgs],
    /// As in forward.
    pub dropout: Option<Dropout>,
    /// What forward saved.
    pub saved: DevicePointer,
    /// Out: (tokens, in_features), 0 where the problem has no input gradient
    pub dx: DevicePointer,
    /// `plan.workspace_bytes()` bytes of scratch
    pub workspace: DevicePointer,
}

/// One projection of [`BackwardArgs`].
#[derive(Debug, Clone, Copy, Default)]
pub struct BackwardProjectionArgs {
    /// (tokens, out_features)
    pub dy: DevicePointer,
    /// (out_features, in_features), or transposed as the problem says
    pub weight: DevicePointer,
    /// (rank, in_features), 0 where the rank is
    pub lora_a: DevicePointer,
    /// (out_features, rank), 0 where the rank is
    pub lora_b: DevicePointer,
    /// As in forward.
    pub scaling: f32,
    /// Out: (rank, in_features), 0 where the rank is
    pub d_lora_a: DevicePointer,
    /// Out: (out_features, rank), 0 where the rank is
    pub d_lora_b: DevicePointer,
}
