//! The parser, the decoder and the interpreter by themselves: each instruction family against
//! values worked out by hand or by plain Rust, the checks, the counters and the DRAM model.

mod alu;
mod asynchronous;
mod atomics;
mod blocks;
mod bugs;
mod calls;
mod clusters;
mod compare;
mod convert;
mod counts;
mod documents;
mod exact;
mod fatbin;
mod float;
mod flow;
mod harness;
mod l2;
mod l2_replay;
mod lanes;
mod matrix;
mod mbarriers;
mod memory;
mod ordering;
mod parser;
mod quiet;
mod real_size;
mod refusals;
mod runtime;
mod tensor_maps;
mod tma;
mod turns;
mod warps;
mod wgmma;
mod wmma;
