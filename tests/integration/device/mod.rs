//! The driver, the kernels in it, streams and graphs.

pub mod capture;
mod edges;
mod layout_check;
mod no_driver;
mod overlaps;
mod streams;
mod tensor_maps;
