//! The order of a call on the device: its kernels run after everything that was enqueued on the
//! streams that its memory belongs to, and that memory is freed and used again only after them.
//!
//! cudarc frees memory on its home stream, the one that it was allocated on. It can make that
//! stream wait for another one's use, but it keeps a single event for all reads of a slice, and
//! none while it counts no further stream in that context object. So a call joins the home streams
//! itself, whatever cudarc tracks.

use std::sync::Arc;

use cudarc::driver::sys::{
    CUevent, CUevent_flags, CUevent_wait_flags, CUresult, CUstream, CUstreamCaptureStatus,
};
use cudarc::driver::{CudaStream, DriverError, result};

use crate::raw::{KeptErrors, driver_error, make_current};
use crate::{Argument, Error, Kernels, Result};

/// `CU_STREAM_LEGACY`, which null means, too.
const LEGACY: usize = 1;
/// `CU_STREAM_PER_THREAD`: another stream in each thread.
const PER_THREAD: usize = 2;

/// A call's place between the work of its own stream and that of its memory's home streams.
///
/// It also sets aside the errors that cudarc keeps of earlier drops: cudarc would skip the wait or
/// the record that meets one. It must be dropped after the guards of cudarc's pointers.
pub(crate) struct Order<'a> {
    kernels: &'a Kernels,
    stream: &'a CudaStream,
    /// The streams to join, each once: those of memory that the call's own stream doesn't order.
    homes: Vec<CUstream>,
    /// How many of them the call's stream waits for already.
    joined: usize,
    event: Option<Event>,
    kept: KeptErrors,
}

impl<'a> Order<'a> {
    /// The order of a call on this stream. Makes the kernels' context current.
    ///
    /// # Errors
    /// [`Error::Context`] for a stream of another context, [`Error::Capturing`] if it is being
    /// captured.
    pub fn new(kernels: &'a Kernels, stream: &'a Arc<CudaStream>) -> Result<Self> {
        same_context(kernels, Argument::Stream, stream)?;
        make_current(kernels.context())?;
        if is_capturing(stream.cu_stream())? {
            let what = Argument::Stream;
            return Err(Error::Capturing { what });
        }
        Ok(Self {
            kernels,
            stream,
            homes: Vec::new(),
            joined: 0,
            event: None,
            kept: KeptErrors::of(stream.context()),
        })
    }

    /// Takes in memory of this home stream.
    ///
    /// # Errors
    /// [`Error::Context`] for memory of another context, [`Error::Capturing`] if its stream is
    /// being captured.
    pub fn admit(&mut self, what: Argument, home: &CudaStream) -> Result<()> {
        same_context(self.kernels, what, home)?;
        self.kept.set_aside(home.context());
        let home = joined_for(home.cu_stream());
        if home == named(self.stream.cu_stream()) || self.homes.contains(&home) {
            return Ok(());
        }
        if is_capturing(home)? {
            return Err(Error::Capturing { what });
        }
        self.homes.push(home);
        Ok(())
    }

    /// Makes the call's stream wait for all that was enqueued on the home streams admitted so far.
    pub fn join(&mut self) -> Result<()> {
        let new = self.homes.get(self.joined..).unwrap_or_default();
        for &home in new {
            if self.event.is_none() {
                self.event = Some(Event::new()?);
            }
            // A second record doesn't change what waits for the first.
            if let Some(event) = &self.event {
                event.between(home, self.stream.cu_stream())?;
            }
        }
        self.joined = self.homes.len();
        Ok(())
    }

    /// Checks before anything is allocated or launched that cudarc's pointers brought the call's
    /// stream into the order that they are to bring it into, and into no capture.
    pub fn check(&mut self) -> Result<()> {
        // A wait that failed, or another thread's drop in the meantime: nobody can tell. If the
        // device has finished everything, no wait is needed.
        if self.kept.set_aside(self.stream.context()) {
            result::ctx::synchronize().map_err(|error| {
                driver_error("waiting for other uses of the call's memory", error)
            })?;
        }
        self.refuse_capture()
    }

