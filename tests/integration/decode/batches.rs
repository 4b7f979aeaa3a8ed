//! Random batches: ranks of all sizes, rows in any order, without adapters, with several, with the
//! same one twice, all with one, weights of 0 and below, no row at all.

use half::{bf16, f16};

use super::batch::{OnDevice, assert_right, random};
use crate::common::device::{Number, gpu};

/// Together at least 2,000 batches.
fn batches<T: Number, A: Number>(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (served, batch) = random::<T, A>(seed);
        let mut on_device = OnDevice::new(&served, &gpu().stream);
        let y = on_device.run(&batch, 0.75);
        let check = || assert_right(&served, &batch, &y, 0.75);
        let right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        if let Err(cause) = right {
            eprintln!("in the batch of seed {seed}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[test]
fn random_batches_in_bf16() {
    batches::<bf16, bf16>(0..800);
}

#[test]
fn random_batches_in_f16() {
    batches::<f16, f16>(1000..1500);
}

#[test]
fn random_batches_with_f32_adapters() {
    batches::<bf16, f32>(2000..2400);
}

#[test]
fn random_batches_in_f32() {
    batches::<f32, f32>(3000..3350);
}
