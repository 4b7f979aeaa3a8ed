//! The driver, the kernels in it, streams and graphs.

mod capture;
mod layout_check;
mod no_driver;
mod streams;
