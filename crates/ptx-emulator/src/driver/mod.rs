//! The CUDA driver API as an emulated device serves it: `libcuda.so` for a program that loads it.
//!
//! - One virtual device; the setting `DEVICE` names its model.
//! - A stream's work runs when it is enqueued, before the call returns, one piece at a time over
//!   all streams. That is an order real streams could take, so every event and wait holds; it can't
//!   show a missing synchronisation. The setting `STREAMS` chooses orders that do.
//! - Handles are numbers from one counter and are looked up, so a stale or foreign handle is
//!   `CUDA_ERROR_INVALID_HANDLE`.
//! - A kernel's fault makes every later call in its context fail with the same code, as on
//!   hardware. The report goes to stderr.
//! - What is not there returns `CUDA_ERROR_NOT_SUPPORTED`, or is not exported.

mod abi;
mod attributes;
mod capture;
mod code;
mod context;
mod copy;
mod counters;
mod counters_file;
mod cuda_version;
mod device;
mod dram;
mod edges;
mod event;
mod function;
mod graph;
mod image;
mod launch;
mod library;
mod memory;
mod memory_ops;
mod module;
mod node;
mod node_kinds;
mod per_thread;
mod pool;
mod queue;
mod rewrite;
mod rows;
mod running;
mod side;
mod state;
mod stream;
mod symbols;
mod task;
mod tensor_map;
mod unsupported;
mod user_object;
mod versions;
mod work;

use self::abi::{Outcome, api};
