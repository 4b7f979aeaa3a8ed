//! The errors of this crate.

use candle_core::DType;
use lora_kernels::MergeReport;

use crate::Projection;

/// Why a call was refused. Functions of this crate return it wrapped in
/// [`candle_core::Error::Wrapped`], so that `?` works in candle's code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the core crate.
    #[error(transparent)]
    Core(#[from] lora_kernels::Error),
    /// An error of the core crate's CPU reference.
    #[error(transparent)]
    Reference(#[from] lora_kernels::reference::ShapeError),
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A tensor whose shape doesn't fit the others.
    #[error("{tensor} is {given:?}, with these other tensors it must be {expected}")]
    Shape {
        /// Which tensor.
        tensor: String,
        /// Its dimensions.
        given: Vec<usize>,
        /// What they must be.
        expected: String,
    },
    /// A tensor whose rows aren't contiguous, or don't follow each other at one stride.
    #[error(
        "{tensor} with dimensions {dims:?} has strides {strides:?}: its last dimension must be contiguous and the others one row after the other \
         at a stride of at least {columns} elements; nothing is copied here, so give {tensor}.contiguous()"
    )]
    Layout {
        /// Which tensor.
        tensor: String,
        /// Its dimensions.
        dims: Vec<usize>,
        /// Its strides, in elements.
        strides: Vec<usize>,
        /// Elements of a row.
        columns: usize,
    },
    /// A type that the kernels don't support, or that differs from the other tensors' type.
    #[error("{tensor} is {given:?}, it must be {expected}")]
    DType {
        /// Which tensor.
        tensor: String,
        /// Its type.
        given: DType,
        /// What it may be.
        expected: String,
    },
    /// Some projections with a bias and some without.
    #[error(
        "projection {without} has no bias and others have: give all of them one (zeros where there is none) or none"
    )]
    Bias {
        /// The index of the first projection without a bias.
        without: usize,
    },
    /// Tensors on different devices, or on a device that the call can't compute on.
    #[error("{tensor} is on {given}: {hint}")]
    Device {
        /// Which tensor.
        tensor: String,
        /// Where it is.
        given: String,
        /// What to do.
        hint: String,
    },
    /// A dropout probability outside [0, 1).
    #[error("dropout probability {given}: it must be at least 0 and below 1")]
    DropoutProbability {
        /// The probability given.
        given: f32,
    },
    /// A scaling that is not finite.
    #[error(
        "scaling {given}: it must be finite (lora_alpha / rank, or lora_alpha / sqrt(rank) for rsLoRA)"
    )]
    Scaling {
        /// The scaling given.
        given: f32,
    },
    /// Some elements of a merged weight would be NaNs or infinities.
    #[error(
        "{count} elements of the merged weight would be NaNs or infinities in {dtype:?}: keep the adapter apart, or merge into a weight of a wider type"
    )]
    NonFinite {
        /// The number of these elements.
        count: u64,
        /// The weight's type.
        dtype: DType,
    },
    /// CUDA failed to allocate memory or to copy.
    #[error(
        "{what} failed, {bytes} bytes: {error}; where memory ran out, free some of the device's or give fewer rows of x at once"
    )]
    Memory {
        /// What was tried.
        what: &'static str,
        /// The number of bytes.
        bytes: usize,
        /// CUDA's message.
        error: String,
    },
    /// candle behaved in a way that this crate doesn't expect.
    #[error("{what}: candle never does this, so please report it")]
    Unexpected {
        /// What it did.
        what: &'static str,
    },
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            error => candle_core::Error::wrap(error),
        }
    }
}

/// The result of this crate's inner functions.
pub(crate) type Result<T> = std::result::Result<T, Error>;

pub(crate) fn memory<E: std::fmt::Debug>(what: &'static str, bytes: usize) -> impl Fn(E) -> Error {
    move |error| Error::Memory {
        what,
        bytes,
        error: format!("{error:?}"),
    }
}

/// The error of a safe merge that refused to write a weight.
pub(crate) fn non_finite(projection: &Projection, report: &MergeReport) -> Error {
    Error::NonFinite {
        count: report.non_finite,
        dtype: projection.weight.dtype(),
    }
}

/// Texts of [`Error::Unexpected`] about operations.
pub(crate) const FORWARD: &str = "an operation's forward ran twice, or on another device";
pub(crate) const BACKWARD: &str = "an operation's backward ran out of order";
