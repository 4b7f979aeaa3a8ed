//! Tensor maps, encoded by the driver.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use bytemuck::Zeroable;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use super::driver::{driver_error, driver_library};
use crate::bind::{BoxedMatrix, Swizzle, TensorMap};
use crate::{DType, Error, Result};

/// `cuTensorMapEncodeTiled`. It is looked up rather than linked: cudarc declares it for CUDA 12 and
/// later alone, and drivers before 12.0 lack it.
type EncodeTiled = unsafe extern "C" fn(
    map: *mut TensorMap,
    data_type: u32,
    rank: u32,
    address: *mut c_void,
    sizes: *const u64,
    strides: *const u64,
    box_sizes: *const u32,
    element_strides: *const u32,
    interleave: u32,
    swizzle: u32,
    l2_promotion: u32,
    out_of_bounds: u32,
) -> CUresult;

/// `CUtensorMapL2promotion`: whole 128-byte lines.
const PROMOTE_TO_128_BYTES: u32 = 2;

/// A matrix as a tensor map. Nothing is read from it yet, and no context needs to be current.
///
/// # Errors
/// [`Error::TensorMap`] if no map can be so, [`Error::NoDriver`] without a driver,
/// [`Error::Device`] if it is older than CUDA 12.0, [`Error::Driver`] if it refuses.
pub fn encode_tensor_map(matrix: &BoxedMatrix) -> Result<TensorMap> {
    matrix.check()?;
    let encode = encode_tiled()?;
    let stride_bytes = matrix.row_stride * matrix.dtype.size() as u64;
    let mut map = TensorMap::zeroed();
    // SAFETY: every array has as many entries as the driver reads of it for two dimensions, and it
    // writes the map alone.
    let result = unsafe {
        encode(
            &mut map,
            data_type(matrix.dtype),
            2,
            matrix.address as *mut c_void,
            [matrix.columns, matrix.rows].as_ptr(),
            [stride_bytes].as_ptr(),
            [matrix.box_columns, matrix.box_rows].as_ptr(),
            [1, 1].as_ptr(),
            0,
            swizzle(matrix.swizzle),
            PROMOTE_TO_128_BYTES,
            0,
        )
    };
    match result {
        CUresult::CUDA_SUCCESS => Ok(map),
        refused => Err(driver_error("encoding a tensor map", DriverError(refused))),
    }
}

/// Whether the driver encodes tensor maps.
pub(super) fn has_tensor_maps() -> bool {
    encode_tiled().is_ok()
}

/// What there isn't.
#[derive(Clone, Copy)]
enum Missing {
    Driver,
    Function,
}

fn encode_tiled() -> Result<EncodeTiled> {
    static FOUND: OnceLock<std::result::Result<EncodeTiled, Missing>> = OnceLock::new();
    let find = || {
        // It stays loaded as long as the program runs, and so does its function.
        let library = ManuallyDrop::new(driver_library().ok_or(Missing::Driver)?);
        // SAFETY: the driver's function of that name has this signature.
        let found = unsafe { library.get::<EncodeTiled>(b"cuTensorMapEncodeTiled\0") };
        found.map(|symbol| *symbol).map_err(|_| Missing::Function)
    };
    FOUND.get_or_init(find).map_err(|missing| match missing {
        Missing::Driver => Error::NoDriver,
        Missing::Function => Error::Device {
            what: "driver",
            needed: "CUDA 12.0 or later (tensor maps)".into(),
            available: "none of them".into(),
        },
    })
}

/// `CUtensorMapDataType`.
fn data_type(dtype: DType) -> u32 {
    match dtype {
        DType::F16 => 6,
        DType::F32 => 7,
        DType::BF16 => 9,
    }
}

/// `CUtensorMapSwizzle`.
fn swizzle(swizzle: Swizzle) -> u32 {
    match swizzle {
        Swizzle::None => 0,
        Swizzle::Bytes32 => 1,
        Swizzle::Bytes64 => 2,
        Swizzle::Bytes128 => 3,
    }
}
