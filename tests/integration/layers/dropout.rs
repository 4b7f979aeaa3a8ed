//! Dropout: the mask's statistics, and that the mask depends only on seed, offset and element.

use crate::common::data::Placement;
use crate::common::device::Number;
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};
use half::bf16;
use lora_kernels::Dropout;
use lora_kernels::reference::KeepMask;

fn with(p: f32, seed: u64, offset: u64) -> Dropout {
    Dropout { p, seed, offset }
}

/// The mask that the device saved.
fn mask_of<T: Number>(case: &LayerCase) -> Vec<u64> {
    let saved = TestLayer::<T>::random(case).forward().saved;
    let region = case.forward_plan::<T>().saved().mask.expect("a mask");
    let words = saved[region.offset..][..region.bytes].chunks_exact(8);
    words.map(bytemuck::pod_read_unaligned).collect()
}

/// Fails if `count` of `trials` deviates from `probability` more than one run in ten million would.
/// The seeds are fixed, so it is always the same run.
#[track_caller]
fn assert_binomial(count: f64, trials: f64, probability: f64) {
    let deviation = (trials * probability * (1.0 - probability)).sqrt();
    let distance = (count - trials * probability).abs() / deviation;
    assert!(
        distance < 5.3,
        "{count} of {trials} is {distance:.1} standard deviations from {probability}"
    );
}

#[test]
fn the_device_keeps_as_many_as_asked() {
    for p in [0.05, 0.1, 0.5, 0.9] {
        let case = LayerCase::new(256, 512, 8, 8).dropout(p);
        let kept: f64 = mask_of::<bf16>(&case)
            .iter()
            .map(|word| f64::from(word.count_ones()))
            .sum();
        assert_binomial(kept, 256.0 * 512.0, 1.0 - f64::from(p));
    }
}

#[test]
fn every_row_and_every_column_is_kept_as_often() {
    let (rows, cols) = (512, 512);
    let mask = KeepMask::new(rows, cols, &with(0.3, 1, 2));
    for i in 0..512 {
        assert_binomial(
            (0..cols).filter(|&col| mask.keeps(i, col)).count() as f64,
            cols as f64,
            0.7,
        );
        assert_binomial(
            (0..rows).filter(|&row| mask.keeps(row, i)).count() as f64,
            rows as f64,
            0.7,
        );
    }
}

#[test]
fn neighbours_seeds_and_offsets_are_independent() {
    let (rows, cols) = (256, 256);
    let base = with(0.5, 7, 9);
    let mask = KeepMask::new(rows, cols, &base);
    let agreements = |f: &dyn Fn(usize, usize) -> bool| {
        let elements = (0..rows).flat_map(|row| (0..cols - 8).map(move |col| (row, col)));
        elements
            .filter(|&(row, col)| mask.keeps(row, col) == f(row, col))
            .count() as f64
    };
    let pairs = (rows * (cols - 8)) as f64;
    for distance in 1..=8 {
        assert_binomial(
            agreements(&|row, col| mask.keeps(row, col + distance)),
            pairs,
            0.5,
        );
    }
    for other in [
        with(0.5, 8, 9),
        with(0.5, 7, 10),
        with(0.5, 7 + (1 << 32), 9),
        with(0.5, 7, 9 + (1 << 32)),
        with(0.5, 9, 7),
    ] {
        let other = KeepMask::new(rows, cols, &other);
        assert_binomial(agreements(&|row, col| other.keeps(row, col)), pairs, 0.5);
    }
}

#[test]
fn a_mask_with_more_dropped_has_the_same_ones_dropped_and_more() {
    let (little, much) = (
        KeepMask::new(64, 256, &with(0.2, 3, 4)),
        KeepMask::new(64, 256, &with(0.6, 3, 4)),
    );
    let mut pairs = little.words().iter().zip(much.words());
    assert!(pairs.all(|(little, much)| little & much == *much));
}

#[test]
fn probabilities_are_rounded_to_sixteen_bits() {
    assert_eq!(with(1e-6, 0, 0).threshold(), 0);
    assert_eq!(with(0.5, 0, 0).threshold(), 32768);
    assert_eq!(with(0.999_999, 0, 0).threshold(), 65535);
    assert_eq!(with(0.999_999, 0, 0).keep_scale(), 65536.0);
    assert_eq!(with(0.25, 0, 0).keep_scale(), 4.0 / 3.0);
}

