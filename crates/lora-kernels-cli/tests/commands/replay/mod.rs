//! Tests of the `replay` command: exit status, output and messages, for good files and broken ones.

mod layer_file;
mod refusals;
mod results;
mod scaled;

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::{assert_status, stdout};

const TOKENS: usize = 5;
const IN: usize = 24;
const OUT: usize = 17;
const RANK: usize = 3;

fn folder(test: &str) -> PathBuf {
    crate::common::folder("replay", test)
}

fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("case.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Cargo runs tests in the package's folder; elsewhere they run in one with the same fixtures.
fn fixture(name: &str) -> PathBuf {
    let folders = ["../../tests/fixtures", "tests/fixtures"].map(Path::new);
    folders
        .into_iter()
        .find(|folder| folder.is_dir())
        .unwrap()
        .join(name)
}

fn replay(case: &Path, arguments: &[&str]) -> Output {
    crate::common::lora_kernels()
        .arg("replay")
        .arg(case)
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, fragments: &[&str]) {
    crate::common::assert_refused(output, 2, fragments);
}
