//! A GPU chooses the order of blocks and warps, and when a bulk copy and the operands of a product
//! are moved. Hopper's kernels give the same bits for every choice.

use half::{bf16, f16};
use ptx_emulator::counters::Control;

use crate::common::case::OUTPUTS;
use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};

const NAMED: [&str; 4] = ["fair", "last-block-first", "one-ahead", "starve-warp"];
const SEEDS: u32 = 10;

/// The schedules with late copies, and the named ones with early copies, too.
pub fn orders() -> impl Iterator<Item = (String, bool)> {
    let named = NAMED
        .into_iter()
        .flat_map(|name| [false, true].map(|early| (name.into(), early)));
    named.chain((1..=SEEDS).map(|seed| (format!("seed:{seed}"), seed % 3 == 0)))
}

/// Clusters whose last has a block without rows, several projections that are added to what is
/// there, stores that no map describes, slices of the depth of y and of dx.
fn layers() -> Vec<LayerCase> {
    let clusters = LayerCase::new(576, 128, 128, 16)
        .scaling(2.0)
        .dropout(0.2)
        .multiprocessors(2);
    let shared = LayerCase::sharing_x(150, 72, &[(136, 16), (64, 3)]).accumulate(&OUTPUTS);
    let unmapped = LayerCase::new(130, 136, 132, 20).multiprocessors(2);
    let slices = LayerCase::new(128, 4096, 128, 24).multiprocessors(4);
    let slices_of_dx = LayerCase::new(128, 128, 4096, 8).multiprocessors(4);
    vec![
        clusters,
        shared.dropout(0.3),
        unmapped,
        slices,
        slices_of_dx,
    ]
}

fn no_order_changes_a_bit<T: Number>(cases: &[LayerCase]) {
    gpu();
    let control = Control::loaded().expect("the emulated driver");
    for case in cases {
        let layer = TestLayer::<T>::random(case);
        let expected = layer.written();
        for (schedule, early) in orders() {
            control.schedule(&schedule).expect("a schedule");
            control.early_copies(early).expect("a setting");
            let how = format!("under {schedule}, early copies: {early}: {case:?}");
            assert_same_bits(&layer.written(), &expected, &how);
        }
        control.schedule("fair").expect("a schedule");
        control.early_copies(false).expect("a setting");
    }
}

fn no_order_changes_a_bit_in_bf16() {
    no_order_changes_a_bit::<bf16>(&layers());
}

fn no_order_changes_a_bit_in_f16() {
    no_order_changes_a_bit::<f16>(&layers()[..1]);
}

super::on_h100!(
    no_order_changes_a_bit_in_bf16,
    no_order_changes_a_bit_in_f16
);
