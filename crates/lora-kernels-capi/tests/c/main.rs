//! The C ABI as C programs see it: the header, and programs linked with the libraries.

mod header;
mod hostile;
mod programs;
