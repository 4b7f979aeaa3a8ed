//! The flags of a layer's calls for inference.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaStream;

use crate::typed::Flags;
use crate::typed::order::is_per_thread;
use crate::{Result, typed};

/// The flags of all calls on a stream. The calls run one after another, and each leaves the flags
/// zero for the next.
#[derive(Default)]
pub(super) struct StreamFlags(Mutex<Option<Flags>>);

/// The flags of one call. Another call on the stream waits until this one is enqueued.
pub(super) enum CallFlags<'f> {
    /// Those of the stream
    Shared(MutexGuard<'f, Option<Flags>>),
    /// Of this call alone; `None` if it needs none
    Own(Option<Flags>),
}

impl StreamFlags {
    /// At least `bytes` bytes of flags for a call on this stream. They are zeroed in the stream's
    /// order when they are allocated, and replaced by larger ones when a call needs more.
    pub fn of_call(&self, stream: &Arc<CudaStream>, bytes: usize) -> Result<CallFlags<'_>> {
        if bytes == 0 {
            return Ok(CallFlags::Own(None));
        }
        if is_per_thread(stream.cu_stream()) {
            // Calls of several threads run at the same time.
            return Ok(CallFlags::Own(Some(Flags::new(stream, bytes)?)));
        }
        // Flags are whole or absent even if a thread panicked while it held the lock.
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.as_ref().is_none_or(|flags| flags.bytes() < bytes) {
            // What was there is freed after the calls that use it.
            *shared = Some(Flags::new(stream, bytes)?);
        }
        Ok(CallFlags::Shared(shared))
    }
}

impl CallFlags<'_> {
    pub fn get(&mut self) -> Option<&mut typed::Flags> {
        match self {
            CallFlags::Shared(flags) => flags.as_mut(),
            CallFlags::Own(flags) => flags.as_mut(),
        }
    }

    /// Gives the flags up after a call that may not have left them zero.
    pub fn discard(&mut self) {
        match self {
            CallFlags::Shared(flags) => **flags = None,
            CallFlags::Own(flags) => *flags = None,
        }
    }
}
