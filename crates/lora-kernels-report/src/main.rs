//! Counts what the kernels do on the emulated device, models the traffic of layers that are too
//! large to run, and prints JSON. `cargo xtask report` runs it and makes docs/report.md from its
//! output.
//!
//! With `--bound` it prints what each launch of real layers asks of the virtual device that
//! `PTX_EMULATOR_DEVICE` names. `--quick` has fewer sizes. With `--cutlass PROGRAM` it counts what
//! CUTLASS's kernels do instead.

mod cutlass;
mod demand;
mod gpu;
mod layer;
mod model;
mod peer;
mod sizes;

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use half::{bf16, f16};
use lora_kernels::DType;
use lora_kernels::plan::Variant;
use ptx_emulator::device::{A100, DeviceModel, H100, L40S, RTX4090};
use serde::Serialize;

use gpu::Gpu;
use layer::Ours;
use lora_kernels_report::document::{Cutlass, Document, Kernel};
use sizes::Sizes;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Run in full. The plan is for a device with so few multiprocessors that it chooses large tiles
/// and needs several waves.
const EXECUTED: Sizes = Sizes::new(512, 512, 512, 16);
const EXECUTED_LARGE: Sizes = Sizes::new(1024, 1024, 1024, 16);
const MULTIPROCESSORS: u32 = 4;

/// Planned and modelled on every device of [`MODELLED_ON`].
const MODELLED: [Sizes; 4] = [
    Sizes::new(8192, 4096, 4096, 16),
    Sizes::new(4096, 4096, 4096, 16),
    Sizes::new(8192, 4096, 14336, 16),
    Sizes::new(16384, 4096, 4096, 16),
];
const MODELLED_ON: [DeviceModel; 4] = [A100, RTX4090, L40S, H100];

/// The sizes compared with the peers, with and without dropout.
const COMPARED: Sizes = MODELLED[0];
const COMPARED_ON: DeviceModel = H100;

fn measure(quick: bool) -> Outcome<Document> {
    let variants = Variant::all().map(|variant| Kernel {
        symbol: variant.symbol().to_owned(),
        threads: variant.threads(),
        dynamic_shared: variant.shared_bytes(),
    });
    let gpu = Gpu::open()?;
    let ours = Ours::load(&gpu)?;
    let mut runs = Vec::new();
    for &sizes in if quick {
        &[EXECUTED][..]
    } else {
        &[EXECUTED, EXECUTED_LARGE]
    } {
        let with_dropout = sizes.with_dropout(true);
        runs.extend(ours.run::<bf16>(with_dropout, MULTIPROCESSORS)?);
        runs.extend(ours.run::<f16>(with_dropout, MULTIPROCESSORS)?);
        runs.extend(ours.run::<f32>(with_dropout, MULTIPROCESSORS)?);
        runs.extend(ours.run::<bf16>(sizes, MULTIPROCESSORS)?);
        runs.extend(peer::runs(&gpu, sizes)?);
    }

    let mut plans = Vec::new();
    for sizes in MODELLED {
        for device in MODELLED_ON {
            plans.extend(model::plans(
                sizes.with_dropout(true),
                DType::BF16,
                &device,
            )?);
        }
    }
    plans.extend(model::plans(COMPARED, DType::BF16, &COMPARED_ON)?);
    plans.extend(peer::plans(COMPARED, &COMPARED_ON)?);
    Ok(Document {
        variants: variants.collect(),
        runs,
        plans,
    })
}

/// The counts of CUTLASS's kernels, of a program that was compiled from them.
fn measure_cutlass(program: &Path) -> Outcome<Cutlass> {
    let program = cutlass::Program::new(program)?;
    Ok(Cutlass {
        kernels: program.kernels()?,
        runs: program.runs(EXECUTED_LARGE, MULTIPROCESSORS)?,
    })
}

fn print(document: &impl Serialize) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, document)?;
    Ok(out.flush()?)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let quick = words.contains(&"--quick");
    let printed = match words.as_slice() {
        [] | ["--quick"] => measure(quick).and_then(|document| print(&document)),
        ["--bound"] | ["--bound", "--quick"] | ["--quick", "--bound"] => {
            demand::demands(quick).and_then(|demands| print(&demands))
        }
        ["--cutlass", program] => {
            measure_cutlass(Path::new(program)).and_then(|document| print(&document))
        }
        other => {
            eprintln!(
                "{}: the arguments are --quick and --bound, or --cutlass PROGRAM",
                other.join(" ")
            );
            return ExitCode::FAILURE;
        }
    };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
