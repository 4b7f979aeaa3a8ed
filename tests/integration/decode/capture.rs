//! A decode in a CUDA graph, replayed with other numbers in the same memory. The test has a process
//! of its own, because a capture affects the whole process.

use half::bf16;
use lora_kernels::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use crate::common::call::ForwardCall;
use crate::common::device::gpu;
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};
use crate::device::capture::forward_raw;

/// Other x for another seed, and the same weights.
fn layer(case: &LayerCase, seed: usize) -> TestLayer<bf16, f32> {
    let mut layer = TestLayer::random(case);
    let range = layer.x.range();
    layer.x.buffer[range].rotate_left(seed);
    layer
}

fn a_captured_decode_replays_with_the_numbers_it_finds() {
    let kernels = &gpu().kernels;
    // cudarc's event tracking would make the captured calls depend on events outside of the
    // capture. SAFETY: this process uses one stream at a time, and waits for it before it uses
    // another.
    unsafe { kernels.context().disable_event_tracking() };
    let stream = kernels.context().new_stream().unwrap();
    for case in [
        LayerCase::new(5, 1032, 72, 20).multiprocessors(1000),
        LayerCase::sharing_x(33, 264, &[(72, 20), (40, 0), (136, 8)]),
    ] {
        let case = case.inference();
        let first = layer(&case, 0);
        let plan = first.forward_plan();
        let mut call = ForwardCall::new(&first, &plan);
        gpu().stream.synchronize().unwrap();
        let poisoned = call.read_back().bits();

        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)
            .unwrap();
        // Twice in one graph: the second finds the flags that the first left.
        forward_raw(&stream, &plan, call.arguments());
        forward_raw(&stream, &plan, call.arguments());
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a graph");
        assert_same_bits(
            &call.read_back().bits(),
            &poisoned,
            "a capture runs nothing",
        );

        for layer in [layer(&case, 1), layer(&case, 2), layer(&case, 0)] {
            call.x.replace(&layer.x);
            gpu().stream.synchronize().unwrap();
            graph.launch().unwrap();
            stream.synchronize().unwrap();
            let replayed = call.read_back();
            assert_same_bits(&replayed.bits(), &layer.forward().bits(), "replayed");
            layer.check_forward(&replayed);
        }
    }
}

alone!(a_captured_decode_replays_with_the_numbers_it_finds);
