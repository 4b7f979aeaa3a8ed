//! Plans, tested without running them.

mod in_full;
mod merge;
mod models;
mod of_models;
