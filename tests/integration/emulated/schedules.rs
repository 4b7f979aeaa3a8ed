//! A GPU chooses the order of blocks and warps and the moment when an asynchronous copy completes;
//! results must have the same bits for every choice. The emulated device runs given orders. On a
//! real GPU, the same call runs several times.

use crate::common::case::OUTPUTS;
use crate::common::data::Placement::{AlignedView, OddView};
use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};
use half::{bf16, f16};
use lora_kernels::DType;
use lora_kernels_test_device::{Selection, select};
use ptx_emulator::counters::Control;

/// (schedule, whether copies complete when they are issued).
const ORDERS: [(&str, bool); 9] = [
    ("fair", true),
    ("seed:1", false),
    ("seed:2", true),
    ("seed:3", false),
    ("last-block-first", false),
    ("last-block-first", true),
    ("one-ahead", false),
    ("starve-warp", false),
    ("starve-warp", true),
];

/// Aligned and odd layers, ranks that fill a rank tile and ranks that don't, wide tiles with one
/// split and small tiles with many.
fn cases() -> Vec<LayerCase> {
    let aligned = LayerCase::new(130, 200, 136, 24).dropout(0.2);
    let odd = LayerCase::new(67, 131, 77, 5).placed(OddView);
    vec![
        aligned.clone().multiprocessors(1),
        aligned.clone().multiprocessors(1000),
        aligned.placed(AlignedView).bias(false),
        LayerCase::new(70, 1032, 72, 8).multiprocessors(1000),
        odd.clone().dropout(0.4).multiprocessors(1000),
        odd.multiprocessors(1),
        LayerCase::new(1, 300, 40, 16).dropout(0.1),
        LayerCase::sharing_x(70, 264, &[(72, 8), (40, 0), (24, 17)])
            .dropout(0.3)
            .redrawn(true),
        LayerCase::sharing_x(66, 1032, &[(40, 8), (8, 3)])
            .transposed(true)
            .multiprocessors(1000),
        LayerCase::new(66, 136, 1032, 8)
            .multiprocessors(1000)
            .dropout(0.2)
            .accumulate(&OUTPUTS),
    ]
}

fn no_order_changes_a_bit<T: Number>() {
    gpu();
    let emulated = match select().expect("a device, real or emulated") {
        Selection::Emulated { .. } => Some(Control::loaded().expect("the emulated driver")),
        Selection::Real => None,
    };
    for case in cases() {
        let layer = TestLayer::<T>::random(&case);
        let expected = layer.written();
        let assert_same = |how: &str| {
            assert_same_bits(
                &layer.written(),
                &expected,
                &format!("{how}: {:?}", layer.case),
            )
        };
        let Some(control) = emulated else {
            (0..10).for_each(|_| assert_same("from one run to the next"));
            continue;
        };
        // Layers in f32 take about six times as long to emulate; they get every other order.
        let step = if T::DTYPE == DType::F32 { 2 } else { 1 };
        for (schedule, early) in ORDERS.into_iter().step_by(step) {
            control.schedule(schedule).expect("a schedule");
            control.early_copies(early).expect("a setting");
            assert_same(&format!("under {schedule}, early copies: {early}"));
        }
        control.schedule("fair").expect("a schedule");
        control.early_copies(false).expect("a setting");
    }
}

fn no_order_changes_a_bit_in_bf16() {
    no_order_changes_a_bit::<bf16>();
}

fn no_order_changes_a_bit_in_f16() {
    no_order_changes_a_bit::<f16>();
}

fn no_order_changes_a_bit_in_f32() {
    no_order_changes_a_bit::<f32>();
}

alone!(
    no_order_changes_a_bit_in_bf16,
    no_order_changes_a_bit_in_f16,
    no_order_changes_a_bit_in_f32,
);
