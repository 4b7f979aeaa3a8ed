//! Replays a recorded layer on the device: forward, and backward where there is a dy.
//!
//! ```text
//! cargo run --release --example replay -- CASE.safetensors [--dtype f32|bf16|f16] [--out OUT.safetensors]
//! ```
//!
//! The file holds `x`, `weight`, `lora_A`, `lora_B`, and may hold `bias` and `dy`, in F32, F16 or BF16; `scaling` is
//! text in its metadata. Where it also holds `y`, `dx`, `d_lora_A` or `d_lora_B`, the results are compared with those,
//! else with the f64 reference.
//!
//! OUT holds the results as the file would: y in the type of the run, and the gradients, too, unless f16 needed a dy
//! times a power of two. Then they are divided by it and in F32.
//!
//! Exit status: 0 where all relative errors ‖out − ref‖ / ‖ref‖ are within their bound, 1 where one is not, 2 where the
//! case, the output or the arguments are unusable, 3 where the device is.

mod bound;
mod case;
mod expected;
mod inputs;
mod output;
mod report;
mod run;
mod scale;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use lora_kernels::DType;
use lora_kernels_emulator::select::{SelectError, select};

use bound::bound;
use case::{Case, CaseError};
use inputs::{Inputs, Number};
use output::{OutputError, OutputFile};
use report::Outcome;
use run::{Device, RunError};

/// Replays a recorded LoRA layer on the device and compares the results.
#[derive(Parser)]
struct Arguments {
    /// A safetensors file with x, weight, lora_A, lora_B, and where present bias and dy
    case: PathBuf,
    /// What to compute in; the inputs are rounded to it [default: the type of the file's x]
    #[arg(long)]
    dtype: Option<Type>,
    /// Where to write y, dx, d_lora_A and d_lora_B
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
    F16,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Case(#[from] CaseError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Driver(#[from] SelectError),
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Failure::Case(_) | Failure::Output(_) => 2,
            Failure::Driver(_) | Failure::Run(_) => 3,
        }
    }
}

fn main() -> ExitCode {
    match replay(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

/// Whether every result is within its bound.
fn replay(arguments: &Arguments) -> Result<bool, Failure> {
    let case = Case::read(&arguments.case)?;
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
    println!(
        "case {}{origin}, scaling {}, x recorded in {}",
        case.path.display(),
        case.scaling,
        case.dtype
    );

    match dtype {
        DType::F32 => replay_as::<f32>(&case, output),
        DType::BF16 => replay_as::<half::bf16>(&case, output),
        DType::F16 => replay_as::<half::f16>(&case, output),
    }
}

fn replay_as<T: Number>(case: &Case, output: Option<OutputFile>) -> Result<bool, Failure> {
    let inputs = Inputs::<T>::new(case).map_err(|defect| CaseError::Content {
        path: case.path.clone(),
        defect,
    })?;
    let driver = select()?;
    let device = Device::open()?;
    println!("device {}: {driver}", device.name()?);
    let outcomes = device.run(case, &inputs)?;
    if inputs.gradient_scale != 1.0 {
        println!(
            "computed with dy times {}, without which numbers leave the range of {}; divided out of the gradients, which \
             --out writes in F32",
            inputs.gradient_scale,
            T::DTYPE
        );
    }

    let bound = bound(T::DTYPE);
    report::print_table(&outcomes, bound);
    if let Some(output) = output {
        write(output, &outcomes, &inputs, case.scaling)?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.is_within(bound)))
}

fn write<T: Number>(
    output: OutputFile,
    outcomes: &[Outcome],
    inputs: &Inputs<T>,
    scaling: f32,
) -> Result<(), OutputError> {
    let tensors = outcomes.iter().map(|outcome| {
        let dtype = match outcome.dtype {
            DType::F32 => safetensors::Dtype::F32,
            DType::BF16 => safetensors::Dtype::BF16,
            DType::F16 => safetensors::Dtype::F16,
        };
        (outcome.name, dtype, outcome.shape(), outcome.bytes.as_slice())
    });
    let metadata = [
        ("scaling", scaling.to_string()),
        // Divided out of the gradients again.
        ("computed_with_dy_times", inputs.gradient_scale.to_string()),
    ];
    output.finish(tensors, metadata)
}
