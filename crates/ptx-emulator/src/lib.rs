#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod ast;
pub mod counters;
mod cubin;
pub mod decode;
pub mod device;
mod driver;
pub mod exec;
pub mod fatbin;
pub mod l2;
pub mod memory;
pub mod parse;
pub mod rewrite;
pub mod select;
pub mod settings;
mod shadow;
pub mod tensor_map;
