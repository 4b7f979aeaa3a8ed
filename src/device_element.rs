//! What the elements of device memory are, apart from their arithmetic.

/// What cudarc asks of an element in device memory; nothing in a build without CUDA.
#[cfg(feature = "cuda")]
pub trait DeviceElement: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits {}

#[cfg(feature = "cuda")]
impl<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits> DeviceElement for T {}

/// What cudarc asks of an element in device memory; nothing in a build without CUDA.
#[cfg(not(feature = "cuda"))]
pub trait DeviceElement {}

#[cfg(not(feature = "cuda"))]
impl<T> DeviceElement for T {}
