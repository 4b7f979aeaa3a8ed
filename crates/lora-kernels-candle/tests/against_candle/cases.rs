//! Shapes, types, weight layouts, bias, and several projections.

use candle_core::{DType, Result};

use crate::compare::ComparisonCase;

/// (the type of x, the type of the adapters)
const TYPES: [(DType, DType); 5] = [
    (DType::F32, DType::F32),
    (DType::F16, DType::F16),
    (DType::BF16, DType::BF16),
    (DType::F16, DType::F32),
    (DType::BF16, DType::F32),
];

#[test]
fn one_projection_of_any_shape_and_type() -> Result<()> {
    for (dtype, adapter_dtype) in TYPES {
        for case in [
            ComparisonCase::new(&[1, 40], &[(24, 3)]),
            ComparisonCase::new(&[37, 65], &[(33, 3)]).bias(false),
            ComparisonCase::new(&[3, 5, 72], &[(56, 8)]).transposed(),
            ComparisonCase::new(&[72], &[(17, 1)]),
            ComparisonCase::new(&[2, 1, 3, 48], &[(64, 20)]).dropout(0.2, 1),
        ] {
            case.dtypes(dtype, adapter_dtype).check()?;
        }
    }
    Ok(())
}

#[test]
fn several_projections_of_unequal_sizes_with_and_without_adapters() -> Result<()> {
    for (dtype, adapter_dtype) in TYPES {
        for case in [
            ComparisonCase::new(&[2, 19, 64], &[(64, 3), (24, 0), (16, 9)]),
            ComparisonCase::new(&[21, 40], &[(88, 4), (88, 4)])
                .bias(false)
                .dropout(0.3, 2),
            ComparisonCase::new(&[5, 33], &[(8, 0), (31, 5)]).transposed(),
        ] {
            case.dtypes(dtype, adapter_dtype).check()?;
        }
    }
    Ok(())
}
