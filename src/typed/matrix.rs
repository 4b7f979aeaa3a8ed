//! Matrices on the device: a view with a shape and a row stride.

use std::sync::Arc;

use cudarc::driver::{
    CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop,
};

use crate::{DType, Element};

/// A matrix in device memory to read from. It is row-major, and the elements of a row are
/// contiguous. Nothing is checked until it is used.
pub struct MatRef<'a, T> {
    data: CudaView<'a, T>,
    geometry: Geometry,
}

/// A matrix in device memory to write to. It is row-major, and the elements of a row are
/// contiguous. Nothing is checked until it is used.
pub struct MatMut<'a, T> {
    data: CudaViewMut<'a, T>,
    geometry: Geometry,
}

/// [`MatRef`] with an element type that is known at run time only.
pub struct DynMatRef<'a> {
    data: CudaView<'a, u8>,
    dtype: DType,
    geometry: Geometry,
}

/// [`MatMut`] with an element type that is known at run time only.
pub struct DynMatMut<'a> {
    data: CudaViewMut<'a, u8>,
    dtype: DType,
    geometry: Geometry,
}

/// The shape and stride of a matrix, as given to a call.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: i64,
}

impl Geometry {
    fn contiguous(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            row_stride: columns as i64,
        }
    }
}

/// Launches trust the addresses and lengths of these types, so no other type may claim to be one.
mod sealed {
    pub trait Sealed {}
}

/// The properties of a matrix that calls use, independent of its Rust type.
pub trait Matrix: sealed::Sealed {
    /// The element type.
    #[doc(hidden)]
    fn dtype(&self) -> DType;
    /// The shape and stride.
    #[doc(hidden)]
    fn geometry(&self) -> Geometry;
    /// The number of elements in its memory.
    #[doc(hidden)]
    fn elements(&self) -> usize;
    /// The stream that the memory belongs to.
    #[doc(hidden)]
    fn home(&self) -> &Arc<CudaStream>;
}

/// A matrix that is read.
pub trait ReadMatrix: Matrix {
    /// Its address, for use on a stream.
    #[doc(hidden)]
    fn pointer<'s>(&'s self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>);
}

/// A matrix that is written.
pub trait WriteMatrix: Matrix {
    /// Its address, for use on a stream.
    #[doc(hidden)]
    fn pointer_mut<'s>(&'s mut self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>);
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

/// The same matrix again, to use it in several calls; the data is not copied.
impl Clone for DynMatRef<'_> {
    fn clone(&self) -> Self {
        Self {
            data: self.data.slice(..),
            ..*self
        }
    }
}

impl<'a, T> MatRef<'a, T> {
    /// The (rows, columns) matrix whose first element is the view's first, rows following each
    /// other without gaps.
    pub fn new(data: CudaView<'a, T>, rows: usize, columns: usize) -> Self {
        let geometry = Geometry::contiguous(rows, columns);
        Self { data, geometry }
    }

    /// With `row_stride` elements from the start of one row to the start of the next.
    pub fn with_row_stride(mut self, row_stride: i64) -> Self {
        self.geometry.row_stride = row_stride;
        self
    }
}

impl<'a, T> MatMut<'a, T> {
    /// The (rows, columns) matrix whose first element is the view's first, rows following each
    /// other without gaps.
    pub fn new(data: CudaViewMut<'a, T>, rows: usize, columns: usize) -> Self {
        let geometry = Geometry::contiguous(rows, columns);
        Self { data, geometry }
    }

    /// With `row_stride` elements from the start of one row to the start of the next. What lies
    /// between the rows is not written.
    pub fn with_row_stride(mut self, row_stride: i64) -> Self {
        self.geometry.row_stride = row_stride;
        self
    }
}

impl<'a> DynMatRef<'a> {
    /// The (rows, columns) matrix of this type that starts with the view's first byte, rows
    /// following each other without gaps.
    pub fn new(data: CudaView<'a, u8>, dtype: DType, rows: usize, columns: usize) -> Self {
        Self {
            data,
            dtype,
            geometry: Geometry::contiguous(rows, columns),
        }
    }

    /// With `row_stride` elements from the start of one row to the start of the next.
    pub fn with_row_stride(mut self, row_stride: i64) -> Self {
        self.geometry.row_stride = row_stride;
        self
    }
}

impl<'a> DynMatMut<'a> {
    /// The (rows, columns) matrix of this type that starts with the view's first byte, rows
    /// following each other without gaps.
    pub fn new(data: CudaViewMut<'a, u8>, dtype: DType, rows: usize, columns: usize) -> Self {
        Self {
            data,
            dtype,
            geometry: Geometry::contiguous(rows, columns),
        }
    }

    /// With `row_stride` elements from the start of one row to the start of the next. What lies
    /// between the rows is not written.
    pub fn with_row_stride(mut self, row_stride: i64) -> Self {
        self.geometry.row_stride = row_stride;
        self
    }
}

macro_rules! matrix {
    ([$($generics:tt)*] $type:ty, $self:ident: $dtype:expr, $elements:expr) => {
        impl<$($generics)*> sealed::Sealed for $type {}
        impl<$($generics)*> Matrix for $type {
            fn dtype(&$self) -> DType {
                $dtype
            }
            fn geometry(&$self) -> Geometry {
                $self.geometry
            }
            fn elements(&$self) -> usize {
                $elements
            }
            fn home(&$self) -> &Arc<CudaStream> {
                $self.data.stream()
            }
        }
    };
}

matrix!([T: Element] MatRef<'_, T>, self: T::DTYPE, self.data.len());
matrix!([T: Element] MatMut<'_, T>, self: T::DTYPE, self.data.len());
matrix!([] DynMatRef<'_>, self: self.dtype, self.data.len() / self.dtype.size());
matrix!([] DynMatMut<'_>, self: self.dtype, self.data.len() / self.dtype.size());

impl<T: Element> sealed::Sealed for CudaView<'_, T> {}

/// A bias: one row.
impl<T: Element> Matrix for CudaView<'_, T> {
    fn dtype(&self) -> DType {
        T::DTYPE
    }
    fn geometry(&self) -> Geometry {
        Geometry::contiguous(1, self.len())
    }
    fn elements(&self) -> usize {
        self.len()
    }
    fn home(&self) -> &Arc<CudaStream> {
        self.stream()
    }
}

macro_rules! read {
    ([$($generics:tt)*] $type:ty, $self:ident: $data:expr) => {
        impl<$($generics)*> ReadMatrix for $type {
            fn pointer<'s>(&'s $self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
                $data.device_ptr(stream)
            }
        }
    };
}

read!([T: Element] MatRef<'_, T>, self: self.data);
read!([] DynMatRef<'_>, self: self.data);
read!([T: Element] CudaView<'_, T>, self: self);

macro_rules! write {
    ([$($generics:tt)*] $type:ty) => {
        impl<$($generics)*> WriteMatrix for $type {
            fn pointer_mut<'s>(&'s mut self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
                self.data.device_ptr_mut(stream)
            }
        }
    };
}

write!([T: Element] MatMut<'_, T>);
write!([] DynMatMut<'_>);
