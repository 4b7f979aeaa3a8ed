//! Counts what the kernels do on the emulated device and models the traffic of what is too large to run; JSON on stdout.
//! `cargo xtask report` calls it and makes docs/report.md of what it says.

mod document;
mod layer;
mod model;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use half::{bf16, f16};
use lora_kernels::plan::Variant;
use lora_kernels::{DType, Problem};

use document::{Document, Kernel, Shape};
use layer::Device;

/// (tokens, in_features, out_features, rank)
type Sizes = (usize, usize, usize, usize);

/// Executed whole, planned for a device of so few multiprocessors that large tiles are chosen and there are several waves.
const EXECUTED: Sizes = (512, 512, 512, 16);
const EXECUTED_LARGE: Sizes = (1024, 1024, 1024, 16);
const MULTIPROCESSORS: u32 = 4;

/// Planned and modelled on every virtual device.
const MODELLED: [Sizes; 4] = [
    (8192, 4096, 4096, 16),
    (4096, 4096, 4096, 16),
    (8192, 4096, 14336, 16),
    (16384, 4096, 4096, 16),
];

impl Shape {
    fn new((tokens, in_features, out_features, rank): Sizes, dtype: DType, dropout: bool) -> Self {
        Self {
            tokens,
            in_features,
            out_features,
            rank,
            dtype: dtype.to_string(),
            dropout,
        }
    }
}

fn problem((tokens, in_features, out_features, rank): Sizes, dtype: DType) -> lora_kernels::Result<Problem> {
    Ok(Problem::new(tokens, in_features, out_features, rank, dtype)?.with_dropout(true))
}

fn measure(quick: bool) -> Result<Document, Box<dyn Error>> {
    let variants = Variant::all().map(|variant| Kernel {
        symbol: variant.symbol(),
        threads: variant.threads(),
        dynamic_shared: variant.shared_bytes(),
    });
    let device = Device::open()?;
    let mut runs = Vec::new();
    for &sizes in if quick {
        &[EXECUTED][..]
    } else {
        &[EXECUTED, EXECUTED_LARGE]
    } {
        runs.extend(device.run::<bf16>(sizes, MULTIPROCESSORS)?);
        runs.extend(device.run::<f16>(sizes, MULTIPROCESSORS)?);
        runs.extend(device.run::<f32>(sizes, MULTIPROCESSORS)?);
    }
    let mut plans = Vec::new();
    for sizes in MODELLED {
        plans.extend(model::plans(sizes, DType::BF16)?);
    }
    Ok(Document {
        variants: variants.collect(),
        runs,
        plans,
    })
}

fn main() -> ExitCode {
    let quick = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--quick") => true,
        Some(other) => {
            eprintln!("{other}: the only argument is --quick");
            return ExitCode::FAILURE;
        }
    };
    let written = measure(quick).and_then(|document| {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &document)?;
        Ok(out.flush()?)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
