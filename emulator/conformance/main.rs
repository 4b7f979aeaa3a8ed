//! Prints what the emulated GPU makes of programs compiled by others: `cargo xtask conformance`.
//!
//! Takes the folder that holds the PTX compiled from CUTLASS and from candle-kernels; see `README.md` beside this file.

mod candle;
mod cutlass;
mod gpu;
mod numbers;
mod outcome;
mod triton;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: conformance FOLDER (cargo xtask conformance compiles the programs and calls this)");
        return ExitCode::from(2);
    };
    let gpu = match gpu::Gpu::new() {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let folder = Path::new(&folder);
    let mut results = Vec::new();
    for name in triton::PROGRAMS {
        results.push(triton::run(&gpu, name).map(|outcome| outcome.from("triton")));
    }
    results.extend(cutlass::run(&gpu, &folder.join("cutlass")));
    results.extend(candle::run(&gpu, &folder.join("candle")));
    match outcome::table(&results) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
