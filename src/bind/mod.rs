//! From a call's arguments and its plan to the parameters of its kernels, without CUDA.
//!
//! The arguments of a call are one type, whatever stands for memory: [`Raw`] has device addresses,
//! the typed calls have views of cudarc's slices. Binding checks them against the plan, finds the
//! address of each region of `saved` and the workspace, and fills in the structs that the kernels
//! take. Nothing is launched before all of a call is checked.

// Only `raw` launches: without CUDA the calls are made by the tests alone.
#![cfg_attr(not(feature = "cuda"), allow(dead_code))]

mod args;
mod backward;
mod check;
mod common;
mod forward;
mod memory;
mod merge;
pub(crate) mod params;
mod record;

pub use args::{
    Backward, BackwardProjection, DevicePointer, Forward, ForwardProjection, Lora, LoraGradients,
    Merge, MergeWeight, Pointers, Raw,
};
#[cfg(feature = "cuda")]
pub(crate) use backward::backward;
#[cfg(feature = "cuda")]
pub(crate) use check::{adapted, argument, scaling as check_scaling};
#[cfg(feature = "cuda")]
pub(crate) use forward::forward;
pub use memory::Saved;
#[cfg(feature = "cuda")]
pub(crate) use merge::merge;
pub use record::ForwardRecord;
