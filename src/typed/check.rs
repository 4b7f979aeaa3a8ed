//! What is checked of matrices before their addresses are taken; the raw call checks the rest.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, DeviceSlice};

use super::calls::{Lora, LoraGradients};
use super::matrix::{Geometry, MatMut, MatRef};
use crate::raw::{argument, driver_error, which};
use crate::{Argument, DType, Element, Error, Kernels, Problem, Result, Role};

/// One call's problem and context.
pub(super) struct Checks<'a> {
    kernels: &'a Kernels,
    problem: &'a Problem,
}

impl<'a> Checks<'a> {
    /// Types, stream and the number of projections. Makes the context current.
    pub fn new<T: Element, A: Element>(
        kernels: &'a Kernels,
        stream: &Arc<CudaStream>,
        problem: &'a Problem,
        projections: usize,
    ) -> Result<Self> {
        types::<T, A>(problem.dtype(), problem.adapter_dtype())?;
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

    pub fn read<E>(&self, projection: usize, tensor: Role, matrix: &MatRef<'_, E>) -> Result<()> {
        let (geometry, elements) = matrix.geometry();
        self.matrix(projection, tensor, geometry, elements)?;
        self.home(argument(self.problem, projection, tensor), matrix.home())
    }

    pub fn write<E>(&self, projection: usize, tensor: Role, matrix: &MatMut<'_, E>) -> Result<()> {
        let (geometry, elements) = matrix.geometry();
        self.matrix(projection, tensor, geometry, elements)?;
        self.home(argument(self.problem, projection, tensor), matrix.home())
    }

    pub fn bias<E>(&self, projection: usize, bias: &CudaView<'_, E>) -> Result<()> {
        let (expected, what) = (
            self.problem.shape_of(projection, Role::Bias),
            argument(self.problem, projection, Role::Bias),
        );
        if bias.len() != expected.1 {
            return Err(Error::Shape {
                tensor: what,
                given: (1, bias.len()),
                expected,
            });
        }
        self.home(what, bias.stream())
    }

    pub fn lora<A>(&self, projection: usize, lora: Option<&Lora<'_, A>>) -> Result<()> {
        self.adapted(
            Argument::Lora(which(self.problem, projection)),
            projection,
            lora.is_some(),
        )?;
        let Some(lora) = lora else { return Ok(()) };
        self.read(projection, Role::LoraA, &lora.a)?;
        self.read(projection, Role::LoraB, &lora.b)
    }

    pub fn gradients<A>(
        &self,
        projection: usize,
        gradients: Option<&LoraGradients<'_, A>>,
    ) -> Result<()> {
        let what = Argument::Gradients(which(self.problem, projection));
        self.adapted(what, projection, gradients.is_some())?;
        let Some(gradients) = gradients else {
            return Ok(());
        };
        self.write(projection, Role::DLoraA, &gradients.a)?;
        self.write(projection, Role::DLoraB, &gradients.b)
    }

    pub fn bytes(
        &self,
        what: Argument,
        buffer: &impl DeviceSlice<u8>,
        needed: usize,
    ) -> Result<()> {
        bytes(self.kernels, what, buffer, needed)
    }

    fn adapted(&self, what: Argument, projection: usize, given: bool) -> Result<()> {
        if given == self.problem.projections()[projection].is_adapted() {
            return Ok(());
        }
        let hint = "see the rank in Problem::sharing_x";
        Err(Error::Optional { what, given, hint })
    }

    fn home(&self, what: Argument, stream: &Arc<CudaStream>) -> Result<()> {
        home(self.kernels, what, stream)
    }

    fn matrix(
        &self,
        projection: usize,
        tensor: Role,
        given: Geometry,
        available: usize,
    ) -> Result<()> {
        let expected = Expected {
            shape: self.problem.shape_of(projection, tensor),
            row_stride: self.problem.layout_of(projection, tensor).row_stride,
        };
        matrix(
            || argument(self.problem, projection, tensor),
            expected,
            given,
            available,
        )
    }
}

/// What a plan says of a matrix.
pub(super) struct Expected {
    /// (rows, columns)
    pub shape: (usize, usize),
    pub row_stride: i64,
}

/// A matrix with as many elements of memory. `name` is called for a message alone.
pub(super) fn matrix(
    name: impl Fn() -> Argument,
    expected: Expected,
    given: Geometry,
    available: usize,
) -> Result<()> {
    if (given.rows, given.columns) != expected.shape {
        return Err(Error::Shape {
            tensor: name(),
            given: (given.rows, given.columns),
            expected: expected.shape,
        });
    }
    let planned = expected.row_stride;
    if given.row_stride != planned {
        return Err(Error::PlannedStride {
            tensor: name(),
            given: given.row_stride,
            planned,
        });
    }
    // The problem has checked that there is a row, that the stride is positive and that all rows
    // fit in 63 bits.
    let needed = (given.rows - 1) * planned as usize + given.columns;
    if needed > available {
        return Err(Error::Bounds {
            tensor: name(),
            needed,
            available,
        });
    }
    Ok(())
}

/// The types of a call, against those of its plan.
pub(super) fn types<T: Element, A: Element>(tensors: DType, adapters: DType) -> Result<()> {
    for (what, given, planned) in [
        ("tensors", T::DTYPE, tensors),
        ("adapters", A::DTYPE, adapters),
    ] {
        if given != planned {
            return Err(Error::PlannedDType {
                what,
                given,
                planned,
            });
        }
    }
    Ok(())
}

/// Makes the kernels' context current, if the stream is of it.
pub(crate) fn bind(kernels: &Kernels, stream: &Arc<CudaStream>) -> Result<()> {
    home(kernels, Argument::Stream, stream)?;
    let bound = kernels.context().bind_to_thread();
    bound.map_err(|error| driver_error("making the context current", error))
}

/// Whether the memory of a stream is of the kernels' context.
pub(crate) fn home(kernels: &Kernels, what: Argument, stream: &Arc<CudaStream>) -> Result<()> {
    if stream.context().cu_ctx() == kernels.context().cu_ctx() {
        Ok(())
    } else {
        Err(Error::Context { what })
    }
}

pub(super) fn bytes(
    kernels: &Kernels,
    what: Argument,
    buffer: &impl DeviceSlice<u8>,
    needed: usize,
) -> Result<()> {
    let given = buffer.len();
    if given < needed {
        return Err(Error::Buffer {
            buffer: what,
            given,
            needed,
        });
    }
    home(kernels, what, buffer.stream())
}

/// Taking a pointer makes the stream wait for the memory's other users; cudarc keeps a failure of
/// that in the stream's context object, which need not be the one that the kernels were loaded
/// with.
pub(crate) fn waits(stream: &CudaStream) -> Result<()> {
    let failed = stream.context().check_err();
    failed.map_err(|error| driver_error("waiting for the arguments' other users", error))
}
