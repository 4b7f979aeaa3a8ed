//! Changing a module's PTX as the emulated driver loads it.
//!
//! The use is a test of tests: plant a mistake in a kernel as it was compiled (take a fence out,
//! turn a parity round), and see that the run finds it.
//!
//! ```no_run
//! use ptx_emulator::counters::Control;
//!
//! ptx_emulator::select::emulated()?;
//! // Before the program loads its kernels.
//! Control::loaded()?.rewrite(|ptx| {
//!     ptx.contains(".entry my_kernel(")
//!         .then(|| ptx.replacen("bar.sync \t0;", "", 1))
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use crate::counters::{Control, ControlError, check, find};

/// Takes the changed text.
pub(crate) type Put = extern "C" fn(into: *mut c_void, text: *const u8, length: usize);
/// Gets a module's PTX, and gives what takes its place to `put`, with `into`, or nothing.
pub(crate) type Rewrite =
    extern "C" fn(text: *const u8, length: usize, into: *mut c_void, put: Put);

type Change = Box<dyn Fn(&str) -> Option<String> + Send>;

static CHANGE: Mutex<Option<Change>> = Mutex::new(None);

extern "C" fn rewrite(text: *const u8, length: usize, into: *mut c_void, put: Put) {
    // SAFETY: the driver gives a text of this length.
    let text = unsafe { std::slice::from_raw_parts(text, length) };
    let change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    if let (Some(change), Ok(text)) = (&*change, std::str::from_utf8(text))
        && let Some(changed) = change(text)
    {
        put(into, changed.as_ptr(), changed.len());
    }
}

impl Control {
    /// Has `change` see the PTX of every module that is loaded from now on. What it returns takes
    /// the PTX's place; the registers that a fatbin's machine code tells stay known. A second call
    /// replaces the first one's.
    ///
    /// `change` must not panic: where it finds something else than it means to change, it is best
    /// to note that for the test, and to return `None`.
    ///
    /// # Errors
    /// [`ControlError::NotLoaded`] where the driver is of another version.
    pub fn rewrite(
        &self,
        change: impl Fn(&str) -> Option<String> + Send + 'static,
    ) -> Result<(), ControlError> {
        type Set = extern "C" fn(Option<Rewrite>) -> u32;
        let set = find(c"ptx_emulator_rewrite")?;
        // SAFETY: this is the function of this name in driver/rewrite.rs, which takes that.
        let set = unsafe { std::mem::transmute::<*mut c_void, Set>(set) };
        *CHANGE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(change));
        check("ptx_emulator_rewrite", set(Some(rewrite)))
    }
}
