//! Finding the CUDA driver, and converting its error codes.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DriverError};

use crate::{Error, Result};

/// The primary context of a device. Without a driver this is an error, where cudarc would panic.
///
/// # Errors
/// [`Error::NoDriver`] if libcuda can't be loaded, [`Error::Driver`] if there is no such device.
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    if !is_driver_present() {
        return Err(Error::NoDriver);
    }
    CudaContext::new(ordinal)
        .map_err(|error| driver_error(format!("opening device {ordinal}"), error))
}

/// cudarc can tell only if it loads the driver itself. A program may have chosen to link the
/// driver, as candle does.
fn is_driver_present() -> bool {
    let names = if cfg!(windows) {
        ["nvcuda.dll", "cuda.dll"]
    } else {
        ["libcuda.so", "libcuda.so.1"]
    };
    // SAFETY: this loads and closes the driver library, whose initialisers run in every CUDA
    // program.
    names
        .iter()
        .any(|name| unsafe { libloading::Library::new(*name) }.is_ok())
}

pub(crate) fn driver_error(what: impl Into<String>, error: DriverError) -> Error {
    let DriverError(code) = error;
    Error::Driver {
        what: what.into(),
        code: code as i32,
        description: format!("{error:?}"),
        hint: hint(code),
    }
}

fn hint(code: CUresult) -> &'static str {
    match code {
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {
            ": the kernels were not compiled for this GPU; build with LORA_KERNELS_CUDA_ARCHS naming its compute capability"
        }
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            ": the driver is older than the nvcc that made the kernels; update it, or build with LORA_KERNELS_CUDA_ARCHS naming the GPU's compute capability so that no PTX has to be compiled"
        }
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_FAILED => {
            ": an earlier launch of this context faulted; the context can't be used any more"
        }
        _ => "",
    }
}
