//! A context that no other test shares.

use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};
use ptx_emulator::select::emulated;

pub fn own_context() -> Arc<CudaContext> {
    emulated().expect("the emulated driver");
    result::init().expect("the driver");
    let mut context = std::ptr::null_mut();
    // SAFETY: a new context, which is handed over at once.
    unsafe {
        sys::cuCtxCreate_v4(&mut context, std::ptr::null_mut(), 0, 0)
            .result()
            .expect("a context");
        CudaContext::from_raw_context(0, 0, context).expect("a context")
    }
}
