//! The driver, the kernels in it, streams and graphs.

mod capture;
mod contract;
mod no_driver;
mod streams;
