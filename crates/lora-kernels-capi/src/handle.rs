//! The loaded kernels.

use std::ffi::c_void;
use std::mem::ManuallyDrop;

use kernels::Kernels;

use crate::context::Restored;
use crate::device::lora_device;
use crate::error::{Error, Result};
use crate::handles::{self, Kind, Object};
use crate::status::{lora_status, run};
use crate::structs::{check_out, put, write};

/// All kernels, loaded into the primary context of a device. There may be several for one device.
pub struct lora_kernels {
    pub(crate) inner: ManuallyDrop<Kernels>,
}

impl Drop for lora_kernels {
    /// In whatever thread has used them last: that of a call which was under way when another
    /// thread freed them, or that of lora_kernels_free.
    fn drop(&mut self) {
        let _restored = Restored::new();
        // SAFETY: dropped here alone, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.inner) }
    }
}

impl Object for lora_kernels {
    const KIND: Kind = Kind::Kernels;
}

fn load(device: i32) -> Result<Kernels> {
    let ordinal = usize::try_from(device).map_err(|_| Error::Ordinal { given: device })?;
    let context = kernels::context(ordinal)?;
    Ok(Kernels::load(&context)?)
}

/// Retains the primary context of a device, the one that the CUDA runtime uses too, and loads the
/// kernels into it. Do it once, not while a stream is being captured; lora_kernels_free undoes it.
///
/// device: its ordinal, from 0.
/// kernels: out, the handle; untouched on failure.
///
/// LORA_STATUS_NO_DRIVER without a driver, LORA_STATUS_KERNELS_NOT_BUILT if the library was built
/// without its kernels, LORA_STATUS_DEVICE on a GPU before compute capability 8.0,
/// LORA_STATUS_DRIVER if the driver has no such device or refuses the kernels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_kernels_load(
    device: i32,
    kernels: *mut *mut lora_kernels,
) -> lora_status {
    run(|| {
        check_out(kernels, "kernels")?;
        let _restored = Restored::new();
        let loaded = lora_kernels {
            inner: ManuallyDrop::new(load(device)?),
        };
        // SAFETY: not null, and valid by the caller's promise.
        unsafe { put(kernels, handles::insert(loaded), "kernels") }
    })
}

/// Waits for all work of the context, unloads the kernels and releases the context. A CUDA graph
/// that was captured from calls with this handle must not be launched any more. Null is nothing to
/// do; what is no such handle, or no longer, is left alone, and lora_last_error() says so.
///
/// Waiting invalidates a capture of a stream of this context, in whatever thread: do it while none
/// is under way. Where nothing else retains the primary context, it ends with its last handle: no
/// thread may have it current then, the calling one included. The CUDA runtime retains it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_kernels_free(kernels: *mut lora_kernels) {
    run(|| {
        if !kernels.is_null() {
            drop(handles::remove(kernels, "kernels")?);
        }
        Ok(())
    });
}

/// What plans need to know of the handle's device.
///
/// device: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_kernels_device(
    kernels: *const lora_kernels,
    device: *mut lora_device,
) -> lora_status {
    run(|| {
        let props = lora_device::from(handles::find(kernels, "kernels")?.inner.props());
        // SAFETY: the caller's promise: null or valid.
        unsafe { write(device, &props, "device") }
    })
}

/// The CUcontext of the handle: streams and device addresses given to calls with it are of this
/// context.
///
/// context: out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_kernels_context(
    kernels: *const lora_kernels,
    context: *mut *mut c_void,
) -> lora_status {
    run(|| {
        let found = handles::find(kernels, "kernels")?.inner.context().cu_ctx();
        // SAFETY: the caller's promise: null or valid.
        unsafe { put(context, found.cast(), "context") }
    })
}
