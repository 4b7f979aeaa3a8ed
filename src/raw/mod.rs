//! Launches on plain pointers and a plain stream: the layer for frameworks, C and anything with memory of its own.
//!
//! A call enqueues its kernels and returns: no allocation, no synchronisation, no host read, no lock, no event. All kernels are resolved and
//! their shared memory raised when [`Kernels`] is loaded, so a call can be captured in a CUDA graph.

mod calls;
mod check;
mod driver;
mod images;
mod kernels;
#[doc(hidden)]
pub mod params;

pub use driver::context;
pub(crate) use driver::driver_error;
pub use kernels::Kernels;

use crate::Dropout;

/// A device address, as `CUdeviceptr`.
pub type DevicePointer = u64;

/// Arguments of [`Kernels::forward_raw`]. Shapes, strides and alignments are those of the plan's problem.
#[derive(Debug, Clone, Copy)]
pub struct ForwardArgs {
    /// (tokens, in_features)
    pub x: DevicePointer,
    /// (out_features, in_features)
    pub weight: DevicePointer,
    /// (out_features), 0 where the problem has none
    pub bias: DevicePointer,
    /// (rank, in_features)
    pub lora_a: DevicePointer,
    /// (out_features, rank)
    pub lora_b: DevicePointer,
    /// lora_alpha / rank, or lora_alpha / √rank
    pub scaling: f32,
    /// Present exactly if the problem has dropout.
    pub dropout: Option<Dropout>,
    /// Out: (tokens, out_features)
    pub y: DevicePointer,
    /// Out: `plan.saved().bytes()` bytes, for backward
    pub saved: DevicePointer,
}

/// Arguments of [`Kernels::backward_raw`]. Shapes, strides and alignments are those of the plan's problem.
#[derive(Debug, Clone, Copy)]
pub struct BackwardArgs {
    /// (tokens, out_features)
    pub dy: DevicePointer,
    /// (tokens, in_features)
    pub x: DevicePointer,
    /// (out_features, in_features)
    pub weight: DevicePointer,
    /// (rank, in_features)
    pub lora_a: DevicePointer,
    /// (out_features, rank)
    pub lora_b: DevicePointer,
    /// As in forward.
    pub scaling: f32,
    /// As in forward.
    pub dropout: Option<Dropout>,
    /// What forward saved.
    pub saved: DevicePointer,
    /// Out: (tokens, in_features)
    pub dx: DevicePointer,
    /// Out: (rank, in_features)
    pub d_lora_a: DevicePointer,
    /// Out: (out_features, rank)
    pub d_lora_b: DevicePointer,
    /// `plan.workspace_bytes()` bytes of scratch
    pub workspace: DevicePointer,
}
