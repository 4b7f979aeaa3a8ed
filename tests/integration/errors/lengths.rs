//! Slices whose bytes overflow. A release build of cudarc allocates what is left of them.

use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, DeviceRepr, ValidAsZeroBits};
use lora_kernels::{Error, Lora, LoraInputs, LoraProjection, MatMut, MatRef, Role, WeightLayout};

use super::call::{
    BACKWARD_OUTPUTS, FORWARD_INPUTS, backward, backward_output, case, forward, forward_input,
};
use crate::common::device::{Number, gpu};
use crate::common::short_path::lora_linear;

/// 16 bytes, as a slice of so many elements that their bytes are 2^64 + 16. It is never freed.
fn wrapped<T: Number + DeviceRepr + ValidAsZeroBits>() -> &'static mut CudaSlice<T> {
    let stream = &gpu().stream;
    let few = 16 / size_of::<T>();
    let memory = stream.alloc_zeros::<T>(few).expect("device memory");
    let elements = usize::MAX / size_of::<T>() + 1 + few;
    // SAFETY: no call that is accepted uses it.
    Box::leak(Box::new(unsafe {
        stream.upgrade_device_ptr(memory.leak(), elements)
    }))
}

#[test]
fn forward_refuses_them() {
    for tensor in FORWARD_INPUTS {
        let (rows, columns) = case().shape(tensor);
        let result = forward(&case(), |call, _| {
            *forward_input(call, 0, tensor) = MatRef::new(wrapped().as_view(), rows, columns);
        });
        assert_error!(result, Error::Length { .. }, tensor.name(), "2^63 bytes");
    }
    let (rows, columns) = case().shape(Role::Y);
    let result = forward(&case(), |call, _| {
        call.projections[0].y = MatMut::new(wrapped().as_view_mut(), rows, columns);
    });
    assert_error!(result, Error::Length { .. }, "y lies");
}

#[test]
fn backward_refuses_them() {
    for tensor in BACKWARD_OUTPUTS {
        let (rows, columns) = case().shape(tensor);
        let result = backward(&case(), |call, _| {
            *backward_output(call, 0, tensor) = MatMut::new(wrapped().as_view_mut(), rows, columns);
        });
        assert_error!(result, Error::Length { .. }, tensor.name(), "2^63 bytes");
    }
}

#[test]
fn layers_and_merges_refuse_them() {
    let matrix = |rows, columns| MatRef::<bf16>::new(wrapped().as_view(), rows, columns);
    let sound = gpu()
        .stream
        .alloc_zeros::<bf16>(3 * 40)
        .expect("device memory");
    let lora = || Lora {
        a: MatRef::new(sound.as_view(), 3, 40),
        b: MatRef::new(sound.as_view(), 24, 3),
        scaling: 1.0,
    };
    let inputs = LoraInputs::new(matrix(9, 40), [LoraProjection::new(matrix(24, 40), lora())]);
    let result = lora_linear().infer(&inputs);
    assert_error!(result, Error::Length { .. }, "x lies");
    let result = lora_linear().merge(&matrix(24, 40), &[lora()], WeightLayout::OutIn);
    assert_error!(result, Error::Length { .. }, "weight lies");
}
