//! Results in words, as JSON and as files.

use std::io::Write;
use std::path::Path;

use lora_kernels_adapters::output::{OutputFolder, Overwrite};
use serde::Serialize;

use crate::adapter::{Deviation, Trained};
use crate::train::Step;
use crate::{Failure, Type, curve};

/// The losses are sums of f32 rounded in another order than PEFT's: what 6 layers and 24 steps make of that.
const F32_BOUND: f64 = 1e-3;
/// What goes in and out of 30 layers is rounded by up to 2⁻⁹ of itself, cosines are off by some 2⁻⁹ then, the loss takes them times 20, and its
/// gradients' signs decide AdamW's first steps.
const BF16_BOUND: f64 = 0.1;

#[derive(Serialize)]
pub struct Report {
    dtype: &'static str,
    device: String,
    steps: Vec<Step>,
    largest_difference: f64,
    bound: f64,
    /// After all recorded steps.
    adapter: Option<Deviation>,
}

/// One step's line.
pub fn line(step: &Step) -> String {
    format!(
        "step {:>2}  loss {:.6}  PEFT {:.6}  difference {:+.1e}  ({:.1} s)",
        step.step, step.loss, step.peft, step.difference, step.seconds
    )
}

impl Report {
    pub fn new(dtype: Type, device: String, steps: Vec<Step>, adapter: Option<Deviation>) -> Self {
        let (dtype, bound) = match dtype {
            Type::F32 => ("f32", F32_BOUND),
            Type::Bf16 => ("bf16", BF16_BOUND),
        };
        // A NaN must not be lost, as f64::max would.
        let differences = steps.iter().map(|step| step.difference.abs());
        let largest = differences.fold(0.0, |largest, one| if one <= largest { largest } else { one });
        Self {
            dtype,
            device,
            largest_difference: largest,
            bound,
            steps,
            adapter,
        }
    }

    pub fn within(&self) -> bool {
        self.largest_difference <= self.bound
    }

    pub fn print(&self, json: bool) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        let text = if json {
            serde_json::to_string_pretty(self).map_err(|error| Failure::Model(error.to_string()))?
        } else {
            self.summary()
        };
        writeln!(stdout, "{text}").map_err(|error| Failure::Model(format!("stdout: {error}")))
    }

    fn summary(&self) -> String {
        let (largest, bound) = (self.largest_difference, self.bound);
        let verdict = if self.within() { "within" } else { "BEYOND" };
        let count = self.steps.len();
        let mut text = format!(
            "{count} steps in {}: the largest difference from PEFT's losses is {largest:.1e}, {verdict} the bound of {bound:.0e}",
            self.dtype
        );
        if let Some(adapter) = &self.adapter {
            text += &format!("\n{adapter}");
        }
        text
    }
}

/// The folder of results, which comes into being when it is complete.
pub struct Output(OutputFolder);

impl Output {
    pub fn create(folder: &Path) -> Result<Self, Failure> {
        Ok(Self(OutputFolder::create(folder, Overwrite::Never)?))
    }

    pub fn write(self, report: &Report, adapter: &Trained) -> Result<(), Failure> {
        let title = format!("Fine-tuning all-MiniLM-L6-v2 with LoRA, {}", report.dtype);
        let path = self.0.path().join("loss.svg");
        std::fs::write(&path, curve::svg(&report.steps, &title)).map_err(|error| Failure::file(&path, error))?;
        adapter.write(&self.0.path().join("adapter"))?;
        Ok(self.0.finish()?)
    }
}
