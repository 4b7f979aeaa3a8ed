//! Types shared by `cargo xtask gpu`, the bench of layers, and the program that runs both on
//! another machine: the bundle's manifest and the results.

#![warn(missing_docs)]

pub mod budget;
pub mod manifest;
pub mod markdown;
pub mod results;

/// The environment variable with the path of the file to which the bench writes its measurements.
pub const BENCH_RESULTS: &str = "LORA_KERNELS_BENCH_RESULTS";
/// The environment variable that asks the bench for a part of its shapes: [`FIRST_LOOK`] or
/// [`SUITE`].
pub const BENCH_SHAPES: &str = "LORA_KERNELS_BENCH_SHAPES";
/// The environment variable with the seconds that the bench may take. It begins no measurement
/// after them, and records what it left out.
pub const BENCH_SECONDS: &str = "LORA_KERNELS_BENCH_SECONDS";
/// Two shapes, which take some twenty seconds.
pub const FIRST_LOOK: &str = "first-look";
/// The shapes that fit the suite's time, the most informative first.
pub const SUITE: &str = "suite";
