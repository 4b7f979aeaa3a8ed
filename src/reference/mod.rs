//! The CPU reference: what the kernels compute, in f64, with a bound on the error of a correct
//! kernel.
//!
//! Inputs are the values that the kernels get, already rounded to their type. One or more
//! projections share x. All matrices are row-major: x (tokens M, in_features K), and for each
//! projection W (out_features N, K), lora_A (rank r, K), lora_B (N, r), y and dy (M, N). `s` is the
//! scaling, `q` is the dropout's keep scale 1/(1-p), and `mask` is 1 for kept elements:
//!
//! ```text
//! S  = q · (mask∘x)·Aᵀ             y  = x·Wᵀ + bias + s · S·Bᵀ
//! T  = s · dy·B                    dx = Σ dy·W + q · mask∘(Σ T·A)
//! dA = q · Tᵀ·(mask∘x)             dB = s · dyᵀ·S
//! ```
//!
//! A projection without an adapter has only the base product. An adapter may have a wider type than
//! x. Its elements are rounded to the type of x when they are used, and its gradients are in the
//! adapter's type.
//!
//! # The bound
//!
//! Kernels accumulate in f32 and round each stored value once. u = 2⁻²⁴ is the unit roundoff of
//! f32.
//!
//! 1. *A reduction.* A sum of n products, added in any order, has an error of at most n·u·Σ|a||b|
//!    to first order. The bound is 1.5·n·u·Σ|a||b|. The extra half covers the second order, the
//!    sums of partial sums if a reduction is split, and tensor cores that truncate where f32
//!    addition rounds. Each following multiplication by a scalar (s, q) adds one u. If one
//!    accumulator sums two reductions and a bias, as for y, n is the number of all terms.
//! 2. *An inexact operand.* S and T are computed before they are used. If the error of S is at most
//!    εS, a sum over S·B has an additional error of at most Σ εS·|B|, and the magnitudes in 1 are
//!    at most Σ(|S|+εS)·|B|.
//! 3. *A stored value.* Rounding v to the type T changes it by at most uT·|v|, where uT is 2⁻⁸ for
//!    bf16, 2⁻¹¹ for f16 and 2⁻²⁴ for f32, or by half the smallest subnormal number if that is
//!    more.
//!
//! For y: ε(y) = (1.5·(K+r+1)+1)·u·(Σ|x||W| + |s|·Σ(|S|+εS)|B| + |bias|) + |s|·Σ εS·|B|, plus the
//! rounding of y. The other results are bounded in the same way. If y, dx or a gradient is
//! [added](Bounded::added_to) to previous values, there is one more addition in f32 before the
//! single rounding.
//!
//! εS depends on [`Intermediates`]. With `Exact` the reference keeps S in f64, so εS contains both
//! the reduction's error and the rounding. With `Rounded` the reference rounds S where the kernels
//! do. A kernel's S is then the rounding of a number within the reduction's error e of the true sum
//! v, so it is between round(v-e) and round(v+e). For most elements both are the reference's own S,
//! and εS is zero, which makes the test sharper.
//!
//! The bound assumes that nothing overflows: the largest number of f16 is 65504.

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
#[cfg(test)]
pub(crate) use rounding::power_of_two;
pub use view::{ShapeError, View};

#[cfg(test)]
mod tests;