    /// Ends the call, whether or not its launches succeeded: makes the home streams wait for them.
    /// The failure of a launch comes before one of this.
    pub fn end<T>(&self, launched: Result<T>) -> Result<T> {
        let released = self.release();
        let launched = launched?;
        released?;
        Ok(launched)
    }

    fn release(&self) -> Result<()> {
        let stream = self.stream.cu_stream();
        if let Err(capturing) = self.refuse_capture() {
            // Another thread began a capture during the call. A query is forbidden then, and makes
            // it fail: no graph comes out of it.
            // SAFETY: the stream is alive, and its context current.
            let _ = unsafe { cudarc::driver::sys::cuStreamQuery(stream) };
            return Err(capturing);
        }
        let Some(event) = &self.event else {
            return Ok(());
        };
        let mut homes = self.homes.iter();
        let released = event
            .record(stream)
            .and_then(|()| homes.try_for_each(|&home| event.wait(home)));
        released.or_else(|_| {
            // The memory must not be freed before the kernels have run.
            // SAFETY: as above.
            unsafe { result::stream::synchronize(stream) }
                .map_err(|error| driver_error("waiting for the call", error))
        })
    }

    fn refuse_capture(&self) -> Result<()> {
        if is_capturing(self.stream.cu_stream())? {
            let what = Argument::Stream;
            return Err(Error::Capturing { what });
        }
        Ok(())
    }
}

/// Refuses what belongs to another context than the kernels. cudarc has several objects for one
/// context, which are equal.
pub(crate) fn same_context(kernels: &Kernels, what: Argument, stream: &CudaStream) -> Result<()> {
    if stream.context() == kernels.context() {
        Ok(())
    } else {
        Err(Error::Context { what })
    }
}

/// A stream's handle, the same for both handles of the legacy stream.
fn named(stream: CUstream) -> CUstream {
    match stream as usize {
        LEGACY => std::ptr::null_mut(),
        _ => stream,
    }
}

/// The stream to join for memory of this home. Nobody can tell which thread's stream the per-thread
/// handle meant, nor which thread will free the memory. The legacy stream waits for the streams of
/// all threads, and they wait for it.
fn joined_for(home: CUstream) -> CUstream {
    match home as usize {
        PER_THREAD => std::ptr::null_mut(),
        _ => named(home),
    }
}

/// Whether the handle means another stream in each thread.
pub(crate) fn is_per_thread(stream: CUstream) -> bool {
    stream as usize == PER_THREAD
}

/// Whether work for a stream would be recorded instead of run, or is refused because it would have
/// to wait for a capture.
fn is_capturing(stream: CUstream) -> Result<bool> {
    // SAFETY: the stream is alive, and its context current.
    match unsafe { result::stream::is_capturing(stream) } {
        Ok(CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE) => Ok(false),
        Ok(_) | Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)) => Ok(true),
        Err(error) => Err(driver_error("asking whether a stream is captured", error)),
    }
}

/// An event of the current context.
struct Event(CUevent);

impl Event {
    fn new() -> Result<Self> {
        let event = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        event
            .map(Self)
            .map_err(|error| driver_error("creating an event", error))
    }

    /// Makes what is enqueued on `later` from now on wait for all that is on `earlier`.
    fn between(&self, earlier: CUstream, later: CUstream) -> Result<()> {
        self.record(earlier)?;
        self.wait(later)
    }

    fn record(&self, stream: CUstream) -> Result<()> {
        // SAFETY: the event and the stream are alive, and of the current context.
        unsafe { result::event::record(self.0, stream) }
            .map_err(|error| driver_error("recording an event", error))
    }

    fn wait(&self, stream: CUstream) -> Result<()> {
        let flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as above.
        unsafe { result::stream::wait_event(stream, self.0, flags) }
            .map_err(|error| driver_error("waiting for an event", error))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // What waits for it is not affected. A failure leaves an event behind, nothing else.
        // SAFETY: the event was created here and is not used again.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}
