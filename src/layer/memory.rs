//! Allocates memory for results and scratch, in the order of the caller's stream.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, DriverError, SyncOnDrop, result,
};

use crate::raw::{DevicePointer, driver_error};
use crate::{DType, Result};

/// Allocates memory that a call overwrites before it is read, so it is not cleared.
pub(super) fn uninitialised<T: DeviceRepr>(
    stream: &Arc<CudaStream>,
    what: &str,
    elements: usize,
) -> Result<CudaSlice<T>> {
    if elements == 0 {
        return empty(stream, what);
    }
    let bytes = elements.saturating_mul(size_of::<T>());
    let failed = |error| driver_error(format!("allocating {bytes} bytes for {what}"), error);
    // cudarc would allocate fewer bytes than the elements have.
    if bytes > isize::MAX as usize {
        return Err(failed(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)));
    }
    // SAFETY: every bit pattern is a valid value of an element type. The kernels write each element
    // of an output, and each element of scratch memory that they read.
    unsafe { stream.alloc(elements) }.map_err(failed)
}

/// The memory of a (rows, columns) matrix of this type, as a slice of it or of bytes.
pub(super) fn matrix<T: DeviceRepr>(
    stream: &Arc<CudaStream>,
    what: &str,
    (rows, columns): (usize, usize),
    dtype: DType,
) -> Result<CudaSlice<T>> {
    let elements = rows.saturating_mul(columns);
    uninitialised(
        stream,
        what,
        elements.saturating_mul(dtype.size() / size_of::<T>()),
    )
}

/// A slice without elements. CUDA has no empty allocations, so one element is allocated.
fn empty<T: DeviceRepr>(stream: &Arc<CudaStream>, what: &str) -> Result<CudaSlice<T>> {
    let allocated: CudaSlice<T> = uninitialised(stream, what, 1)?;
    // cudarc panics if it can't create the two events of the new slice. The allocation has just
    // created two and gives them back here, so a context out of resources failed above.
    // SAFETY: the address is that of an allocation of this stream that nothing else frees.
    Ok(unsafe { stream.upgrade_device_ptr(allocated.leak(), 0) })
}

/// Scratch memory: nothing is allocated for 0 bytes.
pub(super) fn scratch(stream: &Arc<CudaStream>, bytes: usize) -> Result<Option<CudaSlice<u8>>> {
    let needed = (bytes > 0).then(|| uninitialised(stream, "scratch memory", bytes));
    needed.transpose()
}

/// The address of memory that a call writes to. The guard records on the stream that the memory is
/// in use.
pub(super) fn written<'g, T>(
    memory: &'g mut CudaSlice<T>,
    stream: &'g CudaStream,
    guards: &mut Vec<SyncOnDrop<'g>>,
) -> DevicePointer {
    let (address, guard) = memory.device_ptr_mut(stream);
    guards.push(guard);
    address
}

/// Copies memory of a stream's own to the host, and waits for it. cudarc's copy into ordinary
/// memory may return before.
pub(super) fn read_back(
    stream: &CudaStream,
    memory: &CudaSlice<u8>,
    bytes: &mut [u8],
) -> std::result::Result<(), DriverError> {
    let (address, _in_use) = memory.device_ptr(stream);
    let bytes = bytes.get_mut(..memory.len()).unwrap_or_default();
    // SAFETY: the memory has as many bytes, and both live until the stream has done the copy.
    unsafe {
        result::memcpy_dtoh_async(bytes, address, stream.cu_stream())?;
        result::stream::synchronize(stream.cu_stream())
    }
}
