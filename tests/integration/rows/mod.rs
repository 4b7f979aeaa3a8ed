//! Rows that go through adapters of a table, and the adapters' part alone.

mod backward;
mod batch;
mod delta_backward;
mod gradients;
