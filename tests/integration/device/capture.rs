//! Raw calls in a CUDA graph, captured once and replayed with other numbers in the same memory. The
//! test has a process of its own, because a capture affects the whole process.

use crate::common::call::{BackwardCall, ForwardCall};
use crate::common::device::gpu;
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};
use half::bf16;
use lora_kernels::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use lora_kernels::cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use lora_kernels::raw::{
    BackwardArgs, BackwardProjectionArgs, ForwardArgs, ForwardProjectionArgs, LoraArgs,
    LoraGradientsArgs,
};
use lora_kernels::{
    Backward, BackwardPlan, Forward, ForwardPlan, Lora, LoraGradients, MatMut, MatRef, ReadMatrix,
    WriteMatrix,
};

/// A layer with the same weights for every `seed`; x and dy depend on it.
fn layer(case: &LayerCase, seed: usize) -> TestLayer<bf16, f32> {
    let mut layer = TestLayer::random(case);
    let dys = layer
        .projections
        .iter_mut()
        .map(|projection| &mut projection.dy);
    for matrix in dys.chain([&mut layer.x]) {
        let range = matrix.range();
        matrix.buffer[range].rotate_left(seed);
    }
    layer
}

/// One projection, and several whose tiles are split: a replay starts with the counters that the
/// previous run left. The last is for Hopper's kernels, whose adapters are packed first and whose
/// forward begins while the shrink still runs.
fn cases() -> [LayerCase; 4] {
    let shared = LayerCase::sharing_x(100, 1032, &[(72, 20), (40, 0), (136, 8)]).dropout(0.2);
    [
        LayerCase::new(100, 136, 72, 20).dropout(0.2).bias(false),
        shared.clone().multiprocessors(1000),
        shared.redrawn(true).input_gradient(false),
        LayerCase::sharing_x(65, 768, &[(136, 20), (128, 0), (72, 8)])
            .multiprocessors(16)
            .dropout(0.2),
    ]
}

/// The addresses of a safe call's arguments.
struct Addresses<'s>(&'s CudaStream);

impl Addresses<'_> {
    fn read(&self, matrix: &impl ReadMatrix) -> u64 {
        matrix.pointer(self.0).0
    }

    fn written(&self, matrix: &mut impl WriteMatrix) -> u64 {
        matrix.pointer_mut(self.0).0
    }

    fn lora(&self, lora: &Lora<'_, f32>) -> LoraArgs {
        let Lora { a, b, scaling } = lora;
        LoraArgs {
            a: self.read(a),
            b: self.read(b),
            scaling: *scaling,
        }
    }
}

/// Enqueues a forward as it would be enqueued without checks of the memory.
pub fn forward_raw(stream: &CudaStream, plan: &ForwardPlan, args: Forward<'_, bf16, f32>) {
    let addresses = Addresses(stream);
    let projections = args.projections.into_iter().map(|mut projection| {
        let weight: &MatRef<'_, bf16> = &projection.weight;
        ForwardProjectionArgs {
            weight: addresses.read(weight),
            bias: (projection.bias.as_ref()).map(|bias| bias.device_ptr(stream).0),
            lora: projection.lora.as_ref().map(|lora| addresses.lora(lora)),
            y: addresses.written(&mut projection.y),
        }
    });
    let projections: Vec<_> = projections.collect();
    let raw = ForwardArgs {
        x: addresses.read(&args.x),
        projections: &projections,
        dropout: args.dropout,
        saved: (args.saved).map(|mut buffer| buffer.device_ptr_mut(stream).0),
        workspace: (args.workspace).map(|mut buffer| buffer.device_ptr_mut(stream).0),
        rows: None,
        flags: (args.flags).map(|flags| flags.words().device_ptr(stream).0),
    };
    // SAFETY: the arguments are those of a call of this plan, and their memory outlives the graph.
    let enqueued = unsafe { gpu().kernels.forward_raw(plan, &raw, stream.cu_stream()) };
    enqueued.expect("forward is captured");
}

fn backward_raw(stream: &CudaStream, plan: &BackwardPlan, args: Backward<'_, bf16, f32>) {
    let addresses = Addresses(stream);
    let projections = args.projections.into_iter().map(|mut projection| {
        let gradients = projection.gradients.as_mut();
        BackwardProjectionArgs {
            dy: addresses.read(&projection.dy),
            weight: addresses.read(&projection.weight),
            lora: projection.lora.as_ref().map(|lora| addresses.lora(lora)),
            gradients: gradients.map(|LoraGradients { a, b }| LoraGradientsArgs {
                a: addresses.written(a),
                b: addresses.written(b),
            }),
        }
    });
    let projections: Vec<_> = projections.collect();
    let dx: Option<MatMut<'_, bf16>> = args.dx;
    let raw = BackwardArgs {
        x: addresses.read(&args.x),
        projections: &projections,
        dropout: args.dropout,
        saved: (args.saved).map(|buffer| buffer.device_ptr(stream).0),
        record: Some(args.record),
        dx: dx.map(|mut dx| addresses.written(&mut dx)),
        workspace: (args.workspace).map(|mut buffer| buffer.device_ptr_mut(stream).0),
        rows: None,
    };
    // SAFETY: as in forward.
    let enqueued = unsafe { gpu().kernels.backward_raw(plan, &raw, stream.cu_stream()) };
    enqueued.expect("backward is captured");
}

