//! Checks of views before their addresses are taken. Binding checks the rest.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceSlice};

use super::matrix::Matrix;
use crate::bind::{Lora, LoraGradients, Saved, adapted, argument};
use crate::plan::SavedLayout;
use crate::raw::driver_error;
use crate::{Argument, DType, Error, Kernels, Problem, Result, Role};

/// The checks of a call with a problem, in a context.
pub(super) struct Checks<'a> {
    kernels: &'a Kernels,
    problem: &'a Problem,
}

impl<'a> Checks<'a> {
    /// Checks the number of projections and the stream, and makes the context current.
    pub fn new(
        kernels: &'a Kernels,
        stream: &Arc<CudaStream>,
        problem: &'a Problem,
        projections: usize,
    ) -> Result<Self> {
        let planned = problem.projections().len();
        if projections != planned {
            return Err(Error::ProjectionCount {
                given: projections,
                planned,
            });
        }
        bind(kernels, stream)?;
        Ok(Self { kernels, problem })
    }

    pub fn matrix(&self, projection: usize, tensor: Role, given: &impl Matrix) -> Result<()> {
        let expected = Expected {
            dtype: self.problem.dtype_of(tensor),
            shape: self.problem.shape_of(projection, tensor),
            row_stride: self.problem.layout_of(projection, tensor).row_stride,
        };
        let what = || argument(self.problem, projection, tensor);
        matrix(self.kernels, what, expected, given)
    }

    pub fn lora<M: Matrix>(&self, projection: usize, lora: Option<&Lora<M>>) -> Result<()> {
        adapted(self.problem, projection, Argument::Lora, lora.is_some())?;
        let Some(lora) = lora else { return Ok(()) };
        self.matrix(projection, Role::LoraA, &lora.a)?;
        self.matrix(projection, Role::LoraB, &lora.b)
    }

    pub fn gradients<M: Matrix>(
        &self,
        projection: usize,
        gradients: Option<&LoraGradients<M>>,
    ) -> Result<()> {
        let given = gradients.is_some();
        adapted(self.problem, projection, Argument::Gradients, given)?;
        let Some(gradients) = gradients else {
            return Ok(());
        };
        self.matrix(projection, Role::DLoraA, &gradients.a)?;
        self.matrix(projection, Role::DLoraB, &gradients.b)
    }

    pub fn saved<B: DeviceSlice<u8>>(&self, saved: &Saved<B>, layout: &SavedLayout) -> Result<()> {
        saved.each(layout, |what, buffer, needed| {
            bytes(self.kernels, what, buffer, needed)
        })
    }

    pub fn workspace<B: DeviceSlice<u8>>(&self, buffer: Option<&B>, needed: usize) -> Result<()> {
        bytes(self.kernels, Argument::Workspace, buffer, needed)
    }
}

/// A matrix as the plan expects it.
pub(super) struct Expected {
    pub dtype: DType,
    /// (rows, columns)
    pub shape: (usize, usize),
    pub row_stride: i64,
}

/// Checks that a matrix has the planned type, shape and stride, and enough memory in the kernels'
/// context. `name` is called only for a message.
pub(super) fn matrix(
    kernels: &Kernels,
    name: impl Fn() -> Argument,
    expected: Expected,
    given: &impl Matrix,
) -> Result<()> {
    if given.dtype() != expected.dtype {
        return Err(Error::PlannedDType {
            tensor: name(),
            given: given.dtype(),
            planned: expected.dtype,
        });
    }
    let geometry = given.geometry();
    if (geometry.rows, geometry.columns) != expected.shape {
        return Err(Error::Shape {
            tensor: name(),
            given: (geometry.rows, geometry.columns),
            expected: expected.shape,
        });
    }
    let planned = expected.row_stride;
    // The stride of a single row has no meaning.
    if geometry.rows > 1 && geometry.row_stride != planned {
        return Err(Error::PlannedStride {
            tensor: name(),
            given: geometry.row_stride,
            planned,
        });
    }
    // The problem has checked that the stride is positive and that all rows fit into 63 bits.
    let needed = match geometry.rows {
        0 => 0,
        rows => (rows - 1) * planned as usize + geometry.columns,
    };
    let available = given.elements();
    if needed > available {
        return Err(Error::Bounds {
            tensor: name(),
            needed,
            available,
        });
    }
    home(kernels, name(), given.home())
}

/// Makes the kernels' context current, and refuses a stream of another context.
pub(crate) fn bind(kernels: &Kernels, stream: &Arc<CudaStream>) -> Result<()> {
    home(kernels, Argument::Stream, stream)?;
    let bound = kernels.context().bind_to_thread();
    bound.map_err(|error| driver_error("making the context current", error))
}

/// Refuses memory whose stream belongs to another context than the kernels.
pub(crate) fn home(kernels: &Kernels, what: Argument, stream: &Arc<CudaStream>) -> Result<()> {
    if stream.context().cu_ctx() == kernels.context().cu_ctx() {
        Ok(())
    } else {
        Err(Error::Context { what })
    }
}

/// Checks that a buffer has `needed` bytes. None is needed for 0 bytes.
pub(super) fn bytes<B: DeviceSlice<u8>>(
    kernels: &Kernels,
    what: Argument,
    buffer: Option<&B>,
    needed: usize,
) -> Result<()> {
    let given = buffer.map_or(0, DeviceSlice::len);
    if given < needed {
        return Err(Error::Buffer {
            buffer: what,
            given,
            needed,
        });
    }
    match buffer {
        Some(buffer) => home(kernels, what, buffer.stream()),
        None => Ok(()),
    }
}

/// Returns failures of taking pointers, which makes the stream wait for the memory's other users.
/// cudarc keeps such a failure in the stream's context object, which may not be the one that the
/// kernels were loaded with.
pub(crate) fn waits(stream: &CudaStream) -> Result<()> {
    let failed = stream.context().check_err();
    failed.map_err(|error| driver_error("waiting for the arguments' other users", error))
}
