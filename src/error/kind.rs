//! The categories of errors.

use super::Error;

/// The category of an error, which tells who can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A problem has impossible sizes, types or layouts.
    Problem,
    /// The arguments of a call don't fit each other or the plan.
    Arguments,
    /// This device, or this build's kernels, can't run the problem or plan.
    Unsupported,
    /// Nothing can run, because there is no driver or the build has no kernels.
    Unavailable,
    /// The CUDA driver returned an error, or an earlier launch failed.
    Driver,
}

impl Error {
    /// The category.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Dimension { .. }
            | Error::Projections { .. }
            | Error::NotAdapted
            | Error::RowAdapters { .. }
            | Error::Adapters { .. }
            | Error::NoAdapter { .. }
            | Error::NoPart { .. }
            | Error::NoProjection { .. }
            | Error::AdapterDType { .. }
            | Error::Format { .. }
            | Error::MaskOrigin { .. }
            | Error::Accumulate { .. }
            | Error::Stride { .. }
            | Error::LayoutAlignment { .. }
            | Error::TensorMap { .. } => ErrorKind::Problem,
            Error::DropoutProbability { .. }
            | Error::NoSlot { .. }
            | Error::TableFull { .. }
            | Error::TableRank { .. }
            | Error::TableStride { .. }
            | Error::EmptySlot { .. }
            | Error::RowList { .. }
            | Error::NoAdapterThere { .. }
            | Error::GradientRank { .. }
            | Error::OtherTable { .. }
            | Error::DropoutWords { .. }
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
            | Error::Overlap { .. }
            | Error::AddressRange { .. }
            | Error::Context { .. }
            | Error::Capturing { .. }
            | Error::Length { .. }
            | Error::OtherDevice { .. } => ErrorKind::Arguments,
            Error::Device { .. } | Error::Grid { .. } | Error::NoKernel { .. } => {
                ErrorKind::Unsupported
            }
            Error::NoDriver | Error::KernelsNotBuilt => ErrorKind::Unavailable,
            Error::Driver { .. } => ErrorKind::Driver,
        }
    }
}
