//! Records measurements for the program that started the bench.

use std::path::PathBuf;

use lora_kernels_bundle::BENCH_RESULTS;
use lora_kernels_bundle::results::{Bench, MeasuredLayer, Measurement, Pass, Way};

pub struct Record {
    path: Option<PathBuf>,
    bench: Bench,
}

impl Record {
    pub fn new(emulated: bool, cublas: String) -> Self {
        Self {
            path: std::env::var_os(BENCH_RESULTS).map(PathBuf::from),
            bench: Bench {
                emulated,
                cublas,
                measurements: Vec::new(),
            },
        }
    }

    pub fn add(&mut self, measurement: Measurement) {
        self.bench.measurements.push(measurement);
    }

    /// Adds a measurement without a time, unless its layer, pass and way have one.
    pub fn add_missing(&mut self, missing: Measurement) {
        let key = |of: &Measurement| (of.layer.clone(), of.pass, of.way);
        let known = self
            .bench
            .measurements
            .iter()
            .any(|of| key(of) == key(&missing));
        if !known {
            self.bench.measurements.push(missing);
        }
    }

    /// Writes the results so far. Called after every layer, so that they are kept if a later one
    /// fails.
    pub fn write(&self) {
        let Some(path) = &self.path else { return };
        let text = serde_json::to_string(&self.bench).map_err(|error| error.to_string());
        if let Err(error) =
            text.and_then(|text| std::fs::write(path, text).map_err(|error| error.to_string()))
        {
            panic!("can't write {}: {error}", path.display());
        }
    }
}

/// The name that filters match.
pub fn name(layer: &MeasuredLayer, pass: Pass, way: Way) -> String {
    let outputs: Vec<_> = layer.out_features.iter().map(usize::to_string).collect();
    let shape = format!(
        "{}x{}x{}",
        layer.tokens,
        layer.in_features,
        outputs.join("+")
    );
    let (dtype, pass) = (&layer.dtype, pass.name());
    match way {
        Way::Plain => format!("{dtype} {shape} {pass} plain"),
        Way::Unsloth { rank } => format!("{dtype} {shape} r{rank} {pass} unsloth"),
        Way::Ours { rank, p } => format!("{dtype} {shape} r{rank} p{p} {pass}"),
    }
}
