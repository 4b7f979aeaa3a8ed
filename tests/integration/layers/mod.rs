//! Forward and backward of layers, against the reference and against themselves.

mod accumulate;
mod adapters;
mod backward;
mod dropout;
mod far_rows;
mod forward;
mod random;
mod recorded;
mod shapes;
mod shared;
mod short_path;
