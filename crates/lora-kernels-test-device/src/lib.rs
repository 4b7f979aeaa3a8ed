//! Which GPU the tests, benches and examples of this workspace run on.

#![warn(missing_docs)]

pub use ptx_emulator::select::{SelectError, Selection};

/// The variable that chooses: `auto` (the default) takes a real device if there is one and the
/// emulated one otherwise; `emulated` and `real` take nothing else.
pub const VARIABLE: &str = "LORA_KERNELS_DEVICE";

/// Makes the driver that [`VARIABLE`] asks for the one this process uses. Call it before the first
/// CUDA call; the first call decides for the whole process.
///
/// # Errors
/// [`SelectError`] says which driver is missing and what to do.
pub fn select() -> Result<Selection, SelectError> {
    ptx_emulator::select::select_by(VARIABLE)
}
