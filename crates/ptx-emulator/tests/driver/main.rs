//! The driver as a program sees it, through cudarc: what works, what is refused, and the settings.
//! Settings and stream captures in global mode are felt by a whole process, so tests of these run
//! in processes of their own.

mod capture;
mod counters;
mod devices;
mod driver_version;
mod faults;
mod graph_nodes;
mod graphs;
mod host_memory;
mod late_streams;
mod launches;
mod libraries;
mod memory_ops;
mod process;
mod programs;
mod rewrite;
mod rows;
mod select;
mod settings;
mod side_by_side;
mod streams;
mod unwritten;
mod wrong_use;
