//! Tensor maps are encoded by the driver, and refused before that where they can't be.

use lora_kernels::bind::{BoxedMatrix, Swizzle};
use lora_kernels::raw::encode_tensor_map;
use lora_kernels::{DType, Error};

use crate::common::device::gpu;

const MATRIX: BoxedMatrix = BoxedMatrix {
    address: 1 << 20,
    dtype: DType::BF16,
    rows: 4096,
    columns: 896,
    row_stride: 960,
    box_rows: 128,
    box_columns: 64,
    swizzle: Swizzle::Bytes128,
};

#[test]
fn a_matrix_is_encoded() {
    // Selects the driver.
    gpu();
    let map = encode_tensor_map(&MATRIX).unwrap();
    assert_eq!(map, encode_tensor_map(&MATRIX).unwrap());
    for dtype in DType::ALL {
        for swizzle in [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64] {
            let other = BoxedMatrix {
                dtype,
                swizzle,
                box_columns: 32 / dtype.size() as u32,
                ..MATRIX
            };
            assert_ne!(encode_tensor_map(&other).unwrap(), map, "{other:?}");
        }
    }
}

#[test]
fn what_can_not_be_encoded_is_refused() {
    gpu();
    let result = encode_tensor_map(&BoxedMatrix {
        row_stride: 897,
        ..MATRIX
    });
    assert!(matches!(result, Err(Error::TensorMap { .. })), "{result:?}");
}
