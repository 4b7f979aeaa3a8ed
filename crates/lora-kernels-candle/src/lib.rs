#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

mod backend;
mod call;
mod carried;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod error;
mod graph;
mod layer;
mod matrix;
mod merge;
mod number;
mod problem;
mod projection;
mod reference;

use candle_core::Tensor;

pub use backend::{Backend, Carrier};
pub use error::Error;
pub use layer::{LoraLinear, LoraLinears, Masks};
pub use lora_kernels;
pub use projection::{Lora, Options, Projection};

/// Computes y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ for each projection in one call. The results
/// are part of candle's graph.
///
/// x is (..., in_features), and each y is (..., out_features) and contiguous; the types are f32,
/// f16 and bf16. x and the matrices may be views whose rows are contiguous and follow each other at
/// one stride, such as a range of columns of a larger tensor. Views are read in place.
///
/// Gradients flow to x, lora_A and lora_B of every projection; weights and biases are frozen.
/// Backward is one call too, made when candle's backward pass has gathered the gradient of every y.
/// It computes dx only if x is part of a graph. There are no second derivatives. The graph keeps x,
/// the weights and the adapters, which are shared and not copied. On a CUDA device it also keeps
/// what the kernels save for backward: (tokens, ranks rounded up to 16) elements of S, and one bit
/// per element of x for a stored dropout mask.
///
/// A failed backward pass doesn't affect the next one. For two threads that use one graph on a CUDA
/// device, see [`Backend::Local`].
///
/// Results are deterministic: the same bits on every run on the same device. Sums are in f32, or
/// f64 in the CPU reference, and each stored value is rounded once.
///
/// # Errors
/// [`Error`], wrapped in [`candle_core::Error::Wrapped`], before anything is computed: for shapes,
/// types, layouts and devices that don't fit, and [`lora_kernels::Error`] for problems that the
/// kernels don't support.
pub fn lora_linears(
    x: &Tensor,
    projections: &[Projection],
    options: &Options,
) -> candle_core::Result<Vec<Tensor>> {
    let call = call::Call::new(x, projections, options)?;
    graph::outputs(x, projections, call)
}
