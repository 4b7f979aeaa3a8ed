//! The CPU reference: what the kernels compute, in f64, with a bound on how far from it a right
//! kernel can be.
//!
//! Inputs are taken as the kernels get them, already rounded to their type. One or more projections
//! share x. Shapes, row-major: x (tokens M, in_features K); of each projection W (out_features N,
//! K), lora_A (rank r, K), lora_B (N, r), y and dy (M, N). With `s` the scaling, `q` the dropout's
//! keep scale 1/(1-p) and `mask` its kept elements:
//!
//! ```text
//! S  = s·q · (mask∘x)·Aᵀ           y  = x·Wᵀ + bias + S·Bᵀ
//! T  = s · dy·B                    dx = Σ dy·W + q · mask∘(Σ T·A)     dA = q · Tᵀ·(mask∘x)         dB = dyᵀ·S
//! ```
//!
//! A projection without an adapter has only the base product. An adapter may be of a wider type
//! than x: its elements are rounded to that of x where they are used, and its gradients are in its
//! own.
//!
//! # The bound
//!
//! Kernels accumulate in f32 and round once per value they store. With u = 2⁻²⁴, the unit roundoff
//! of f32:
//!
//! 1. *A reduction.* A sum of n products, added in any order, has an error of at most n·u·Σ|a||b|
//!    to first order. The bound takes 1.5·n·u·Σ|a||b|: the rest covers the second order, the sums
//!    of partial sums where a reduction is split, and tensor cores that truncate where f32 addition
//!    would round. Each multiplication by a scalar that follows (s·q, q) adds one u. Where one
//!    accumulator takes two reductions and a bias, as y's does, n is the number of all its terms.
//! 2. *An inexact operand.* S and T are computed before they are used. Where S is wrong by at most
//!    εS, a sum over S·B is wrong by at most Σ εS·|B| more, and the magnitudes in 1 are at most
//!    Σ(|S|+εS)·|B|.
//! 3. *A stored value.* Rounding v to the type T moves it by at most uT·|v|, uT = 2⁻⁸ for bf16,
//!    2⁻¹¹ for f16, 2⁻²⁴ for f32, or by half of the smallest subnormal number where that is more.
//!
//! For y: ε(y) = 1.5·(K+r+1)·u·(Σ|x||W| + Σ(|S|+εS)|B| + |bias|) + Σ εS·|B|, and the rounding of y
//! on top; the others alike. Where y, dx or a gradient is [added](Bounded::added_to) to what is
//! there, that is one more addition in f32 before the one rounding.
//!
//! What εS is depends on [`Intermediates`]. With `Exact` the reference keeps S in f64, so εS holds
//! both the reduction's error and the rounding. With `Rounded` the reference rounds S where the
//! kernels do. A kernel's S is then the rounding of some number within the reduction's error e of
//! the true sum v, so it lies between round(v-e) and round(v+e): for most elements both are the
//! reference's own S and εS is zero. That is the sharper test.
//!
//! The bound supposes that nothing overflows: f16 ends at 65504.

mod backward;
mod bounds;
mod compare;
mod forward;
mod layer;
mod merge;
pub mod philox;
mod product;
mod rounding;
mod view;

pub use backward::{AdapterGradients, Backward, backward};
pub use bounds::{Bounded, Intermediates};
pub use compare::{Comparison, Worst, compare, cosine_difference, relative_error};
pub use forward::{Forward, forward};
pub use layer::{Adapter, Layer, Projection};
pub use merge::{Merged, merge};
pub use philox::KeepMask;
pub use rounding::Precision;
pub use view::{ShapeError, View};

#[cfg(test)]
mod tests;
