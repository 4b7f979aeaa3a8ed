//! The Python package's tests, on the device that tests run on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client;
use crate::commands;
use crate::pip;
use crate::steps::{Failure, Session};

const PACKAGES: &str = "python/tests/requirements.txt";
const TORCH: &str = "python/tests/requirements-torch.txt";
const CHECKERS: &str = "python/tests/requirements-types.txt";

/// What to run besides the tests.
#[derive(Default)]
pub struct Choices {
    /// Whether to compare with PyTorch.
    pub torch: bool,
    /// Whether to run ruff and mypy.
    pub types: bool,
    /// Passed on to pytest.
    pub arguments: Vec<String>,
}

/// The libraries made by a build of the C ABI's tests, under the names that programs look for.
struct Libraries {
    kernels: PathBuf,
    /// The folder with the emulated driver.
    driver: PathBuf,
}

/// Builds them with the features and profile of `cargo xtask test`, so that nothing is compiled
/// twice.
fn build(session: &mut Session) -> Result<Libraries, Failure> {
    commands::setup(session)?;
    let target = session.target();
    let mut cargo = session.cargo("test --workspace --test c --no-run --target-dir");
    cargo.arg(&target);
    session.run(cargo)?;
    let library = target.join("debug/deps/liblora_kernels_capi.so");
    let folder = target.join("python/lib");
    client::link_as(&library, &folder, &["liblora_kernels.so"])?;
    Ok(Libraries {
        kernels: folder.join("liblora_kernels.so"),
        driver: client::driver_of_tests(session)?,
    })
}

pub fn python(session: &mut Session, choices: &Choices) -> Result<(), Failure> {
    let libraries = build(session)?;
    let mut packages = vec![session.root().join("python")];
    let target = session.target();
    let install = |session: &mut Session, list, folder: &str| {
        let folder = target.join("python").join(folder);
        pip::ensure(session, list, &folder).map(|()| folder)
    };
    packages.push(install(session, PACKAGES, "packages")?);
    if choices.torch && !has_torch() {
        packages.push(install(session, TORCH, "torch")?);
    }
    if choices.types {
        let checkers = [install(session, CHECKERS, "checkers")?];
        for arguments in [&["check"][..], &["format", "--check"]] {
            let mut ruff = module("ruff", session, &checkers);
            ruff.args(arguments).args(["--no-cache", "python"]);
            session.run(ruff)?;
        }
        let mut check = module("mypy", session, &checkers);
        check.args(["--strict", "--no-error-summary", "--cache-dir"]);
        check.arg(session.target().join("python/mypy-cache"));
        check
            .args(["-p", "lora_kernels"])
            .current_dir(session.root().join("python"));
        session.run(check)?;
    }
    let mut tests = module("pytest", session, &packages);
    tests
        .args(["-q", "-p", "no:cacheprovider", "python/tests"])
        .args(&choices.arguments);
    tests.env("LORA_KERNELS_LIBRARY", &libraries.kernels);
    if choices.torch {
        tests.env("LORA_KERNELS_TEST_TORCH", "1");
    }
    if std::env::var_os("LORA_KERNELS_DEVICE").is_none_or(|device| device != "real") {
        tests.env("LD_LIBRARY_PATH", searched(&libraries.driver));
        tests.env("PTX_EMULATOR_DEVICE", "a100");
    }
    session.run(tests)
}

/// Whether this machine's Python has PyTorch, in any version.
fn has_torch() -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", "import torch"]);
    python.output().is_ok_and(|output| output.status.success())
}

/// The search path with this folder first.
fn searched(folder: &Path) -> OsString {
    let mut all = folder.as_os_str().to_owned();
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
        all.push(":");
        all.push(others);
    }
    all
}

fn module(name: &str, session: &Session, packages: &[PathBuf]) -> Command {
    let mut python = Command::new("python3");
    python.args(["-B", "-m", name]).current_dir(session.root());
    let others = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let others = std::env::split_paths(&others).filter(|path| !path.as_os_str().is_empty());
    let all = packages.iter().cloned().chain(others);
    python.env("PYTHONPATH", std::env::join_paths(all).unwrap_or_default());
    python
}
