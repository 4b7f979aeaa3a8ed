//! Matrices on the device: a view, a shape and a row stride.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};

use crate::{Error, Problem, Result, Tensor};

/// A matrix in device memory to read from, row-major with contiguous columns. Nothing is checked until it is used.
pub struct MatRef<'a, T> {
    data: CudaView<'a, T>,
    geometry: Geometry,
}

/// A matrix in device memory to write to, row-major with contiguous columns. Nothing is checked until it is used.
pub struct MatMut<'a, T> {
    data: CudaViewMut<'a, T>,
    geometry: Geometry,
}

#[derive(Debug, Clone, Copy)]
struct Geometry {
    rows: usize,
    columns: usize,
    row_stride: i64,
}

/// The same matrix again, to use it in several calls; the data is not copied.
impl<T> Clone for MatRef<'_, T> {
    fn clone(&self) -> Self {
        Self {
            data: self.data.slice(..),
            geometry: self.geometry,
        }
    }
}

impl<'a, T> MatRef<'a, T> {
    /// The (rows, columns) matrix whose first element is the view's first, rows following each other without gaps.
    pub fn new(data: CudaView<'a, T>, rows: usize, columns: usize) -> Self {
        Self {
            data,
            geometry: Geometry {
                rows,
                columns,
                row_stride: columns as i64,
            },
        }
    }

    /// With `row_stride` elements from the start of one row to the start of the next.
    pub fn with_row_stride(mut self, row_stride: i64) -> Self {
        self.geometry.row_stride = row_stride;
        self
    }

    pub(super) fn check(&self, tensor: Tensor, problem: &Problem) -> Result<()> {
        self.geometry.check(tensor, problem, self.data.len())
    }

    pub(super) fn pointer<'s>(&'s self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
        self.data.device_ptr(stream)
    }

    pub(super) fn home(&self) -> &Arc<CudaStream> {
        self.data.stream()
    }
}

impl<'a, T> MatMut<'a, T> {
    /// The (rows, columns) matrix whose first element is the view's first, rows following each other without gaps.
    pub fn new(data: CudaViewMut<'a, T>, rows: usize, columns: usize) -> Self {
        Self {
            data,
            geometry: Geometry {
                rows,
                columns,
                row_stride: columns as i64,
            },
        }
    }

    /// With `row_stride` elements from the start of one row to the start of the next. What lies between the rows is not written.
    pub fn with_row_stride(mut self, row_stride: i64) -> Self {
        self.geometry.row_stride = row_stride;
        self
    }

    pub(super) fn check(&self, tensor: Tensor, problem: &Problem) -> Result<()> {
        self.geometry.check(tensor, problem, self.data.len())
    }

    pub(super) fn pointer<'s>(&'s mut self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
        self.data.device_ptr_mut(stream)
    }

    pub(super) fn home(&self) -> &Arc<CudaStream> {
        self.data.stream()
    }
}

impl Geometry {
    fn check(&self, tensor: Tensor, problem: &Problem, available: usize) -> Result<()> {
        let (given, expected) = ((self.rows, self.columns), problem.shape(tensor));
        if given != expected {
            return Err(Error::Shape {
                tensor,
                given,
                expected,
            });
        }
        let planned = problem.layout(tensor).row_stride;
        if self.row_stride != planned {
            return Err(Error::PlannedStride {
                tensor,
                given: self.row_stride,
                planned,
            });
        }
        // `Problem` has checked that there is a row, that the stride is positive and that all rows fit in 63 bits.
        let needed = (self.rows - 1) * planned as usize + self.columns;
        if needed > available {
            return Err(Error::Bounds {
                tensor,
                needed,
                available,
            });
        }
        Ok(())
    }
}
