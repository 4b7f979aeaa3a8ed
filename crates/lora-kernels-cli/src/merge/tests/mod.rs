//! Computes changes on the CPU and on the device, and compares both with a merge in f64.

mod changed;
mod dora;
mod kinds;
mod refused;
mod rows;

use std::sync::OnceLock;

use half::{bf16, f16};
use lora_kernels::WeightLayout;
use lora_kernels_adapters::{Dtype, Tensor};

use super::change::{Change, LoraPart, Stack};
use super::engine::Engine;
use super::job::Job;
use super::numbers::{element_bytes, read, store, with_float};
use super::pipeline::{self, Totals};
use crate::device::Choice;
use crate::failure::Failure;

/// A tensor that owns its values, which its type represents exactly.
struct Owned {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    values: Vec<f64>,
}

impl Owned {
    fn new(dtype: Dtype, shape: &[usize], values: &[f64]) -> Self {
        let mut bytes = vec![0; values.len() * element_bytes(dtype)];
        store(values, dtype, &mut bytes);
        let values = numbers(&bytes, dtype);
        Self {
            dtype,
            shape: shape.to_vec(),
            bytes,
            values,
        }
    }

    /// Numbers in (-1, 1) that depend on the seed.
    fn made(dtype: Dtype, shape: &[usize], seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let values: Vec<f64> = std::iter::repeat_with(next)
            .take(shape.iter().product())
            .collect();
        Self::new(dtype, shape, &values)
    }

    fn tensor(&self) -> Tensor<'_> {
        Tensor::named("w", self.dtype, &self.shape, &self.bytes)
    }
}

fn numbers(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    with_float!(dtype, S => read::<S>(bytes).collect(), else Vec::new())
}

/// An adapter's part that adds B·A to a whole weight.
fn part<'a>(rank: usize, factor: f32, stack: Stack, a: &'a Owned, b: &'a Owned) -> LoraPart<'a> {
    LoraPart {
        rank,
        factor,
        stack,
        expert: None,
        first_out: 0,
        a: a.tensor(),
        b: b.tensor(),
    }
}

/// The device that tests run on. It is opened once, because loading the kernels takes a while.
fn device() -> &'static Engine {
    static DEVICE: OnceLock<Engine> = OnceLock::new();
    DEVICE.get_or_init(|| {
        lora_kernels_test_device::select().expect("a device, real or emulated");
        Engine::open(Choice::Gpu(0)).unwrap()
    })
}

fn run(
    engine: &Engine,
    tensor: Tensor<'_>,
    change: &Change<'_>,
) -> Result<(Vec<u8>, Totals), Failure> {
    let job = Job::new("w", tensor, change)?;
    pipeline::run(engine, &[&job], |results| {
        let mut bytes = Vec::new();
        let totals = results.of(&job, |more| {
            bytes.extend_from_slice(more);
            Ok(())
        })?;
        assert_eq!(bytes.len(), job.bytes());
        Ok((bytes, totals))
    })
}

/// The values that a change gives. The CPU and the device must agree on every bit.
#[track_caller]
fn changed(tensor: &Owned, change: &Change<'_>) -> (Vec<f64>, Totals) {
    let (bytes, totals) = run(&Engine::Cpu, tensor.tensor(), change).unwrap();
    let (on_device, counted) = run(device(), tensor.tensor(), change).unwrap();
    assert!(bytes == on_device, "the device gives other bits");
    assert_eq!(totals.without_norm, counted.without_norm);
    assert_eq!(totals.non_finite, counted.non_finite);
    let counts = |totals: &Totals| {
        totals
            .report
            .map(|report| (report.elements, report.nonzero, report.unchanged))
    };
    assert_eq!(counts(&totals), counts(&counted));
    (numbers(&bytes, tensor.dtype), totals)
}

/// Asserts that each value is the rounding of the expected one, within the errors of f32 sums of
/// numbers of about 1.
#[track_caller]
fn assert_rounded(values: &[f64], expected: &[f64], dtype: Dtype) {
    assert_eq!(values.len(), expected.len());
    for (at, (value, expected)) in values.iter().zip(expected).enumerate() {
        let relative: f64 = match dtype {
            Dtype::F16 => 2f64.powi(-11),
            Dtype::BF16 => 2f64.powi(-8),
            _ => 0.0,
        };
        let bound = expected.abs() * relative + 2f64.powi(-19);
        assert!(
            (value - expected).abs() <= bound,
            "element {at} is {value}, not {expected} within {bound:e}"
        );
    }
}

/// The nearest number of a type, ties to even, without the conversions that are tested: steps of
/// the type at the value's size are powers of two, so that f64 counts them exactly.
fn nearest(dtype: Dtype, value: f64) -> f64 {
    let (digits, least, largest) = match dtype {
        Dtype::F16 => (11, -14, 65504.0),
        Dtype::BF16 => (8, -126, 2f64.powi(127) * (2.0 - 2f64.powi(-7))),
        _ => return value as f32 as f64,
    };
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = (value.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    let step = 2f64.powi(exponent.max(least) + 1 - digits);
    let rounded = (value / step).round_ties_even() * step;
    match rounded.abs() > largest {
        true => f64::INFINITY.copysign(value),
        false => rounded,
    }
}

/// Σ factor·b(ρ)·a(ρ) over the ranks.
fn product(rank: usize, factor: f32, b: impl Fn(usize) -> f64, a: impl Fn(usize) -> f64) -> f64 {
    f64::from(factor) * (0..rank).map(|rank| b(rank) * a(rank)).sum::<f64>()
}
