//! cudarc keeps the error of a drop in the context object and gives it to the next call, which then
//! doesn't do its work. It is not for calls of this crate, and stays there for its own.

use std::sync::Arc;

use lora_kernels::cudarc::driver::sys::CUresult;
use lora_kernels::cudarc::driver::{CudaContext, DriverError};
use lora_kernels::{Kernels, LoraLinear};

use super::calls::{Call, Inputs};
use crate::common::device::gpu;

const KEPT: DriverError = DriverError(CUresult::CUDA_ERROR_NOT_FOUND);

fn keep(context: &CudaContext) {
    context.record_err::<()>(Err(KEPT));
}

fn calls_neither_fail_on_a_kept_error_nor_lose_it() {
    let kernels = &gpu().kernels;
    let other = lora_kernels::context(0).expect("a second object");
    for call in Call::ALL {
        let stream = kernels.context().new_stream().expect("a stream");
        let inputs = Inputs::on(&other.default_stream());
        keep(kernels.context());
        // The typed calls' results are allocated by the test, and cudarc would fail there.
        if !matches!(
            call,
            Call::TypedForward | Call::TypedBackward | Call::TypedMerge
        ) {
            keep(&other);
        }
        let results = call.run(kernels, &stream, &inputs);
        let results = results.unwrap_or_else(|error| panic!("{call:?}: {error}"));
        assert_eq!(kernels.context().check_err(), Err(KEPT), "{call:?}");
        drop(inputs);
        let _ = other.check_err();
        for result in &results {
            stream.clone_dtoh(result).expect("a copy");
        }
    }
}

fn kernels_load_in_spite_of_a_kept_error() {
    let context = gpu().kernels.context();
    keep(context);
    let loaded = Kernels::load(context);
    assert_eq!(context.check_err(), Err(KEPT));
    assert!(loaded.is_ok(), "{loaded:?}");
}

fn kernels_are_unloaded_after_they_have_run() {
    let context = gpu().kernels.context().clone();
    let kernels = Arc::new(Kernels::load(&context).expect("the kernels load"));
    let stream = context.new_stream().expect("a stream");
    let inputs = Inputs::on(&stream);
    let layer = LoraLinear::with_kernels(kernels, &stream).expect("the same context");
    let y = layer.infer(&inputs.of_layer()).expect("the call runs");
    keep(&context);
    drop(layer);
    assert_eq!(context.check_err(), Err(KEPT), "the error is still there");
    assert!(!stream.clone_dtoh(&y[0]).expect("it has run").is_empty());
}

super::late!(
    calls_neither_fail_on_a_kept_error_nor_lose_it,
    kernels_load_in_spite_of_a_kept_error,
    kernels_are_unloaded_after_they_have_run,
);
