//! Offsets beyond 2³² elements. The rows of one matrix at a time are so far apart that any 32-bit
//! index wraps. Only the rows are touched, so a device that commits memory on use needs little of
//! it.

use std::sync::{Mutex, PoisonError};

use crate::common::data::Placement::{Dense, Far};
use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};
use lora_kernels::Role;

/// A far matrix takes 17 GB in f32. A GPU with 24 GB holds only one, so tests take turns.
static DEVICE_MEMORY: Mutex<()> = Mutex::new(());

/// Far strides are multiples of 16 bytes in every type, like the dense strides of these sizes. If
/// rows of x, dy or the weight are this far apart, the GEMM uses its gathering kernels.
fn cases() -> Vec<LayerCase> {
    let case = LayerCase::new(5, 64, 8, 8).bias(false).dropout(0.25);
    vec![
        case.clone(),
        case.transposed(true),
        LayerCase::sharing_x(5, 64, &[(16, 0), (8, 8)]).bias(false),
    ]
}

fn rows_beyond_32_bits_give_the_bits_of_a_dense_layer<T: Number>() {
    let _turn = DEVICE_MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    for case in cases() {
        let layer = TestLayer::<T>::random(&case.clone().placed(Dense));
        let (forward, last) = (layer.forward(), case.projections.len() - 1);
        let (expected_forward, expected) = (forward.bits(), layer.backward(&forward.saved).bits());
        for far in Role::ALL.into_iter().filter(|&tensor| tensor != Role::Bias) {
            let projection = if matches!(far, Role::X | Role::DX) {
                0
            } else {
                last
            };
            let moved = layer.placed_as(case.clone().with_placement_of(projection, far, Far));
            let what = format!("{far} far apart: {case:?}");
            if !matches!(far, Role::DY | Role::DX | Role::DLoraA | Role::DLoraB) {
                assert_same_bits(&moved.forward().bits(), &expected_forward, &what);
            }
            if far != Role::Y {
                assert_same_bits(&moved.backward(&forward.saved).bits(), &expected, &what);
            }
            // Frees the memory of the calls above.
            gpu().stream.synchronize().expect("the device is well");
        }
    }
}

for_each_dtype!(rows_beyond_32_bits_give_the_bits_of_a_dense_layer);
