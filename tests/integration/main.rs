//! Tests of the public interface on a GPU, or on the emulated one if there is none. They are one
//! program because each program contains every kernel.
//! `cargo test --test integration layers::forward` runs a part.

#[macro_use]
mod common;

mod decode;
mod device;
mod emulated;
mod errors;
mod hopper;
mod layers;
mod merge;
mod plans;
mod rows;
mod shards;
mod streams;
