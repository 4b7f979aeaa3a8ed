//! An emulated NVIDIA GPU: a CUDA driver over an interpreter of the PTX that nvcc made.

pub mod ast;
pub mod decode;
pub mod device;
pub mod exec;
pub mod memory;
pub mod parse;
