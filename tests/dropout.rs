//! Dropout: the mask's statistics, and that it is a function of seed, offset and element alone.

mod common;

use common::check::bits;
use common::data::Placement;
use common::device::Number;
use common::layer::{Case, Layer};
use half::bf16;
use lora_kernels::Dropout;
use lora_kernels::reference::KeepMask;

fn with(p: f32, seed: u64, offset: u64) -> Dropout {
    Dropout { p, seed, offset }
}

/// The mask that the device saved.
fn mask_of<T: Number>(case: &Case) -> Vec<u8> {
    let saved = Layer::<T>::random(case).forward().saved;
    let region = case.forward_plan::<T>().saved().mask.expect("a mask");
    saved[region.offset..][..region.bytes].to_vec()
}

/// Kept elements, and elements.
fn count(mask: &[u8], elements: usize) -> (f64, f64) {
    (
        mask.iter().map(|byte| f64::from(byte.count_ones())).sum(),
        elements as f64,
    )
}

/// Fails if `count` of `trials` is further from `probability` than one run in ten million would be. The seeds are
/// fixed: it is always the same run.
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
        let case = Case::new(256, 512, 8, 8).dropout(p);
        let (kept, elements) = count(&mask_of::<bf16>(&case), 256 * 512);
        assert_binomial(kept, elements, 1.0 - f64::from(p));
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
        assert_binomial(agreements(&|row, col| mask.keeps(row, col + distance)), pairs, 0.5);
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
    assert!(
        little
            .bytes()
            .iter()
            .zip(much.bytes())
            .all(|(little, much)| little & much == *much)
    );
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
    let case = Case::new(131, 203, 64, 8).dropout(0.4);
    let expected = KeepMask::new(131, 203, &case.dropout.unwrap());
    assert_eq!(mask_of::<half::f16>(&case), expected.bytes());
    assert_eq!(mask_of::<f32>(&case), expected.bytes());
    let placed = case.clone().placed(Placement::OddView).multiprocessors(1);
    assert_eq!(mask_of::<bf16>(&placed), expected.bytes());
    let more_ranks = Case::new(131, 203, 64, 200).dropout(0.4);
    assert_eq!(mask_of::<bf16>(&more_ranks), expected.bytes());
}

/// A probability of zero drops nothing and scales by one, bit for bit.
fn dropping_nothing_is_no_dropout<T: Number>() {
    let plain = Layer::<T>::random(&Case::new(70, 130, 90, 20));
    let dropping = Layer::<T>::random(&Case::new(70, 130, 90, 20).dropout(0.0));
    let (plain_forward, dropping_forward) = (plain.forward(), dropping.forward());
    assert_eq!(bits(&plain_forward.y), bits(&dropping_forward.y));
    let (plain, dropping) = (
        plain.backward(&plain_forward.saved),
        dropping.backward(&dropping_forward.saved),
    );
    assert_eq!(bits(&plain.dx), bits(&dropping.dx));
    assert_eq!(bits(&plain.d_lora_a), bits(&dropping.d_lora_a));
    assert_eq!(bits(&plain.d_lora_b), bits(&dropping.d_lora_b));
}

/// Nearly everything dropped: the scale is large, and most rows of S are zero.
fn dropping_nearly_everything<T: Number>() {
    Layer::<T>::random(&Case::new(40, 64, 48, 8).dropout(0.98)).check();
}

/// A dropped element is zero to the adapter even where it is a NaN, which multiplying by zero would keep.
fn a_dropped_nan_does_not_reach_the_adapter<T: Number>() {
    let case = Case::new(30, 96, 32, 8).dropout(0.5);
    let mut layer = Layer::<T>::random(&case);
    let mask = KeepMask::new(30, 96, &case.dropout.unwrap());
    let clean = layer.forward().saved;
    let col = (0..96).find(|&col| !mask.keeps(11, col)).expect("something is dropped");
    let at = layer.x.start + 11 * layer.x.row_stride + col;
    layer.x.buffer[at] = T::from_f64(f64::NAN);
    assert!(layer.forward().saved == clean);
    let d_lora_a = layer.backward(&clean).d_lora_a.rows();
    assert!(d_lora_a.iter().all(|value| value.to_f64().is_finite()));
}

for_each_dtype!(
    dropping_nothing_is_no_dropout,
    dropping_nearly_everything,
    a_dropped_nan_does_not_reach_the_adapter,
);
