//! Rows that go through adapters of a table, and the adapters' part alone.

mod backward;
pub mod batch;
mod check_backward;
pub mod check_forward;
mod delta_backward;
mod forward;
mod gradients;
mod layer;
mod matrix;
