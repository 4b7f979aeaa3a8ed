//! The results of a run on a machine, as stored in results.json.

use serde::{Deserialize, Serialize};

/// The results of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// The start of the run: UTC, ISO 8601
    pub date: String,
    /// The seconds from the start until this was written.
    pub seconds: u64,
    /// Whether all steps are done. A run that was cut off leaves this false.
    pub complete: bool,
    /// What the bundle was made from.
    pub build: Build,
    /// The device it ran on.
    pub device: MeasuredDevice,
    /// Facts that a reader must know first, such as a driver that is too old.
    pub notes: Vec<String>,
    /// The runs of the correctness suite and the sanitizers, in order.
    pub tests: Vec<TestRun>,
    /// Why there are no timings, or fewer than there could be.
    pub bench_failures: Vec<String>,
    /// The cuBLAS that was used, or why there was none.
    pub cublas: Option<String>,
    /// The results of the benches.
    pub timings: Vec<Row>,
}

/// What the bundle was made from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Build {
    /// The repository's commit.
    pub commit: String,
    /// nvcc's version.
    pub nvcc: String,
    /// `LORA_KERNELS_CUDA_ARCHS`, or `default`
    pub archs: String,
    /// The C library that the programs need at least
    pub glibc: String,
}

/// The device of the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeasuredDevice {
    /// The name that the driver reports.
    pub name: String,
    /// Whether it is the emulated GPU.
    pub emulated: bool,
    /// NVIDIA's version of the driver, if the machine tells it
    pub driver: Option<String>,
    /// The CUDA version that the driver supports
    pub cuda: String,
    /// The compute capability, such as 9.0.
    pub compute_capability: String,
    /// The number of streaming multiprocessors.
    pub multiprocessors: u32,
    /// The size of the L2 cache in bytes.
    pub l2_bytes: u64,
    /// The size of device memory in bytes.
    pub memory_bytes: u64,
}

/// A run of a test program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestRun {
    /// The suite's step.
    pub step: String,
    /// The name of the program.
    pub program: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The number of tests that passed.
    pub passed: u32,
    /// The number of tests that failed.
    pub failed: u32,
    /// The number of tests that were ignored.
    pub ignored: u32,
    /// The names of the tests that failed.
    pub failures: Vec<String>,
    /// Its run time in seconds.
    pub seconds: u64,
}

/// How a test program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was still running when this was written.
    Running,
    /// Every test passed.
    Passed,
    /// A test or the program itself failed.
    Failed,
    /// It was stopped because the step's time was over.
    TimedOut,
    /// It exited without an error, but reported no passed tests.
    NothingRun,
    /// It was not started, because the step's time was over or something that it needs is missing.
    NotRun,
}

/// The measurements that the bench writes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Bench {
    /// Whether nothing was timed because there was no GPU.
    pub emulated: bool,
    /// The cuBLAS that was used, or why there was none.
    pub cublas: String,
    /// A measurement for each layer, pass and way.
    pub measurements: Vec<Measurement>,
}

/// The measurement of a layer computed in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Which layer.
    pub layer: MeasuredLayer,
    /// Forward or backward.
    pub pass: Pass,
    /// Who computes it.
    pub way: Way,
    /// The operations of the layer's formulas: 2·M·K·N for each product, even if an implementation
    /// computes more.
    pub flops: u64,
    /// The time of a call.
    pub time: Time,
}

/// One or more projections that share x.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredLayer {
    /// Rows of x.
    pub tokens: usize,
    /// Columns of x.
    pub in_features: usize,
    /// Columns of each projection's y.
    pub out_features: Vec<usize>,
    /// The element type of the tensors.
    pub dtype: String,
}

/// Half of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// Computes y.
    Forward,
    /// Computes dx, dA and dB.
    Backward,
}

impl Pass {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
        }
    }
}

/// Who computes the layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// cuBLAS, only the base product: x·Wᵀ in forward, dy·W in backward.
    Plain,
    /// Unsloth's sequence of cuBLAS calls.
    Unsloth {
        /// The rank of the adapters.
        rank: usize,
    },
    /// This crate.
    Ours {
        /// The rank of the adapters.
        rank: usize,
        /// The probability of the dropout.
        p: f32,
    },
}

/// The time of a call, measured between CUDA events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Time {
    /// The median and the extremes of the samples
    Nanoseconds {
        /// The median.
        median: f64,
        /// The shortest sample.
        low: f64,
        /// The longest sample.
        high: f64,
    },
    /// The call ran on an emulated device, which has no notion of time.
    Emulated,
    /// There is no time, for this reason.
    Missing(String),
}

