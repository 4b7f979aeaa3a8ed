//! Forward and backward of layers, compared with the reference and with each other.

mod accumulate;
mod adapters;
mod backward;
mod dropout;
mod far_rows;
mod forward;
mod random;
mod recorded;
mod scalings;
mod shapes;
mod shared;
mod short_path;
mod short_path_memory;
