//! What the bench of a layer and the program that runs it on another machine share: cuBLAS as the
//! baseline, and what results look like.

#![warn(missing_docs)]

pub mod bundle;
pub mod cublas;
pub mod markdown;
pub mod results;
pub mod ways;

/// The variable with the path of the file in which the bench hands over what it measured.
pub const BENCH_RESULTS: &str = "LORA_KERNELS_BENCH_RESULTS";
/// The variable that, set to anything, asks the bench for few shapes.
pub const QUICK: &str = "LORA_KERNELS_BENCH_QUICK";