impl Time {
    /// The time from samples in nanoseconds per call. The last `count` samples are used, as
    /// criterion does; earlier ones are warm-up. `None` if there are fewer, as when benches are
    /// only tried.
    pub fn of(samples: &[f64], count: usize, emulated: bool) -> Option<Self> {
        if emulated {
            return samples.first().map(|_| Self::Emulated);
        }
        let mut last = samples.get(samples.len().checked_sub(count)?..)?.to_vec();
        last.sort_by(f64::total_cmp);
        let middle = last.len() / 2;
        Some(Self::Nanoseconds {
            median: (last.get(middle)? + last[(last.len() - 1) / 2]) / 2.0,
            low: *last.first()?,
            high: *last.last()?,
        })
    }
}

/// A measurement in the units that people compare. Exactly one of `microseconds` and `note` is
/// present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which layer.
    pub layer: MeasuredLayer,
    /// Forward or backward.
    pub pass: Pass,
    /// Who computed it.
    pub way: Way,
    /// The operations of the layer's formulas.
    pub flops: u64,
    /// The median time.
    pub microseconds: Option<f64>,
    /// The shortest and the longest sample
    pub microseconds_range: Option<[f64; 2]>,
    /// `flops` divided by the median time.
    pub tflops: Option<f64>,
    /// The time divided by that of cuBLAS's plain product: 1 if the adapter costs nothing
    pub time_over_cublas: Option<f64>,
    /// A remark that a reader must know.
    pub note: Option<String>,
}

/// The note of a row that was not timed because there was no GPU.
pub const EMULATED: &str = "emulated: not timed";

impl Bench {
    /// Adds the measurements of a later bench. They replace earlier ones of the same layer, pass
    /// and way, unless they have no time.
    pub fn merge(&mut self, later: Bench) {
        let Bench {
            emulated,
            cublas,
            measurements,
        } = later;
        self.emulated |= emulated;
        self.cublas = cublas;
        for measurement in measurements {
            let same = |earlier: &&mut Measurement| {
                (&earlier.layer, earlier.pass, earlier.way)
                    == (&measurement.layer, measurement.pass, measurement.way)
            };
            match self.measurements.iter_mut().find(same) {
                Some(_) if matches!(measurement.time, Time::Missing(_)) => (),
                Some(earlier) => *earlier = measurement,
                None => self.measurements.push(measurement),
            }
        }
    }
}

/// Computes the rows of the table from the measurements.
///
/// # Errors
/// If an emulated device has times: they would be the interpreter's.
pub fn rows(bench: &Bench, device: &MeasuredDevice) -> Result<Vec<Row>, String> {
    let timed = |measurement: &&Measurement| matches!(measurement.time, Time::Nanoseconds { .. });
    if (device.emulated || bench.emulated)
        && let Some(measurement) = bench.measurements.iter().find(timed)
    {
        return Err(format!(
            "{}, an emulated device, comes with a time of {:?}: an interpreter's time says nothing of a GPU",
            device.name, measurement.layer
        ));
    }
    Ok(bench
        .measurements
        .iter()
        .map(|measurement| row(measurement, &bench.measurements))
        .collect())
}

fn row(measurement: &Measurement, all: &[Measurement]) -> Row {
    let mut row = Row {
        layer: measurement.layer.clone(),
        pass: measurement.pass,
        way: measurement.way,
        flops: measurement.flops,
        microseconds: None,
        microseconds_range: None,
        tflops: None,
        time_over_cublas: None,
        note: None,
    };
    match &measurement.time {
        Time::Emulated => row.note = Some(EMULATED.to_owned()),
        Time::Missing(reason) => row.note = Some(reason.clone()),
        &Time::Nanoseconds { median, low, high } => {
            row.microseconds = Some(median / 1e3);
            row.microseconds_range = Some([low / 1e3, high / 1e3]);
            row.tflops = Some(measurement.flops as f64 / median / 1e3); // FLOP per ns is GFLOP/s
            row.time_over_cublas = plain(measurement, all).map(|plain| median / plain);
        }
    }
    row
}

/// The time of the plain product of the same layer and pass.
fn plain(measurement: &Measurement, all: &[Measurement]) -> Option<f64> {
    let same = |other: &&Measurement| {
        other.way == Way::Plain
            && other.pass == measurement.pass
            && other.layer == measurement.layer
    };
    match all.iter().find(same)?.time {
        Time::Nanoseconds { median, .. } => Some(median),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
