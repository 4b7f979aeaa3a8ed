//! Programs that the emulator's authors did not shape, run through the driver as any client would,
//! against references in f64.

pub mod gpu;
pub mod numbers;
pub mod outcome;
pub mod triton;
