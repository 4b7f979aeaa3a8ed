//! Safe calls on cudarc's slices and streams: every shape, stride, bound, alignment, type and
//! context is checked before the first launch.

mod calls;
pub(crate) mod check;
pub(crate) mod matrix;
mod merge;

pub use calls::{Backward, BackwardProjection, Forward, ForwardProjection, Lora, LoraGradients};
pub use matrix::{MatMut, MatRef};
pub use merge::{Merge, MergeWeight};
