//! The C ABI of lora-kernels: the raw layer of the core crate behind opaque handles, plain structs
//! and status codes.
//!
//! What a C program sees is `include/lora_kernels.h`, which cbindgen makes from the items here:
//! their names and documentation are C's.

#![warn(missing_docs)]
#![allow(non_camel_case_types, reason = "types are named as in C")]

mod arguments;
mod calls;
mod context;
mod device;
mod enumerations;
mod error;
mod handle;
mod handles;
mod hint;
mod layout;
mod merge;
mod merge_plan;
mod plan;
mod planned;
mod problem;
mod record;
mod status;
mod structs;
mod table;
mod version;
