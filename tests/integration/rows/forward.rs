//! Forwards of batches whose rows have adapters of a table, and backwards on what they saved.

use super::batch::Batch;
use super::check_forward::check_both;

#[test]
fn an_adapter_per_row() {
    assert!(!check_both::<f32, f32>(&Batch::random(
        70,
        48,
        72,
        &[8, 16, 5]
    )));
}
