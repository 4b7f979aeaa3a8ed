//! PTX programs through parser, decoder and interpreter, each instruction family against values
//! worked out by hand or by plain Rust.

mod alu;
mod asynchronous;
mod atomics;
mod blocks;
mod compare;
mod convert;
mod float;
mod flow;
mod harness;
mod lanes;
mod matrix;
mod memory;
mod refusals;
mod warps;
mod wmma;
