//! Streams and memory of a context other than the kernels'.

use std::sync::{Arc, OnceLock};

use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use lora_kernels::{Error, Lora, LoraInputs, LoraLinear, LoraProjection, MatMut, MatRef, Role};

use super::call::{
    BACKWARD_INPUTS, BACKWARD_OUTPUTS, FORWARD_INPUTS, backward, backward_input, backward_on,
    backward_output, case, forward, forward_input, forward_on,
};
use crate::common::device::second_context;
use crate::common::short_path::lora_linear;

/// A stream of a second context on the same device.
fn elsewhere() -> &'static Arc<CudaStream> {
    static STREAM: OnceLock<Arc<CudaStream>> = OnceLock::new();
    STREAM.get_or_init(|| second_context().new_stream().expect("a stream"))
}

/// Memory of the second context, which is never freed.
fn memory<T: DeviceRepr + ValidAsZeroBits>(elements: usize) -> &'static mut CudaSlice<T> {
    Box::leak(Box::new(
        elsewhere().alloc_zeros(elements).expect("device memory"),
    ))
}

fn readable(tensor: Role) -> MatRef<'static, bf16> {
    let (rows, cols) = case().shape(tensor);
    MatRef::new(memory(rows * cols).as_view(), rows, cols)
}

fn writable(tensor: Role) -> MatMut<'static, bf16> {
    let (rows, cols) = case().shape(tensor);
    MatMut::new(memory(rows * cols).as_view_mut(), rows, cols)
}

#[test]
fn a_stream_of_another_context_is_refused() {
    let result = forward_on(elsewhere(), &case(), |_, _| ());
    assert_error!(
        result,
        Error::Context { .. },
        "the stream",
        "another CUDA context"
    );
    let result = backward_on(elsewhere(), &case(), |_, _| ());
    assert_error!(
        result,
        Error::Context { .. },
        "the stream",
        "another CUDA context"
    );
}

#[test]
fn memory_of_another_context_is_refused_in_forward() {
    for tensor in FORWARD_INPUTS {
        let result = forward(&case(), |call, _| {
            *forward_input(call, 0, tensor) = readable(tensor)
        });
        assert_error!(
            result,
            Error::Context { .. },
            tensor.name(),
            "another CUDA context"
        );
    }
    let result = forward(&case(), |call, _| call.projections[0].y = writable(Role::Y));
    assert_error!(result, Error::Context { .. }, "y belongs");
    let elements = case().shape(Role::Bias).1;
    let result = forward(&case(), |call, _| {
        call.projections[0].bias = Some(memory(elements).as_view())
    });
    assert_error!(result, Error::Context { .. }, "bias belongs");
    let saved = case().forward_plan::<bf16>().saved().bytes();
    let result = forward(&case(), |call, _| {
        call.saved = memory(saved).as_view_mut().into()
    });
    assert_error!(result, Error::Context { .. }, "saved belongs");
}

#[test]
fn memory_of_another_context_is_refused_in_backward() {
    for tensor in BACKWARD_INPUTS {
        let result = backward(&case(), |call, _| {
            *backward_input(call, 0, tensor) = readable(tensor)
        });
        assert_error!(
            result,
            Error::Context { .. },
            tensor.name(),
            "another CUDA context"
        );
    }
    for tensor in BACKWARD_OUTPUTS {
        let result = backward(&case(), |call, _| {
            *backward_output(call, 0, tensor) = writable(tensor)
        });
        assert_error!(
            result,
            Error::Context { .. },
            tensor.name(),
            "another CUDA context"
        );
    }
    let plan = case().backward_plan::<bf16>();
    let result = backward(&case(), |call, _| {
        call.saved = memory(plan.saved().bytes()).as_view().into()
    });
    assert_error!(result, Error::Context { .. }, "saved belongs");
    let result = backward(&case(), |call, _| {
        call.workspace = Some(memory(plan.workspace_bytes()).as_view_mut())
    });
    assert_error!(result, Error::Context { .. }, "workspace belongs");
}

/// Inputs of `LoraLinear` in memory of that stream's context, and a dy.
fn layer_on(stream: &Arc<CudaStream>) -> (LoraInputs<'static, bf16>, [MatRef<'static, bf16>; 1]) {
    let matrix = |rows: usize, columns: usize| {
        let memory = stream.alloc_zeros(rows * columns).expect("device memory");
        let memory: &'static CudaSlice<bf16> = Box::leak(Box::new(memory));
        MatRef::new(memory.as_view(), rows, columns)
    };
    let lora = Lora {
        a: matrix(3, 40),
        b: matrix(24, 3),
        scaling: 2.0,
    };
    let projection = LoraProjection::new(matrix(24, 40), lora);
    (
        LoraInputs::new(matrix(9, 40), [projection]),
        [matrix(9, 24)],
    )
}

#[test]
fn layers_of_two_contexts_share_nothing() {
    let (here, there) = (lora_linear(), LoraLinear::new(elsewhere()).expect("loads"));
    assert!(!Arc::ptr_eq(here.kernels(), there.kernels()));
    let stream = here.on_stream(elsewhere());
    assert_error!(stream, Error::Context { .. }, "the stream");

    let (inputs, dy) = layer_on(here.stream());
    let (other_inputs, other_dy) = layer_on(elsewhere());
    let result = here.infer(&other_inputs);
    assert_error!(result, Error::Context { .. }, "x belongs");
    let (_, saved) = here.forward(&inputs).expect("forward runs");
    let (_, other_saved) = there.forward(&other_inputs).expect("forward runs there");
    let result = here.backward(&inputs, &other_saved, &dy);
    assert_error!(result, Error::Context { .. }, "saved belongs");
    let result = here.backward(&inputs, &saved, &other_dy);
    assert_error!(result, Error::Context { .. }, "dy belongs");
    here.backward(&inputs, &saved, &dy).expect("backward runs");
}
