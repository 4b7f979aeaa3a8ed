//! Safe calls on cudarc's slices and streams: every shape, stride, bound, alignment, type and context is checked before the first launch.

mod calls;
mod matrix;

pub use calls::{Backward, Forward};
pub use matrix::{MatMut, MatRef};
