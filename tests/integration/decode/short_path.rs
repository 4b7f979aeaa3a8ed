//! `LoraLinear::infer` in one launch, with flags of its own.

use half::bf16;
use lora_kernels_test_device::{Selection, select};
use ptx_emulator::counters::Control;

use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};
use crate::common::short_path::{OnDevice, bits_of_y, lora_linear};

/// In this order the flags grow, and are larger than needed in between.
fn cases() -> [LayerCase; 5] {
    [
        LayerCase::new(1, 136, 72, 20),
        LayerCase::new(1, 136, 1000, 20),
        LayerCase::new(64, 264, 72, 8),
        LayerCase::sharing_x(17, 72, &[(1000, 16), (40, 0), (240, 70)]),
        LayerCase::new(70, 264, 72, 8),
    ]
    .map(|case| case.inference().redrawn(true))
}

fn bits_are_those_of_the_typed_call<T: Number, A: Number>() {
    let short = lora_linear();
    for case in cases() {
        let layer = TestLayer::<T, A>::random(&case);
        let expected = layer.forward();
        layer.check_forward(&expected);
        let device = OnDevice::new(&layer);
        let inputs = device.inputs();
        let plan = short.infer_plan(&inputs).expect("a plan");
        assert_eq!(*plan, layer.forward_plan(), "{case:?}");
        // A clone on the same stream has the same flags.
        for short in [&short, &short.clone()] {
            let y = short.infer(&inputs).expect("inference runs");
            let expected = &expected.bits()[..case.projections.len()];
            assert_same_bits(&bits_of_y(&y), expected, &format!("{case:?}"));
        }
    }
}

#[test]
fn in_bf16() {
    bits_are_those_of_the_typed_call::<bf16, bf16>();
}

#[test]
fn in_bf16_with_f32_adapters() {
    bits_are_those_of_the_typed_call::<bf16, f32>();
}

#[test]
fn in_f32() {
    bits_are_those_of_the_typed_call::<f32, f32>();
}

/// Layers on two streams have flags of their own.
#[test]
fn streams_do_not_share_flags() {
    let case = LayerCase::new(3, 520, 200, 24).inference();
    let layer = TestLayer::<bf16>::random(&case);
    let expected = layer.forward().bits();
    let device = OnDevice::new(&layer);
    let inputs = device.inputs();
    let here = lora_linear();
    let stream = gpu().stream.context().new_stream().expect("a stream");
    let there = here.on_stream(&stream).expect("the same context");
    let calls = [&here, &there, &here, &there].map(|short| short.infer(&inputs));
    for y in calls {
        let y = y.expect("inference runs");
        stream.synchronize().expect("nothing faults");
        assert_same_bits(&bits_of_y(&y), &expected[..1], "on either stream");
    }
}

fn inference_is_one_launch() {
    let Ok(Selection::Emulated { .. }) = select() else {
        println!("counters need the emulated device");
        return;
    };
    let layer = TestLayer::<bf16>::random(&LayerCase::new(9, 40, 24, 3));
    let device = OnDevice::new(&layer);
    let (short, inputs) = (lora_linear(), device.inputs());
    let control = Control::loaded().expect("the emulated driver's counters");
    for _ in 0..2 {
        control.reset().expect("counters");
        control.count(true).expect("counters");
        short.infer(&inputs).expect("inference runs");
        gpu().stream.synchronize().expect("nothing faults");
        let kernels = control.read().expect("counters").kernels;
        let launches: u64 = kernels.iter().map(|kernel| kernel.launches).sum();
        assert_eq!(launches, 1, "{kernels:?}");
    }
}

alone!(inference_is_one_launch);
