//! `replay`: runs a recorded layer on the device, forward, and backward if the file has a dy.

mod expected;
mod output;
mod report;
mod run;

use std::path::PathBuf;

use clap::ValueEnum;
use lora_kernels::{DType, Element};
use lora_kernels_adapters::{OpenedFiles, regular};
use lora_kernels_cases::{
    RecordedLayer, RecordedLayerError, RoundedInputs, largest_relative_error,
};

use crate::device::Gpu;
use crate::failure::Failure;
use crate::show;

use output::{OutputError, OutputFile};
use report::Outcome;
use run::RunError;

/// An element type that the kernels, cudarc and the reference all support.
pub trait Number: Element + Into<f64> {}

impl<T: Element + Into<f64>> Number for T {}

const AFTER_HELP: &str = "\
Example:
  lora-kernels replay tests/fixtures/encoder.layer.0.attention.self.query.safetensors --dtype bf16

CASE holds x, weight, lora_A and lora_B, and may hold bias and dy, in F32, F16 or BF16; its metadata holds scaling, as text. Where it also holds y, dx, \
d_lora_A or d_lora_B, the results are compared with those, else with an f64 reference.

OUT holds the results as CASE would: y in the type of the run, and the gradients, too, unless f16 needed a dy times a power of two. Then they are divided \
by it and in F32.

Exit status: 0 where every relative error |out - ref| / |ref| is within its bound, 1 where one is not.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// A safetensors file with x, weight, lora_A, lora_B, and where present bias and dy
    case: PathBuf,
    /// What to compute in; the inputs are rounded to it [default: the type of the file's x]
    #[arg(long)]
    dtype: Option<Type>,
    /// Where to write y, dx, d_lora_A and d_lora_B
    #[arg(long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// The number of the GPU
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
    F16,
}

impl From<RecordedLayerError> for Failure {
    fn from(error: RecordedLayerError) -> Self {
        Failure::Refused(error.to_string())
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        Failure::Refused(error.to_string())
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Kernels(error) => error.into(),
            RunError::Device(error) => error.into(),
            other @ RunError::Reference(_) => Failure::Refused(other.to_string()),
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    if replay(arguments)? {
        Ok(())
    } else {
        Err(Failure::Wrong(
            "a result is beyond its bound, see above".into(),
        ))
    }
}

/// Whether every result is within its bound.
fn replay(arguments: &Arguments) -> Result<bool, Failure> {
    let opened = OpenedFiles::begin();
    // What can't be opened is said when it is read.
    let _ = regular::open(&arguments.case);
    let case = RecordedLayer::read(&arguments.case)?;
    opened.check_unchanged()?;
    let output = arguments
        .out
        .as_deref()
        .map(|path| OutputFile::create(path, &arguments.case))
        .transpose()?;
    let dtype = match arguments.dtype {
        None => case.dtype,
        Some(Type::F32) => DType::F32,
        Some(Type::Bf16) => DType::BF16,
        Some(Type::F16) => DType::F16,
    };
    let origin = case
        .module
        .as_deref()
        .map_or(String::new(), |module| format!(" ({module})"));
    show::line(&format!(
        "case {}{origin}, scaling {}, x recorded in {}",
        case.path.display(),
        case.scaling,
        case.dtype
    ))?;

    match dtype {
        DType::F32 => replay_as::<f32>(arguments, &case, output),
        DType::BF16 => replay_as::<half::bf16>(arguments, &case, output),
        DType::F16 => replay_as::<half::f16>(arguments, &case, output),
    }
}

fn replay_as<T: Number>(
    arguments: &Arguments,
    case: &RecordedLayer,
    output: Option<OutputFile>,
) -> Result<bool, Failure> {
    let inputs = RoundedInputs::<T>::new(case).map_err(|defect| RecordedLayerError::Content {
        path: case.path.clone(),
        defect,
    })?;
    let device = Gpu::open(arguments.device)?;
    show::line(&format!("device {}", device.name()?))?;
    let outcomes = run::run(&device, case, &inputs)?;
    if inputs.gradient_scale != 1.0 {
        show::line(&format!(
            "computed with dy times {}, without which numbers leave the range of {}; divided out of the gradients, which \
             --out writes in F32",
            inputs.gradient_scale,
            T::DTYPE
        ))?;
    }

    let bound = largest_relative_error(T::DTYPE);
    show::lines(&report::table(&outcomes, bound))?;
    if let Some(output) = output {
        write(output, &outcomes, &inputs, case.scaling)?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.is_within(bound)))
}

fn write<T: Number>(
    output: OutputFile,
    outcomes: &[Outcome],
    inputs: &RoundedInputs<T>,
    scaling: f32,
) -> Result<(), Failure> {
    let tensors = outcomes.iter().map(|outcome| {
        let dtype = match outcome.dtype {
            DType::F32 => safetensors::Dtype::F32,
            DType::BF16 => safetensors::Dtype::BF16,
            DType::F16 => safetensors::Dtype::F16,
        };
        (
            outcome.name,
            dtype,
            outcome.shape(),
            outcome.bytes.as_slice(),
        )
    });
    let metadata = [
        ("scaling", scaling.to_string()),
        // The gradients have been divided by this again.
        ("computed_with_dy_times", inputs.gradient_scale.to_string()),
    ];
    output.finish(tensors, metadata)
}
