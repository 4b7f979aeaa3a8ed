//! Every program, those included that have to be fetched and compiled first.

use std::path::PathBuf;

use super::{candle, cutlass, outcome, triton};

/// The folder that holds the PTX compiled from CUTLASS and from candle-kernels.
const FOLDER: &str = "PTX_EMULATOR_CONFORMANCE";

fn folder() -> PathBuf {
    let folder = std::env::var_os(FOLDER).unwrap_or_else(|| panic!("{FOLDER} names no folder"));
    PathBuf::from(folder)
}

#[test]
#[ignore = "the programs must be compiled first: see README.md"]
fn every_program_gives_what_its_reference_gives() {
    let folder = folder();
    let mut results = Vec::new();
    for name in triton::SM_80.programs {
        results.push(triton::run(triton::SM_80, name).map(|outcome| outcome.from("triton")));
    }
    results.extend(cutlass::run(&folder.join("cutlass")));
    match candle::run(&folder.join("candle")) {
        Ok(outcomes) => results.extend(outcomes),
        Err(error) => results.push(Err(format!("candle: {error}"))),
    }
    assert_eq!(outcome::table(&results), 0, "programs that failed");
}

#[test]
#[ignore = "the programs must be compiled first, and the device be an h100: see README.md"]
fn every_hopper_program_gives_what_its_reference_gives() {
    let folder = folder();
    let mut results = Vec::new();
    for name in triton::SM_90.programs {
        let outcome = triton::run(triton::SM_90, name);
        results.push(outcome.map(|outcome| outcome.from("triton sm_90")));
    }
    results.extend(cutlass::run_sm90(&folder.join("cutlass")));
    assert_eq!(outcome::table(&results), 0, "programs that failed");
}
