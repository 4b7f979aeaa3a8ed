//! Type-checks the workspace for Linux on aarch64, the host of Grace Hopper.

use std::path::PathBuf;
use std::process::Command;

use crate::steps::{Failure, Session};
use crate::toolchain;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Packages whose tests are left out: criterion, which they use, compiles C, and that needs a cross
/// compiler.
const WITH_CRITERION: [&str; 2] = ["lora-kernels", "ptx-emulator"];

pub fn aarch64(session: &mut Session) -> Result<(), Failure> {
    toolchain::ensure(session)?;
    ensure_target(session)?;
    // Others depend on the libraries of those left out, so that these are checked, too.
    let mut check = session.cargo(&format!(
        "check --workspace --target {TARGET} --lib --bins --tests"
    ));
    for package in WITH_CRITERION {
        check.args(["--exclude", package]);
    }
    session.run(check)
}

/// Installs the target's standard library, if the toolchain doesn't have it.
fn ensure_target(session: &mut Session) -> Result<(), Failure> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    let folder = PathBuf::from(session.capture(rustc)?.trim());
    if folder.is_dir() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup
        .args(["target", "add", TARGET])
        .current_dir(session.root());
    session.run(rustup).map_err(|failure| Failure {
        message: format!(
            "{failure}\nnothing was checked: this Rust has no standard library for {TARGET} ({} is \
             missing), and rustup can't install it here; where it can, run `rustup target add \
             {TARGET}`",
            folder.display()
        ),
        ..failure
    })
}
