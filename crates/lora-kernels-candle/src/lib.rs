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

/// y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ of each projection, in one call, and a part of candle's
/// graph.
///
/// x is (..., in_features), each y (..., out_features) and contiguous; f32, f16 or bf16. x and the
/// matrices may be views whose rows are contiguous and follow each other at one stride, such as a
/// part of the columns of a larger tensor: they are read as they lie.
///
/// Gradients flow to x, lora_A and lora_B of every projection; weights and biases are frozen. Their
/// backward is one call too, when candle's backward pass has gathered the gradient of every y; dx
/// is not computed where x is not part of a graph. There are no second derivatives. The graph keeps
/// x, the weights and adapters (shared, not copied), and on a CUDA device S = scaling·drop(x)·Aᵀ
/// (tokens, ranks rounded up to 16) and one bit per element of x for a stored dropout mask.
///
/// A backward pass that fails half way leaves nothing to the next. Where two threads use one graph
/// on a CUDA device, see [`Backend::Local`].
///
/// Deterministic: the same bits on every run on the same device. Sums are in f32 (in f64 by the CPU
/// reference), each stored value rounded once.
///
/// # Errors
/// [`Error`], inside of [`candle_core::Error::Wrapped`], before anything is computed: for shapes,
/// types, layouts and devices that don't fit, and [`lora_kernels::Error`] for what the kernels
/// don't take.
pub fn lora_linears(
    x: &Tensor,
    projections: &[Projection],
    options: &Options,
) -> candle_core::Result<Vec<Tensor>> {
    let call = call::Call::new(x, projections, options)?;
    graph::outputs(x, projections, call)
}
