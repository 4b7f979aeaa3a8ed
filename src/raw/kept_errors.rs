//! Errors that cudarc keeps.

use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError};

/// Errors of earlier drops, set aside. A context object keeps one until the next call of cudarc,
/// which returns it instead of doing its work. When this is dropped, they are back.
#[derive(Default)]
pub(crate) struct KeptErrors(Vec<(Arc<CudaContext>, DriverError)>);

impl KeptErrors {
    /// Those of one context object.
    pub fn of(context: &Arc<CudaContext>) -> Self {
        let mut kept = Self::default();
        kept.set_aside(context);
        kept
    }

    /// Sets aside what the object keeps now, and says whether there was something.
    pub fn set_aside(&mut self, context: &Arc<CudaContext>) -> bool {
        let Err(error) = context.check_err() else {
            return false;
        };
        self.0.push((context.clone(), error));
        true
    }
}

impl Drop for KeptErrors {
    fn drop(&mut self) {
        // An object keeps the newest.
        for (context, error) in self.0.drain(..).rev() {
            let newer = context.check_err().err();
            context.record_err::<()>(Err(newer.unwrap_or(error)));
        }
    }
}