#[test]
fn the_mask_is_the_same_for_every_type_tile_and_placement() {
    let case = LayerCase::new(131, 203, 64, 8).dropout(0.4);
    let expected = KeepMask::new(131, 203, &case.dropout.unwrap());
    assert_eq!(mask_of::<half::f16>(&case), expected.words());
    assert_eq!(mask_of::<f32>(&case), expected.words());
    let placed = case.clone().placed(Placement::OddView).multiprocessors(1);
    assert_eq!(mask_of::<bf16>(&placed), expected.words());
    for (rank, multiprocessors) in [(200, 1), (200, 1000), (16, 1), (16, 1000)] {
        let case = LayerCase::new(131, 203, 64, rank)
            .dropout(0.4)
            .multiprocessors(multiprocessors);
        assert_eq!(mask_of::<bf16>(&case), expected.words(), "{case:?}");
    }
    let shared = LayerCase::sharing_x(131, 203, &[(64, 0), (8, 16), (24, 70)]).dropout(0.4);
    assert_eq!(mask_of::<bf16>(&shared), expected.words());
}

/// A redrawn mask keeps the same elements as a stored one, and gives the same bits.
fn a_redrawn_mask_is_the_stored_one<T: Number>() {
    for case in [
        LayerCase::new(150, 203, 136, 24),
        LayerCase::new(150, 200, 136, 24)
            .placed(Placement::AlignedView)
            .multiprocessors(1),
        LayerCase::new(150, 200, 136, 3)
            .placed(Placement::OddView)
            .multiprocessors(1000),
        LayerCase::new(17, 64, 40, 80),
        LayerCase::sharing_x(70, 136, &[(72, 8), (40, 0), (8, 17)]).transposed(true),
    ] {
        let case = case.dropout(0.3);
        let (stored, redrawn) = (
            TestLayer::<T>::random(&case),
            TestLayer::<T>::random(&case.clone().redrawn(true)),
        );
        let (stored_forward, redrawn_forward) = (stored.forward(), redrawn.forward());
        redrawn.check_forward(&redrawn_forward);
        // `saved` begins with S.
        let s = stored.forward_plan().saved().s;
        assert_eq!(redrawn.forward_plan().saved().s, s);
        assert!(
            stored_forward.saved[s.offset..][..s.bytes]
                == redrawn_forward.saved[s.offset..][..s.bytes]
        );
        assert!(redrawn_forward.saved.len() < stored_forward.saved.len());

        let expected = stored.backward(&stored_forward.saved).bits();
        let run = redrawn.backward(&redrawn_forward.saved);
        redrawn.check_backward(&run);
        assert_same_bits(&run.bits(), &expected, &format!("{case:?}"));
    }
}

/// A probability of zero gives the bits of a layer without dropout.
fn dropping_nothing_is_no_dropout<T: Number>() {
    let bits = |layer: &TestLayer<T>| {
        let mut written = layer.written();
        written.retain(|(name, _)| name != "saved");
        written
    };
    let case = LayerCase::new(70, 130, 90, 20);
    let plain = bits(&TestLayer::random(&case));
    for redrawn in [false, true] {
        let dropping = TestLayer::random(&case.clone().dropout(0.0).redrawn(redrawn));
        assert_same_bits(&bits(&dropping), &plain, "p = 0");
    }
}

/// If nearly everything is dropped, the scale is large and most rows of S are zero.
fn dropping_nearly_everything<T: Number>() {
    for redrawn in [false, true] {
        TestLayer::<T>::random(&LayerCase::new(40, 64, 48, 8).dropout(0.98).redrawn(redrawn))
            .check();
    }
}

/// The adapter sees zero for a dropped element even if it is a NaN, which a multiplication by zero
/// would keep.
fn a_dropped_nan_does_not_reach_the_adapter<T: Number>() {
    for redrawn in [false, true] {
        let case = LayerCase::new(30, 96, 32, 8).dropout(0.5).redrawn(redrawn);
        let mut layer = TestLayer::<T>::random(&case);
        let mask = KeepMask::new(30, 96, &case.dropout.unwrap());
        let clean = layer.forward().saved;
        let dropped = (0..96)
            .find(|&col| !mask.keeps(11, col))
            .expect("something is dropped");
        let nan = |row, col, value| {
            if (row, col) == (11, dropped) {
                f64::NAN
            } else {
                value
            }
        };
        layer.x = layer.x.map(nan);
        assert!(layer.forward().saved == clean);
        let d_lora_a = layer.backward(&clean).lora().a.rows();
        assert!(d_lora_a.iter().all(|value| value.to_f64().is_finite()));
    }
}

for_each_dtype!(
    a_redrawn_mask_is_the_stored_one,
    dropping_nothing_is_no_dropout,
    dropping_nearly_everything,
    a_dropped_nan_does_not_reach_the_adapter,
);
