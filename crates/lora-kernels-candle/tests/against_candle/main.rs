//! Results and gradients of adapted layers beside those of candle's own products and autograd in
//! f64, by the CPU reference and carried to a CUDA device (the emulated one where there is no
//! other).

mod cases;
mod compare;
mod data;
mod dropout;
mod errors;
mod graphs;
mod layers;
mod views;
