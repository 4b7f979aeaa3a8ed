//! Backwards of the adapters' part alone. The weight is null: who reads it fails.

use half::{bf16, f16};

use super::batch::Batch;
use super::check_backward::check;

#[test]
fn one_adapter() {
    check::<bf16, bf16>(&Batch::one(70, 72, &[(40, 20)]));
    check::<f32, f32>(&Batch::one(30, 40, &[(24, 70)]));
    check::<f16, f32>(&Batch {
        odd: true,
        dropout: true,
        ..Batch::one(130, 200, &[(40, 20), (8, 0), (24, 3)])
    });
}

/// Its gradients are zero, unless they are added.
#[test]
fn one_adapter_without_rows() {
    for accumulate in [false, true] {
        check::<bf16, bf16>(&Batch {
            accumulate,
            ..Batch::one(0, 40, &[(24, 8), (16, 0)])
        });
    }
}

#[test]
fn an_adapter_per_row() {
    check::<bf16, bf16>(&Batch {
        delta_only: true,
        ..Batch::random(140, 136, 40, &[9, 20])
    });
}
