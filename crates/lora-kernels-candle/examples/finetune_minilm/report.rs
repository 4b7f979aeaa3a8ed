//! Results as text, JSON and files.

use std::io::Write;
use std::path::Path;

use lora_kernels_adapters::output::{OutputFolder, Overwrite};
use serde::Serialize;

use crate::adapter::{Deviation, Trained};
use crate::train::Step;
use crate::{Failure, Type, curve};

/// The largest allowed differences from PEFT's run: of a loss, and of the change that training made
/// to the adapter, relative to its norm.
#[derive(Clone, Copy, Serialize)]
struct Bounds {
    loss: f64,
    adapter: f64,
}

/// Everything is in f32, as in PEFT's run, but sums are taken in another order. That changes values
/// by some 1e-6, and 24 steps of AdamW amplify it.
const F32: Bounds = Bounds {
    loss: 1e-3,
    adapter: 1e-3,
};
/// The inputs and outputs of 30 layers are rounded by up to 2⁻⁹ of their values, partly in opposite
/// directions. That changes the cosines by some 2⁻⁹ / 4, and the loss multiplies them by 20. Small
/// gradients are noise, but AdamW's first steps follow their signs.
const BF16: Bounds = Bounds {
    loss: 0.02,
    adapter: 0.1,
};

#[derive(Serialize)]
pub struct Report {
    dtype: &'static str,
    device: String,
    steps: Vec<Step>,
    largest_difference: f64,
    bounds: Bounds,
    /// Present after all recorded steps.
    adapter: Option<Deviation>,
}

/// The line printed for a step.
pub fn line(step: &Step) -> String {
    format!(
        "step {:>2}  loss {:.6}  PEFT {:.6}  difference {:+.1e}  ({:.1} s)",
        step.step, step.loss, step.peft, step.difference, step.seconds
    )
}

impl Report {
    pub fn new(dtype: Type, device: String, steps: Vec<Step>, adapter: Option<Deviation>) -> Self {
        let (dtype, bounds) = match dtype {
            Type::F32 => ("f32", F32),
            Type::Bf16 => ("bf16", BF16),
        };
        // `f64::max` would lose a NaN.
        let differences = steps.iter().map(|step| step.difference.abs());
        let largest = differences.fold(0.0, |largest, difference| {
            if difference <= largest {
                largest
            } else {
                difference
            }
        });
        Self {
            dtype,
            device,
            largest_difference: largest,
            bounds,
            steps,
            adapter,
        }
    }

    pub fn within(&self) -> bool {
        self.losses_within()
            && self
                .adapter
                .as_ref()
                .is_none_or(|adapter| self.adapter_within(adapter))
    }

    fn losses_within(&self) -> bool {
        self.largest_difference <= self.bounds.loss
    }

    fn adapter_within(&self, adapter: &Deviation) -> bool {
        adapter.relative_error_of_change <= self.bounds.adapter
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
        let verdict = |within| if within { "within" } else { "BEYOND" };
        let mut text = format!(
            "{} steps in {}: the largest difference from PEFT's losses is {:.1e}, {} the bound of {:.0e}",
            self.steps.len(),
            self.dtype,
            self.largest_difference,
            verdict(self.losses_within()),
            self.bounds.loss
        );
        if let Some(adapter) = &self.adapter {
            let verdict = verdict(self.adapter_within(adapter));
            text += &format!(
                "\n{adapter}: {verdict} the bound of {:.0e} of the change",
                self.bounds.adapter
            );
        }
        text
    }
}

/// The folder of results, which appears when it is complete.
pub struct Output(OutputFolder);

impl Output {
    pub fn create(folder: &Path) -> Result<Self, Failure> {
        Ok(Self(OutputFolder::create(folder, Overwrite::Never)?))
    }

    pub fn write(self, report: &Report, adapter: &Trained) -> Result<(), Failure> {
        let title = format!("Fine-tuning all-MiniLM-L6-v2 with LoRA, {}", report.dtype);
        let path = self.0.path().join("loss.svg");
        std::fs::write(&path, curve::svg(&report.steps, &title))
            .map_err(|error| Failure::file(&path, error))?;
        adapter.write(&self.0.path().join("adapter"))?;
        Ok(self.0.finish()?)
    }
}
