//! Plans, tested without running them.

mod decode;
mod hopper;
mod in_full;
mod merge;
mod models;
mod of_models;
