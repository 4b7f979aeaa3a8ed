//! Matrices on the device: a view, a shape and a row stride.

use std::sync::Arc;

use cudarc::driver::{
    CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop,
};

/// A matrix in device memory to read from, row-major with contiguous columns. Nothing is checked
/// until it is used.
pub struct MatRef<'a, T> {
    data: CudaView<'a, T>,
    geometry: Geometry,
}

/// A matrix in device memory to write to, row-major with contiguous columns. Nothing is checked
/// until it is used.
pub struct MatMut<'a, T> {
    data: CudaViewMut<'a, T>,
    geometry: Geometry,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub rows: usize,
    pub columns: usize,
    pub row_stride: i64,
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
    /// The (rows, columns) matrix whose first element is the view's first, rows following each
    /// other without gaps.
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

    /// And how many elements its memory has.
    pub(crate) fn geometry(&self) -> (Geometry, usize) {
        (self.geometry, self.data.len())
    }

    pub(crate) fn pointer<'s>(&'s self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
        self.data.device_ptr(stream)
    }

    pub(crate) fn home(&self) -> &Arc<CudaStream> {
        self.data.stream()
    }
}

impl<'a, T> MatMut<'a, T> {
    /// The (rows, columns) matrix whose first element is the view's first, rows following each
    /// other without gaps.
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

    /// With `row_stride` elements from the start of one row to the start of the next. What lies
    /// between the rows is not written.
    pub fn with_row_stride(mut self, row_stride: i64) -> Self {
        self.geometry.row_stride = row_stride;
        self
    }

    /// And how many elements its memory has.
    pub(crate) fn geometry(&self) -> (Geometry, usize) {
        (self.geometry, self.data.len())
    }

    pub(crate) fn pointer<'s>(&'s mut self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
        self.data.device_ptr_mut(stream)
    }

    pub(crate) fn home(&self) -> &Arc<CudaStream> {
        self.data.stream()
    }
}