fn a_captured_layer_replays_with_the_numbers_it_finds() {
    let kernels = &gpu().kernels;
    // cudarc's event tracking would make the captured calls depend on events outside of the
    // capture. SAFETY: this process uses one stream at a time, and waits for it before it uses
    // another.
    unsafe { kernels.context().disable_event_tracking() };
    let stream = kernels.context().new_stream().unwrap();
    for case in cases() {
        let first = layer(&case, 0);
        let (forward_plan, backward_plan) = (first.forward_plan(), first.backward_plan());
        let mut forward = ForwardCall::new(&first, &forward_plan);
        let nothing = vec![0xFF; forward_plan.saved().bytes()];
        let mut backward = BackwardCall::new(&first, &backward_plan, &nothing);
        gpu().stream.synchronize().unwrap();
        let poisoned = forward.read_back().bits();

        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)
            .unwrap();
        forward_raw(&stream, &forward_plan, forward.arguments());
        let mut arguments = backward.arguments();
        arguments.saved = forward.saved.view().into();
        backward_raw(&stream, &backward_plan, arguments);
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a graph");
        assert_same_bits(
            &forward.read_back().bits(),
            &poisoned,
            "a capture runs nothing",
        );

        for layer in [layer(&case, 1), layer(&case, 2), layer(&case, 0)] {
            forward.x.replace(&layer.x);
            backward.x.replace(&layer.x);
            for (memory, projection) in backward.projections.iter_mut().zip(&layer.projections) {
                memory.dy.replace(&projection.dy);
            }
            gpu().stream.synchronize().unwrap();
            graph.launch().unwrap();
            stream.synchronize().unwrap();
            let replayed = [forward.read_back().bits(), backward.read_back().bits()].concat();
            assert_same_bits(&replayed, &layer.written(), "replayed");
        }
    }
}

fn a_replay_draws_the_mask_of_the_words_it_finds() {
    let kernels = &gpu().kernels;
    // SAFETY: as above.
    unsafe { kernels.context().disable_event_tracking() };
    let stream = kernels.context().new_stream().unwrap();
    let case = LayerCase::new(100, 136, 72, 20).dropout(0.2);
    for case in [case.clone(), case.redrawn(true)] {
        let by_value = layer(&case, 0);
        let mut words = gpu().stream.clone_htod(&[0u64; 3]).unwrap();
        // At a multiple of 8 that is none of 16
        let seed = words.slice(1..).device_ptr(&gpu().stream).0;
        let mut from_memory = by_value.clone();
        let dropout = from_memory.case.dropout.as_mut().expect("dropout");
        (dropout.seed, dropout.offset) = (seed, 0);
        let problem = case.problem_with::<bf16, f32>();
        let problem = problem.with_dropout_from_memory(true);
        let forward_plan = ForwardPlan::new(&problem, &case.device()).expect("a plan");
        let backward_plan = BackwardPlan::new(&problem, &case.device()).expect("a plan");
        let mut forward = ForwardCall::new(&from_memory, &forward_plan);
        let nothing = vec![0xFF; forward_plan.saved().bytes()];
        let mut backward = BackwardCall::new(&from_memory, &backward_plan, &nothing);
        gpu().stream.synchronize().unwrap();

        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)
            .unwrap();
        forward_raw(&stream, &forward_plan, forward.arguments());
        let mut arguments = backward.arguments();
        arguments.saved = forward.saved.view().into();
        backward_raw(&stream, &backward_plan, arguments);
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a graph");

        let mut drawn = Vec::new();
        for (seed, offset) in [(1, 2), (1, 3), (1 << 40, 3 << 50), (1, 2)] {
            gpu()
                .stream
                .memcpy_htod(&[!0, seed, offset], &mut words)
                .unwrap();
            gpu().stream.synchronize().unwrap();
            graph.launch().unwrap();
            stream.synchronize().unwrap();
            let replayed = [forward.read_back().bits(), backward.read_back().bits()].concat();
            let mut expected = by_value.clone();
            let dropout = expected.case.dropout.as_mut().expect("dropout");
            (dropout.seed, dropout.offset) = (seed, offset);
            assert_same_bits(&replayed, &expected.written(), "replayed");
            drawn.push(replayed);
        }
        assert!(drawn[0] == drawn[3] && drawn[0] != drawn[1] && drawn[0] != drawn[2]);

        let error = forward
            .run(&gpu().stream, &forward_plan)
            .expect_err("refused");
        assert_eq!(
            error.to_string(),
            "dropout from device memory with a call of borrowed matrices: give a raw call the address of two u64 as the seed, at a multiple of 8, and 0 as the offset; see Problem::with_dropout_from_memory"
        );
    }
}

alone!(
    a_captured_layer_replays_with_the_numbers_it_finds,
    a_replay_draws_the_mask_of_the_words_it_finds,
);
