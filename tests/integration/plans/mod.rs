//! Plans, which no device runs here.

mod in_full;
mod merge;
mod models;
mod of_models;
