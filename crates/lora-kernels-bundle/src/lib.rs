//! What `cargo xtask gpu`, the bench of a layer and the program that runs both on another machine
//! share: the bundle's manifest, and what results look like.

#![warn(missing_docs)]

pub mod manifest;
pub mod markdown;
pub mod results;

/// The variable with the path of the file in which the bench hands over what it measured.
pub const BENCH_RESULTS: &str = "LORA_KERNELS_BENCH_RESULTS";
/// The variable that, set to anything, asks the bench for few shapes.
pub const QUICK: &str = "LORA_KERNELS_BENCH_QUICK";
