//! Categories of errors.

use super::Error;

/// What an error is about, and so who can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Sizes, types or layouts that no problem can have.
    Problem,
    /// Arguments of a call that don't fit each other, or what the call was planned for.
    Arguments,
    /// A problem or plan that this device, or this build's kernels, can't run.
    Unsupported,
    /// No driver, or a build without kernels: nothing can run.
    Unavailable,
    /// The CUDA driver refused something, or an earlier launch failed.
    Driver,
}

impl Error {
    /// The category.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Dimension { .. }
            | Error::Projections { .. }
            | Error::NotAdapted
            | Error::Adapters { .. }
            | Error::NoAdapter { .. }
            | Error::NoPart { .. }
            | Error::NoProjection { .. }
            | Error::AdapterDType { .. }
            | Error::Format { .. }
            | Error::Accumulate { .. }
            | Error::Stride { .. }
            | Error::LayoutAlignment { .. }
            | Error::TensorMap { .. } => ErrorKind::Problem,
            Error::DropoutProbability { .. }
            | Error::Scaling { .. }
            | Error::InPlace { .. }
            | Error::AdapterCount { .. }
            | Error::Shape { .. }
            | Error::Fit { .. }
            | Error::SomeBiases { .. }
            | Error::OtherForward { .. }
            | Error::PlannedStride { .. }
            | Error::Bounds { .. }
            | Error::Alignment { .. }
            | Error::PlannedDType { .. }
            | Error::Optional { .. }
            | Error::ProjectionCount { .. }
            | Error::Buffer { .. }
            | Error::BufferAlignment { .. }
            | Error::Null { .. }
            | Error::Context { .. }
            | Error::OtherDevice { .. } => ErrorKind::Arguments,
            Error::Device { .. } | Error::Grid { .. } | Error::NoKernel { .. } => {
                ErrorKind::Unsupported
            }
            Error::NoDriver | Error::KernelsNotBuilt => ErrorKind::Unavailable,
            Error::Driver { .. } => ErrorKind::Driver,
        }
    }
}
