//! Build support of `lora-kernels`: reads the table of kernels and writes their shells, finds nvcc,
//! and compiles again what changed.

pub mod archs;
pub mod arguments;
mod fields;
pub mod flags;
pub mod generate;
pub mod host;
pub mod nvcc;
pub mod ptxas;
pub mod table;
pub mod units;
