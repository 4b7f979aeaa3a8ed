//! The calling thread's current CUDA context: ours for the length of a call, afterwards what it
//! was.

use std::ptr;

use kernels::cudarc::driver::sys::{self, CUcontext};

use crate::error::Result;

/// Puts back, when dropped, the context that was current when it was made. For calls that change it
/// as they like.
pub struct Restored(CUcontext);

impl Restored {
    pub fn new() -> Self {
        let mut current = ptr::null_mut();
        // SAFETY: looks for the driver, whose initialisers any CUDA program runs.
        if unsafe { sys::is_culib_present() } {
            // SAFETY: writes one pointer. It fails before cuInit, when nothing is current.
            let _ = unsafe { sys::cuCtxGetCurrent(&mut current) };
        }
        Self(current)
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // SAFETY: as in `new`; the context was current a moment ago. A failure leaves nothing that
        // could be done.
        unsafe {
            if sys::is_culib_present() {
                let _ = sys::cuCtxSetCurrent(self.0);
            }
        }
    }
}

/// A context made current on top of what was, until dropped. Neither waits for anything, so that a
/// stream may be capturing.
pub struct Pushed(());

impl Pushed {
    pub fn new(context: CUcontext) -> Result<Self> {
        // SAFETY: the context is one that a live handle retains.
        let pushed = unsafe { sys::cuCtxPushCurrent_v2(context) };
        pushed.result().map_err(|error| kernels::Error::Driver {
            what: "making the context current".into(),
            code: error.0 as i32,
            description: format!("{error:?}"),
            hint: None,
        })?;
        Ok(Self(()))
    }
}

impl Drop for Pushed {
    fn drop(&mut self) {
        let mut popped = ptr::null_mut();
        // SAFETY: takes off what `new` has put on; writes one pointer.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}
