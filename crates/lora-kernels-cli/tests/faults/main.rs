//! Merges in which a system call fails, a signal comes or the process is killed, at any point. Each
//! run ends with the status that the help documents, OUT is complete or as it was, and what is left
//! beside it is named.
//!
//! A tracer stops the program at every system call, so nothing here depends on time. A few hundred
//! faults and kills are tried by default: `LORA_KERNELS_FAULTS=all` tries every error of every
//! call, and `LORA_KERNELS_KILLS` is the number of kills.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod calls;
mod runs;
mod scene;
mod signals;
mod sweep;
mod trace;
