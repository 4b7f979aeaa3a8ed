//! Chooses the GPU that the tests, benches and examples of this workspace run on.

#![warn(missing_docs)]

pub use ptx_emulator::select::{SelectError, Selection};

/// The environment variable that chooses. `auto`, the default, uses a real GPU if there is one and
/// the emulated one otherwise. `emulated` and `real` allow nothing else.
pub const VARIABLE: &str = "LORA_KERNELS_DEVICE";

/// Makes this process use the driver that [`VARIABLE`] asks for. Call it before the first CUDA
/// call, which decides for the whole process.
///
/// # Errors
/// [`SelectError`] says which driver is missing and what to do.
pub fn select() -> Result<Selection, SelectError> {
    ptx_emulator::select::select_by(VARIABLE)
}
