//! PTX that a program changes before it is decoded: a test plants a mistake in a kernel as it was
//! compiled, and sees it found.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use super::Outcome;
use super::abi::guard;
use crate::rewrite::Rewrite;

static REWRITE: Mutex<Option<Rewrite>> = Mutex::new(None);

/// The text that takes the place of a module's, if the program gives one.
pub(super) fn apply(text: &str) -> Option<String> {
    extern "C" fn put(into: *mut c_void, text: *const u8, length: usize) {
        // SAFETY: the program hands on the pointer it was given, which is that of `given` below,
        // and a text of this length.
        let (given, text) = unsafe {
            (
                &mut *into.cast::<Option<String>>(),
                std::slice::from_raw_parts(text, length),
            )
        };
        *given = Some(String::from_utf8_lossy(text).into_owned());
    }
    let rewrite = *REWRITE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut given: Option<String> = None;
    rewrite?(
        text.as_ptr(),
        text.len(),
        (&raw mut given).cast::<c_void>(),
        put,
    );
    given
}

/// Sets what later modules' PTX goes through; null for nothing.
#[unsafe(no_mangle)]
pub extern "C" fn ptx_emulator_rewrite(rewrite: Option<Rewrite>) -> u32 {
    guard("ptx_emulator_rewrite", || -> Outcome {
        *REWRITE.lock().unwrap_or_else(PoisonError::into_inner) = rewrite;
        Ok(())
    })
}
