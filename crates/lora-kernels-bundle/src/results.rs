//! What a run on one machine found, as results.json has it.

use serde::{Deserialize, Serialize};

/// All of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// UTC, ISO 8601
    pub date: String,
    /// Since then, when this was written.
    pub seconds: u64,
    /// Whether all steps have been gone through; a run that was cut off leaves this false.
    pub complete: bool,
    /// What ran.
    pub build: Build,
    /// Where it ran.
    pub device: Device,
    /// What a reader must know before all else, such as a driver that is too old.
    pub notes: Vec<String>,
    /// Of the correctness suite and the sanitizers, in the order they ran.
    pub tests: Vec<TestRun>,
    /// Why there are no timings, or fewer than there could be.
    pub bench_failures: Vec<String>,
    /// What stands for cuBLAS here.
    pub cublas: Option<String>,
    /// Of the benches.
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

/// The machine's device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Device {
    /// The driver's name for it.
    pub name: String,
    /// Whether it is no GPU.
    pub emulated: bool,
    /// NVIDIA's version of the driver, where the machine says
    pub driver: Option<String>,
    /// The CUDA version that the driver supports
    pub cuda: String,
    /// Such as 9.0.
    pub compute_capability: String,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of L2.
    pub l2_bytes: u64,
    /// Bytes of device memory.
    pub memory_bytes: u64,
}

/// One test program's run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestRun {
    /// Of the suite.
    pub step: String,
    /// Its name.
    pub program: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that were ignored.
    pub ignored: u32,
    /// Names of the tests that failed.
    pub failures: Vec<String>,
    /// How long it ran.
    pub seconds: u64,
}

/// How a test program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It had not ended when this was written.
    Running,
    /// Every test passed.
    Passed,
    /// A test failed, or the program did.
    Failed,
    /// It was stopped: the step's time was over.
    TimedOut,
    /// It ended well, but said nothing of tests that passed.
    NothingRun,
    /// It was not started: the step's time was over, or what it needs isn't there.
    NotRun,
}

/// What the bench hands over.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Bench {
    /// Whether nothing was timed, since there was no GPU.
    pub emulated: bool,
    /// What stands for cuBLAS.
    pub cublas: String,
    /// One for each layer, pass and way.
    pub measurements: Vec<Measurement>,
}

/// One layer, computed one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Which layer.
    pub layer: Layer,
    /// Forward or backward.
    pub pass: Pass,
    /// Who computes it.
    pub way: Way,
    /// What is asked for: 2·M·K·N for each product, however many are done.
    pub flops: u64,
    /// How long it takes.
    pub time: Time,
}

/// One or more projections of the same x.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Rows of x.
    pub tokens: usize,
    /// Columns of x.
    pub in_features: usize,
    /// Of each projection.
    pub out_features: Vec<usize>,
    /// Type of the tensors.
    pub dtype: String,
}

/// Half of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// y.
    Forward,
    /// dx, dA and dB.
    Backward,
}

impl Pass {
    /// As tables have it.
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
    /// The base product without an adapter, by cuBLAS; backward, that for dx.
    Plain,
    /// Unsloth's sequence of cuBLAS calls.
    Unsloth {
        /// Of the adapters.
        rank: usize,
    },
    /// This crate.
    Ours {
        /// Of the adapters.
        rank: usize,
        /// Of the dropout.
        p: f32,
    },
}

/// Of one call, between CUDA events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Time {
    /// Median and extremes of the samples
    Nanoseconds {
        /// Half of the samples took less.
        median: f64,
        /// The shortest sample.
        low: f64,
        /// The longest sample.
        high: f64,
    },
    /// The call ran, on a device that has no time.
    Emulated,
    /// Why there is none.
    Missing(String),
}

impl Time {
    /// Of samples in nanoseconds per call, the last `count`, which criterion takes for its figures:
    /// those before warmed up. `None` where there are fewer, as where benches are only tried.
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
/// there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which layer.
    pub layer: Layer,
    /// Forward or backward.
    pub pass: Pass,
    /// Who computed it.
    pub way: Way,
    /// What was asked for.
    pub flops: u64,
    /// The median.
    pub microseconds: Option<f64>,
    /// Least and most of the samples
    pub microseconds_range: Option<[f64; 2]>,
    /// flops over the median.
    pub tflops: Option<f64>,
    /// 1 where the adapter costs nothing beyond the plain product
    pub time_over_cublas: Option<f64>,
    /// What a reader must know.
    pub note: Option<String>,
}

/// The note of a row that was not timed for want of a GPU.
pub const EMULATED: &str = "emulated: not timed";

impl Bench {
    /// Takes over what a later bench measured, instead of what an earlier one has of the same.
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
                Some(earlier) => *earlier = measurement,
                None => self.measurements.push(measurement),
            }
        }
    }
}

/// Derives what is compared.
///
/// # Errors
/// If an emulated device comes with times: they would be the interpreter's.
pub fn rows(bench: &Bench, device: &Device) -> Result<Vec<Row>, String> {
    let timed = |one: &&Measurement| matches!(one.time, Time::Nanoseconds { .. });
    if (device.emulated || bench.emulated)
        && let Some(one) = bench.measurements.iter().find(timed)
    {
        return Err(format!(
            "{}, an emulated device, comes with a time of {:?}: an interpreter's time says nothing of a GPU",
            device.name, one.layer
        ));
    }
    Ok(bench
        .measurements
        .iter()
        .map(|one| row(one, &bench.measurements))
        .collect())
}

fn row(one: &Measurement, all: &[Measurement]) -> Row {
    let mut row = Row {
        layer: one.layer.clone(),
        pass: one.pass,
        way: one.way,
        flops: one.flops,
        microseconds: None,
        microseconds_range: None,
        tflops: None,
        time_over_cublas: None,
        note: None,
    };
    match &one.time {
        Time::Emulated => row.note = Some(EMULATED.to_owned()),
        Time::Missing(reason) => row.note = Some(reason.clone()),
        &Time::Nanoseconds { median, low, high } => {
            row.microseconds = Some(median / 1e3);
            row.microseconds_range = Some([low / 1e3, high / 1e3]);
            row.tflops = Some(one.flops as f64 / median / 1e3); // FLOP per ns is GFLOP/s
            row.time_over_cublas = plain(one, all).map(|plain| median / plain);
        }
    }
    row
}

/// How long the plain product of the same layer and pass takes.
fn plain(one: &Measurement, all: &[Measurement]) -> Option<f64> {
    let same = |other: &&Measurement| {
        other.way == Way::Plain && other.pass == one.pass && other.layer == one.layer
    };
    match all.iter().find(same)?.time {
        Time::Nanoseconds { median, .. } => Some(median),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
