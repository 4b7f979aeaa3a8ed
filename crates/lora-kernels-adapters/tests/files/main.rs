//! Adapters and base models as PEFT, loralib and others write them, and broken ones.

mod adapter_names;
mod base;
mod base_found;
mod base_links;
mod base_quantised;
mod base_random;
mod changed;
mod fixtures;
mod found;
mod made;
mod names;
mod output;
mod parameters;
mod peft;
mod refusals;
mod regular;
mod scalings;
mod write;

use std::path::{Path, PathBuf};

use lora_kernels_adapters::{Adapter, Error, ReadOptions, Result};

/// Cargo runs tests in the package's folder, which fixture paths are relative to.
fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures").join(name)
}

fn read(path: &Path) -> Result<Adapter> {
    Adapter::read(path, &ReadOptions::default())
}

/// Asserts an error of one line that contains all of `fragments`.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, fragments: &[&str]) {
    let error: Error = result.expect_err("refused");
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "one line, not: {text}");
    for fragment in fragments {
        assert!(text.contains(fragment), "`{fragment}` is not in: {text}");
    }
}
