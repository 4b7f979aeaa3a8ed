//! Each projection has one adapter.

use half::{bf16, f16};

use crate::common::data::Placement;
use crate::common::device::Number;
use crate::common::layer::{LayerCase, TestLayer};
use lora_kernels::Role;

#[track_caller]
fn check<T: Number, A: Number>(case: LayerCase) {
    let layer = TestLayer::<T, A>::random(&case.inference());
    let plan = layer.forward_plan();
    assert_eq!(plan.launches().len(), 1, "{plan}");
    assert!(plan.flags_bytes() > 0, "{plan}");
    layer.check_forward(&layer.forward());
}

#[test]
fn a_token() {
    check::<bf16, bf16>(LayerCase::new(1, 256, 128, 8));
}

/// Whole and shared tiles, slices that end early, groups beyond a step, padded ranks.
#[test]
fn tokens_sizes_and_ranks() {
    for tokens in [1, 2, 3, 4, 5, 8, 16, 17, 33, 64] {
        check::<bf16, bf16>(LayerCase::new(tokens, 200, 136, 20));
        check::<f32, f32>(LayerCase::new(tokens, 196, 68, 3));
    }
    for rank in [1, 3, 8, 16, 24, 64, 320] {
        check::<f16, f16>(LayerCase::new(7, 1040, 72, rank));
        check::<bf16, f32>(LayerCase::new(18, 520, 72, rank));
    }
    for (in_features, out_features) in [(8, 8), (24, 3696), (1032, 65), (513, 64), (3, 5)] {
        check::<bf16, bf16>(LayerCase::new(3, in_features, out_features, 5));
        check::<f32, f32>(LayerCase::new(3, in_features, out_features, 5));
    }
}

#[test]
fn tiles_with_few_and_many_blocks() {
    for multiprocessors in [1, 2, 3, 7, 1000] {
        let case = LayerCase::new(5, 520, 200, 8).multiprocessors(multiprocessors);
        check::<bf16, bf16>(case.clone());
        check::<f32, f32>(case.batch_invariant());
    }
}

#[test]
fn layouts_and_options() {
    for placement in [Placement::Dense, Placement::AlignedView, Placement::OddView] {
        check::<bf16, bf16>(LayerCase::new(9, 264, 100, 12).placed(placement));
        check::<f16, f32>(LayerCase::new(20, 136, 72, 12).placed(placement));
    }
    check::<bf16, bf16>(LayerCase::new(9, 264, 100, 12).bias(false));
    check::<f16, f16>(LayerCase::new(9, 264, 100, 12).accumulate(&[Role::Y]));
    check::<f32, f32>(LayerCase::new(9, 264, 100, 12).accumulate(&[Role::Y]));
}

#[test]
fn projections_share_x() {
    let case = LayerCase::sharing_x(6, 520, &[(136, 20), (64, 0), (200, 8), (72, 33)]);
    check::<bf16, bf16>(case.clone());
    check::<f32, f32>(case.clone().multiprocessors(3));
    check::<f16, f32>(case.batch_invariant());
}

/// The weight is not read: here it is poisoned.
#[test]
fn the_adapters_part_is_added_to_y() {
    fn delta<T: Number>(tokens: usize) {
        let case = LayerCase::sharing_x(tokens, 264, &[(136, 20), (72, 8)]);
        let case = case.bias(false).delta_only().inference();
        let mut layer = TestLayer::<T>::random(&case);
        let of = |value: f32, layer: &mut TestLayer<T>| {
            for projection in &mut layer.projections {
                projection.weight.buffer.fill(T::from_f64(value.into()));
            }
        };
        of(f32::NAN, &mut layer);
        let run = layer.forward();
        of(0.0, &mut layer);
        layer.check_forward(&run);
    }
    delta::<bf16>(4);
    delta::<f32>(17);
}
