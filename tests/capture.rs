//! Calls in a CUDA graph: captured once, replayed with other numbers in the same memory. Alone in its program, since a
//! capture is felt by the whole process.

mod common;

use common::check::bits;
use common::device::gpu;
use common::layer::{Case, Layer};
use half::bf16;
use lora_kernels::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use lora_kernels::{Backward, Forward, MatMut, MatRef};

const M: usize = 100;
const K: usize = 136;
const N: usize = 72;
const R: usize = 20;

/// A layer whose weights are the same for every `seed`, while x and dy are not.
fn layer(seed: usize) -> Layer<bf16> {
    let mut layer = Layer::random(&Case::new(M, K, N, R).dropout(0.2).bias(false));
    for matrix in [&mut layer.x, &mut layer.dy] {
        let range = matrix.range();
        matrix.buffer[range].rotate_left(seed);
    }
    layer
}

#[test]
fn a_captured_layer_replays_with_the_numbers_it_finds() {
    let kernels = &gpu().kernels;
    // What cudarc records to order streams would tie the captured calls to events outside.
    // SAFETY: this program uses one stream at a time and waits for it before it uses another.
    unsafe { kernels.context().disable_event_tracking() };
    let stream = kernels.context().new_stream().unwrap();

    let first = layer(0);
    let (forward, backward) = (first.case.forward_plan::<bf16>(), first.case.backward_plan::<bf16>());
    let upload = |values: &[bf16]| stream.clone_htod(values).unwrap();
    let [mut x, weight, lora_a, lora_b, mut dy] =
        [&first.x, &first.weight, &first.lora_a, &first.lora_b, &first.dy].map(|matrix| upload(&matrix.rows()));
    let [mut y, mut dx, mut d_lora_a, mut d_lora_b] =
        [M * N, M * K, R * K, N * R].map(|count| stream.alloc_zeros::<bf16>(count).unwrap());
    let mut saved = stream.alloc_zeros::<u8>(forward.saved().bytes()).unwrap();
    let mut workspace = stream.alloc_zeros::<u8>(backward.workspace_bytes()).unwrap();

    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)
        .unwrap();
    let call = Forward {
        x: MatRef::new(x.as_view(), M, K),
        weight: MatRef::new(weight.as_view(), N, K),
        bias: None,
        lora_a: MatRef::new(lora_a.as_view(), R, K),
        lora_b: MatRef::new(lora_b.as_view(), N, R),
        scaling: first.case.scaling,
        dropout: first.case.dropout,
        y: MatMut::new(y.as_view_mut(), M, N),
        saved: saved.as_view_mut(),
    };
    kernels.forward(&stream, &forward, call).unwrap();
    let call = Backward {
        dy: MatRef::new(dy.as_view(), M, N),
        x: MatRef::new(x.as_view(), M, K),
        weight: MatRef::new(weight.as_view(), N, K),
        lora_a: MatRef::new(lora_a.as_view(), R, K),
        lora_b: MatRef::new(lora_b.as_view(), N, R),
        scaling: first.case.scaling,
        dropout: first.case.dropout,
        saved: saved.as_view(),
        dx: MatMut::new(dx.as_view_mut(), M, K),
        d_lora_a: MatMut::new(d_lora_a.as_view_mut(), R, K),
        d_lora_b: MatMut::new(d_lora_b.as_view_mut(), N, R),
        workspace: workspace.as_view_mut(),
    };
    kernels.backward(&stream, &backward, call).unwrap();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().expect("a graph");
    let untouched = stream.clone_dtoh(&y).unwrap();
    assert!(
        untouched.iter().all(|value| value.to_bits() == 0),
        "a capture runs nothing"
    );

    for layer in [layer(1), layer(2), first] {
        stream.memcpy_htod(&layer.x.rows(), &mut x).unwrap();
        stream.memcpy_htod(&layer.dy.rows(), &mut dy).unwrap();
        graph.launch().unwrap();
        let [y, dx, d_lora_a, d_lora_b] = [&y, &dx, &d_lora_a, &d_lora_b].map(|out| stream.clone_dtoh(out).unwrap());
        let direct_forward = layer.forward();
        let direct = layer.backward(&direct_forward.saved);
        for (name, replayed, direct) in [
            ("y", y, direct_forward.y),
            ("dx", dx, direct.dx),
            ("d_lora_A", d_lora_a, direct.d_lora_a),
            ("d_lora_B", d_lora_b, direct.d_lora_b),
        ] {
            assert!(bytemuck::cast_slice::<_, u8>(&replayed) == bits(&direct), "{name}");
        }
    }
}
