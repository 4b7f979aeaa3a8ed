//! Forwards for inference of up to 64 tokens: one launch, which streams the weight once.

mod batch;
mod batches;
mod capture;
mod cases;
mod flags;
mod invariance;
mod orders;
mod rows;
mod short_path;
mod table;
