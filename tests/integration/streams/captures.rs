//! Safe calls and stream capture: a graph would outlive the memory of the calls in it.

use std::sync::Arc;

use lora_kernels::Error;
use lora_kernels::cudarc::driver::CudaStream;
use lora_kernels::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::calls::{Call, Inputs};
use crate::common::device::gpu;

const FLAGS: CUgraphInstantiate_flags =
    CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;

fn begin(stream: &CudaStream) {
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    stream.begin_capture(mode).expect("a capture");
}

/// Ends the capture, which must be sound, and replays the graph if there is one.
fn end(stream: &Arc<CudaStream>) {
    let graph = stream.end_capture(FLAGS).expect("the capture is sound");
    if let Some(graph) = graph {
        graph.launch().expect("a launch");
    }
    stream.synchronize().expect("the device does well");
}

#[track_caller]
fn assert_refused(result: Result<(), Error>, text: &str) {
    let error = result.expect_err("the call is refused");
    assert!(matches!(error, Error::Capturing { .. }), "{error}");
    for part in [text, "lora_kernels::raw"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

fn a_captured_stream_is_refused() {
    let kernels = &gpu().kernels;
    let context = kernels.context();
    for call in Call::ALL {
        let stream = context.new_stream().expect("a stream");
        let inputs = Inputs::on(&context.default_stream());
        context.synchronize().expect("the device does well");
        begin(&stream);
        let result = call.run(kernels, &stream, &inputs).map(|_| ());
        assert_refused(result, "the stream is being captured");
        drop(inputs);
        end(&stream);
    }
}

fn memory_of_a_captured_stream_is_refused() {
    let kernels = &gpu().kernels;
    let context = kernels.context();
    for call in Call::ALL {
        let home = context.new_stream().expect("a stream");
        let stream = context.new_stream().expect("a stream");
        let inputs = Inputs::on(&home);
        context.synchronize().expect("the device does well");
        // Before the call: the typed calls take results of the home, too, which allocate there.
        begin(&home);
        let name = match call {
            Call::TypedMerge | Call::Merge | Call::MergeWithReport => "weight",
            _ => "x",
        };
        if !matches!(
            call,
            Call::TypedForward | Call::TypedBackward | Call::TypedMerge
        ) {
            let result = call.run(kernels, &stream, &inputs).map(|_| ());
            let text = format!("{name} belongs to a stream that is being captured");
            assert_refused(result, &text);
        }
        end(&home);
        drop(inputs);
        stream.synchronize().expect("the device does well");
    }
}

/// cudarc waits for the write event of x, which was recorded in a capture. That takes the call's
/// stream into it.
fn a_call_is_not_taken_into_a_capture_by_its_memory() {
    let kernels = &gpu().kernels;
    let other = lora_kernels::context(0).expect("a second object");
    for call in [Call::Forward, Call::Infer, Call::Backward] {
        let mut inputs = Inputs::on(&other.default_stream());
        let stream = kernels.context().new_stream().expect("a stream");
        kernels
            .context()
            .synchronize()
            .expect("the device does well");
        let captured = other.new_stream().expect("a stream");
        begin(&captured);
        captured.memset_zeros(&mut inputs.x).expect("captured");
        let result = call.run(kernels, &stream, &inputs).map(|_| ());
        assert_refused(result, "the stream is being captured");
        drop(captured.end_capture(FLAGS));
        drop(captured);
    }
}

super::late!(
    a_captured_stream_is_refused,
    memory_of_a_captured_stream_is_refused,
    a_call_is_not_taken_into_a_capture_by_its_memory,
);
