//! Build support of `lora-kernels`: where nvcc is, which GPUs it compiles for, and what is compiled
//! again after a change.

pub mod archs;
pub mod nvcc;
pub mod units;
