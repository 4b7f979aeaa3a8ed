//! What `cargo xtask gpu`, the bench of a layer and the program that runs both on another machine
//! share: the bundle's manifest, and what results look like.

#![warn(missing_docs)]

pub mod manifest;
pub mod markdown;
pub mod results;

/// The variable with the path of the file in which the bench hands over what it measured.
pub const BENCH_RESULTS: &str = "LORA_KERNELS_BENCH_RESULTS";
/// The variable that asks the bench for fewer shapes than all: [`FIRST_LOOK`] or [`SUITE`].
pub const BENCH_SHAPES: &str = "LORA_KERNELS_BENCH_SHAPES";
/// Two shapes, for some twenty seconds.
pub const FIRST_LOOK: &str = "first-look";
/// Those that the suite has the time for, the most telling first.
pub const SUITE: &str = "suite";
