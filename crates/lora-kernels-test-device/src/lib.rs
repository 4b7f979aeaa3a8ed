//! Chooses the GPU that the tests, benches and examples of this workspace run on.

#![warn(missing_docs)]

pub use ptx_emulator::select::{SelectError, Selection};

/// The environment variable that chooses. `auto`, the default, uses a real GPU if there is one and
/// the emulated one otherwise. `emulated` and `real` allow nothing else.
pub const VARIABLE: &str = "LORA_KERNELS_DEVICE";

/// The environment variable that is set for a test in a process of its own. The test runs there, on
/// that process's device, instead of starting another.
pub const ALONE: &str = "LORA_KERNELS_TEST_ALONE";

/// Makes this process use the driver that [`VARIABLE`] asks for. Call it before the first CUDA
/// call, which decides for the whole process.
///
/// # Errors
/// [`SelectError`] says which driver is missing and what to do.
pub fn select() -> Result<Selection, SelectError> {
    ptx_emulator::select::select_by(VARIABLE)
}
