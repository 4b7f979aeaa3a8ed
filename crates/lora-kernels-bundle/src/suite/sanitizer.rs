//! compute-sanitizer, if it is installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lora_kernels_bundle::manifest::Family;

use crate::steps::Step;

/// The exit status to use when a tool found an error. No test harness exits with it.
const FOUND: i32 = 86;

/// Looks for compute-sanitizer on `PATH` and in toolkits.
pub fn find() -> Option<PathBuf> {
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].map(|name| std::env::var_os(name).map(PathBuf::from));
    let toolkits = toolkits
        .into_iter()
        .flatten()
        .chain([PathBuf::from("/usr/local/cuda")]);
    let named = toolkits.map(|toolkit| toolkit.join("bin/compute-sanitizer"));
    let mut candidates = [PathBuf::from("compute-sanitizer")]
        .into_iter()
        .chain(named);
    candidates.find(|path| {
        let mut version = Command::new(path);
        version
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    })
}

/// The command that runs the test of a family under the tool of a step.
pub fn command(sanitizer: &Path, step: Step, family: &Family, program: &Path) -> Command {
    let mut command = Command::new(sanitizer);
    command
        .args(["--tool", step.name(), "--error-exitcode"])
        .arg(FOUND.to_string())
        .arg(program)
        .args(["--exact", &family.test, "--test-threads=1"]);
    command
}
