#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod bound;
mod error;
mod gradient_scale;
mod inputs;
mod layer;
mod matrix;

pub use bound::largest_relative_error;
pub use error::{Defect, RecordedLayerError};
pub use inputs::RoundedInputs;
pub use layer::{RecordedLayer, RecordedResults};
pub use matrix::Matrix;
