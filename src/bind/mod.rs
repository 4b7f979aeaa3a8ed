//! Binding: from a call's arguments and its plan to the parameters of its kernels, without CUDA.
//!
//! The arguments of a call have one type that is generic over what represents memory: [`Raw`] uses
//! device addresses, the typed calls use views of cudarc's slices. Binding checks the arguments
//! against the plan, computes the address of each region of `saved` and the workspace, and fills in
//! the kernels' parameter structs. Nothing is launched before the whole call has been checked and
//! its tensor maps made, by an encoder that the caller gives: the driver's, or a test's.

// Only `raw` launches, so without CUDA only tests call these functions.
#![cfg_attr(not(feature = "cuda"), allow(dead_code))]

mod args;
mod backward;
mod check;
mod common;
mod decode;
mod extents;
mod forward;
mod maps;
mod memory;
mod merge;
pub(crate) mod params;
mod record;
mod rows_backward;
mod rows_forward;
mod tensor_map;
#[cfg(test)]
mod tests;

pub use args::{
    Backward, BackwardProjection, DevicePointer, Forward, ForwardProjection, Lora, LoraGradients,
    Merge, MergeWeight, Pointers, Raw, RawRows, RawTable, Rows,
};
#[cfg(any(feature = "cuda", test))]
pub(crate) use backward::backward;
#[cfg(feature = "cuda")]
pub(crate) use check::{adapted, argument, scaling as check_scaling};
#[cfg(any(feature = "cuda", test))]
pub(crate) use forward::forward;
pub use memory::Saved;
#[cfg(any(feature = "cuda", test))]
pub(crate) use merge::merge;
pub use record::ForwardRecord;
#[cfg(feature = "cuda")]
pub(crate) use record::scalings;
pub use tensor_map::{BoxedMatrix, Swizzle, TensorMap};
