//! Tests of the `merge` and `unmerge` commands.

mod access;
mod bases;
mod changes;
mod guarded;
mod killed;
pub mod model;
mod numbers;
mod peft;
mod refusals;
mod replaced;
mod results;
mod scale;
mod travel;
mod trees;
mod unreadable;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder(test: &str) -> PathBuf {
    crate::common::folder("merge", test)
}

/// A fixture of the adapters crate: what PEFT saved and merged.
fn fixture(name: &str) -> PathBuf {
    Path::new("../lora-kernels-adapters/tests/fixtures").join(name)
}

fn command(verb: &str, base: &Path, adapters: &[&Path], out: &Path) -> Command {
    let mut command = crate::common::lora_kernels();
    command
        .arg(verb)
        .arg(base)
        .args(adapters)
        .arg("-o")
        .arg(out);
    command
}

fn merge(base: &Path, adapters: &[&Path], out: &Path, arguments: &[&str]) -> Output {
    command("merge", base, adapters, out)
        .args(arguments)
        .output()
        .unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
