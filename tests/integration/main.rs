//! The library from outside, on the device that is there: a GPU, or the emulated one. One program,
//! since each has every kernel in it; `cargo test --test integration layers::forward` runs a part.

#[macro_use]
mod common;

mod device;
mod emulated;
mod errors;
mod layers;
mod merge;
mod plans;
