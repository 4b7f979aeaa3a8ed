//! Compares results and gradients of adapted layers with candle's own products and autograd in f64.
//! The layers are computed by the CPU reference and by a CUDA device (the emulated one if there is
//! no other).

mod cases;
mod compare;
mod data;
mod dropout;
mod errors;
mod graphs;
mod layers;
mod views;
