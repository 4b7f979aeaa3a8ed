//! Forwards for inference of up to 64 tokens: one launch, which streams the weight once.

mod capture;
mod cases;
mod flags;
mod one;
mod short_path;
