//! A criterion measurement whose units say whether a GPU or the interpreter was timed.

use std::time::Duration;

use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};

pub struct Clock {
    pub emulated: bool,
}

impl Measurement for Clock {
    type Intermediate = <WallTime as Measurement>::Intermediate;
    type Value = Duration;

    fn start(&self) -> Self::Intermediate {
        WallTime.start()
    }
    fn end(&self, intermediate: Self::Intermediate) -> Duration {
        WallTime.end(intermediate)
    }
    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }
    fn zero(&self) -> Duration {
        Duration::ZERO
    }
    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        if self.emulated { &Emulated } else { &Gpu }
    }
}

/// The unit for a typical value in nanoseconds, and its divisor.
fn unit(typical: f64) -> (f64, usize) {
    match typical {
        t if t < 1e3 => (1.0, 0),
        t if t < 1e6 => (1e-3, 1),
        t if t < 1e9 => (1e-6, 2),
        _ => (1e-9, 3),
    }
}

fn scale(values: &mut [f64], factor: f64) {
    for value in values {
        *value *= factor;
    }
}

struct Emulated;

impl ValueFormatter for Emulated {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        let (factor, index) = unit(typical);
        scale(values, factor);
        [
            "ns of emulation",
            "us of emulation",
            "ms of emulation",
            "s of emulation",
        ][index]
    }
    fn scale_throughputs(
        &self,
        _typical: f64,
        _throughput: &Throughput,
        _values: &mut [f64],
    ) -> &'static str {
        "no throughput: emulated"
    }
    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "ns of emulation"
    }
}

struct Gpu;

impl ValueFormatter for Gpu {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        let (factor, index) = unit(typical);
        scale(values, factor);
        ["ns", "us", "ms", "s"][index]
    }
    fn scale_throughputs(
        &self,
        _typical: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        let Throughput::Elements(flops) = throughput else {
            return "";
        };
        for value in values {
            *value = *flops as f64 / *value * 1e-3; // FLOP per ns is GFLOP/s
        }
        "TFLOP/s"
    }
    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "ns"
    }
}
