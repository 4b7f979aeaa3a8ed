//! Errors of reading a file, or of what is asked of it.

use std::path::PathBuf;

use lora_kernels::DType;
use lora_kernels::reference::ShapeError;
use safetensors::SafeTensorError;

/// Why a file is not a recorded layer. Each message is one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum RecordedLayerError {
    /// The file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not a safetensors file.
    #[error("{} is not a safetensors file: {source}", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// The reader's error.
        source: SafeTensorError,
    },
    /// The file is well-formed, but holds no layer.
    #[error("{}: {defect}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        defect: Defect,
    },
}

/// A defect in a well-formed file, or in what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum Defect {
    /// A required tensor is missing.
    #[error(
        "tensor {name} is missing; a recorded layer has x, weight, lora_A and lora_B, and may have bias and dy"
    )]
    Missing {
        /// The tensor.
        name: &'static str,
    },
    /// A tensor has an element type that the kernels don't support.
    #[error("tensor {name} is {given}; it must be F32, F16 or BF16")]
    DType {
        /// The tensor.
        name: &'static str,
        /// What it is.
        given: safetensors::Dtype,
    },
    /// A tensor has the wrong number of dimensions.
    #[error("tensor {name} has shape {given:?}; it must have {expected}")]
    Dimensions {
        /// The tensor.
        name: &'static str,
        /// What it is.
        given: Vec<usize>,
        /// What it must be.
        expected: &'static str,
    },
    /// A tensor has no elements.
    #[error("tensor {name} has shape {given:?}; an empty tensor is no layer")]
    Empty {
        /// The tensor.
        name: &'static str,
        /// What it is.
        given: Vec<usize>,
    },
    /// A tensor's shape doesn't fit the others.
    #[error("tensor {name} is {} x {}; {because}, so it must be {} x {}", given.0, given.1, expected.0, expected.1)]
    Shape {
        /// The tensor.
        name: &'static str,
        /// What it is.
        given: (usize, usize),
        /// What it must be.
        expected: (usize, usize),
        /// Why.
        because: &'static str,
    },
    /// A tensor holds a NaN or an infinity.
    #[error("tensor {name} holds {value} at ({row}, {col}); every number must be finite")]
    NotFinite {
        /// The tensor.
        name: &'static str,
        /// The number.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
    },
    /// A number is too large for the type to compute in.
    #[error("tensor {name} holds {value} at ({row}, {col}), which is too large for {dtype}")]
    TooLarge {
        /// The tensor.
        name: &'static str,
        /// The number.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// The type to compute in.
        dtype: DType,
    },
    /// The metadata has no scaling.
    #[error(
        "the metadata has no scaling; it must hold lora_alpha / rank (or lora_alpha / sqrt(rank)) as text"
    )]
    NoScaling,
    /// The scaling is not a number that fits f32.
    #[error("the metadata's scaling is {given:?}; it must be a finite number that fits f32")]
    Scaling {
        /// What it is.
        given: String,
    },
    /// The reference refused the shapes.
    #[error("the reference refused the case: {0}")]
    Reference(#[from] ShapeError),
}
