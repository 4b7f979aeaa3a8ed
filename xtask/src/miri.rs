//! Runs the tests of code without devices and files under Miri, which finds undefined behaviour,
//! and reliance on what Rust leaves open, such as the precision of `powi`.

use std::process::{Command, Stdio};

use crate::steps::{Failure, Session};

/// The toolchain that has Miri.
const TOOLCHAIN: &str = "nightly";

/// A library whose unit tests run.
struct Library {
    package: &'static str,
    /// Parts of the names of tests that Miri can't run, as it knows few of the system's calls, or
    /// that would take it too long, as those with large inputs or many random ones do.
    skipped: &'static [&'static str],
}

const LIBRARIES: [Library; 2] = [
    Library {
        package: "lora-kernels",
        skipped: &[],
    },
    Library {
        package: "lora-kernels-adapters",
        skipped: &[
            "output::",
            "base::tests::",
            "config::pattern::",
            "header::",
            "steps",
        ],
    },
];

/// Of property tests: Miri takes about a thousand times as long as the machine.
const CASES: &str = "8";

pub fn miri(session: &mut Session) -> Result<(), Failure> {
    if !is_installed() {
        return Err(format!(
            "Miri is missing; install it by `rustup toolchain install {TOOLCHAIN} --component miri \
             --component rust-src`"
        )
        .into());
    }
    for Library { package, skipped } in LIBRARIES {
        let mut test = Command::new("rustup");
        test.args(["run", TOOLCHAIN, "cargo", "miri", "test", "--lib"])
            .args(["--package", package, "--"])
            .args(skipped.iter().flat_map(|test| ["--skip", test]))
            .current_dir(session.root())
            // The toolchain's own programs, not those that this program was started by.
            .env_remove("CARGO")
            .env_remove("RUSTC")
            .env_remove("RUSTDOC")
            // Miri runs no kernel.
            .env("LORA_KERNELS_STUB", "1")
            .env("PROPTEST_CASES", CASES)
            // For no particular CPU: Miri doesn't know the instructions that convert f16.
            .env("RUSTFLAGS", "")
            // Property tests look for failures of former runs in files.
            .env("MIRIFLAGS", "-Zmiri-disable-isolation");
        session.run(test)?;
    }
    Ok(())
}

/// Whether the toolchain is there with Miri.
fn is_installed() -> bool {
    let mut version = Command::new("rustup");
    version
        .args(["run", TOOLCHAIN, "cargo", "miri", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}
