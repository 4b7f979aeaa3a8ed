//! Finding the CUDA driver, and converting its error codes.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DriverError, result};

use super::images::built_toolkit;
use crate::{Error, Hint, Result};

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
    driver_library().is_some()
}

/// The driver's library, once more where it is loaded already.
pub(super) fn driver_library() -> Option<libloading::Library> {
    let names = if cfg!(windows) {
        ["nvcuda.dll", "cuda.dll"]
    } else {
        ["libcuda.so", "libcuda.so.1"]
    };
    // SAFETY: this loads the driver library, whose initialisers run in every CUDA program.
    names
        .iter()
        .find_map(|name| unsafe { libloading::Library::new(*name) }.ok())
}

/// Makes a context current on this thread. cudarc's function fails instead if the context object
/// keeps an error of an earlier drop.
pub(crate) fn make_current(context: &CudaContext) -> Result<()> {
    let wanted = context.cu_ctx();
    let set = || {
        if result::ctx::get_current()? != Some(wanted) {
            // SAFETY: the context object keeps its context alive.
            unsafe { result::ctx::set_current(wanted) }?;
        }
        Ok(())
    };
    set().map_err(|error| driver_error("making the context current", error))
}

/// A failed driver call.
pub(crate) fn driver_error(what: impl Into<String>, error: DriverError) -> Error {
    let DriverError(code) = error;
    Error::Driver {
        what: what.into(),
        code: code as i32,
        description: description(error),
        hint: hint(code),
    }
}

/// A failed call that loads an image. Whatever its code, the age of the driver is the likely reason
/// if the driver is older than the image.
pub(super) fn load_error(what: String, error: DriverError) -> Error {
    let DriverError(code) = error;
    Error::Driver {
        what,
        code: code as i32,
        description: description(error),
        hint: hint(code).or_else(|| older_driver(supported_version())),
    }
}

fn older_driver(supports: i32) -> Option<Hint> {
    let toolkit = built_toolkit().filter(|toolkit| toolkit.is_newer_than(supports))?;
    Some(Hint::OlderDriver { supports, toolkit })
}

/// The driver's name and text of an error: `CUDA_ERROR_INVALID_CONTEXT: invalid device context`.
fn description(error: DriverError) -> String {
    let texts = [error.error_name(), error.error_string()];
    let texts = texts
        .into_iter()
        .flatten()
        .map(|text| text.to_string_lossy());
    let known = texts.collect::<Vec<_>>().join(": ");
    if known.is_empty() {
        "unknown to the driver".to_owned()
    } else {
        known
    }
}

fn hint(code: CUresult) -> Option<Hint> {
    match code {
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => Some(Hint::NotCompiledForDevice {
            supports: supported_version(),
            toolkit: built_toolkit()?,
        }),
        // Older drivers don't know the format of newer images, nor their PTX.
        CUresult::CUDA_ERROR_INVALID_IMAGE | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            older_driver(supported_version())
        }
        CUresult::CUDA_ERROR_INVALID_CONTEXT | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED => {
            Some(Hint::NoCurrentContext)
        }
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_FAILED => Some(Hint::FaultedContext),
        _ => None,
    }
}

/// The newest CUDA version that the driver supports; 0 if it can't be asked.
pub(super) fn supported_version() -> i32 {
    let mut version = 0;
    // SAFETY: writes one integer.
    let asked = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    if asked == CUresult::CUDA_SUCCESS {
        version
    } else {
        0
    }
}
