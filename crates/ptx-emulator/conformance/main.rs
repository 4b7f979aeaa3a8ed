//! Prints what the emulated GPU makes of programs compiled by others: `cargo xtask conformance`.
//!
//! Takes the folder that holds the PTX compiled from CUTLASS and from candle-kernels; see
//! `README.md` beside this file.

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
        eprintln!(
            "usage: conformance FOLDER (cargo xtask conformance compiles the programs and calls this)"
        );
        return ExitCode::from(2);
    };
    let folder = Path::new(&folder);
    let mut results = Vec::new();
    for name in triton::PROGRAMS {
        results.push(triton::run(name).map(|outcome| outcome.from("triton")));
    }
    results.extend(cutlass::run(&folder.join("cutlass")));
    match candle::run(&folder.join("candle")) {
        Ok(outcomes) => results.extend(outcomes),
        Err(error) => results.push(Err(format!("candle: {error}"))),
    }
    match outcome::table(&results) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
