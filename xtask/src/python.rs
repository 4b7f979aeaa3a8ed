//! The Python package's tests, on the device that tests run on. They are run on the wheel as a user
//! has it: installed into a fresh environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client;
use crate::pip;
use crate::steps::{Failure, Session};
use crate::wheel;

const PACKAGES: &str = "python/tests/requirements.txt";
const TORCH: &str = "python/tests/requirements-torch.txt";
/// With what PyTorch doesn't bring.
const PEFT: &str = "python/tests/requirements-peft.txt";
const CHECKERS: &str = "python/tests/requirements-types.txt";
/// What a layer costs the host, beside PEFT's own operations.
const HOST_TIME: &str = "python/benches/host_time.py";

/// What to run besides the tests.
#[derive(Default)]
pub struct Choices {
    /// Whether to run the tests of PyTorch and PEFT.
    pub torch: bool,
    /// Whether to run ruff and mypy.
    pub types: bool,
    /// Passed on to pytest.
    pub arguments: Vec<String>,
}

/// Builds the emulated driver as the tests' build does, so that nothing is compiled twice, and
/// returns a folder in which programs find it.
fn driver(session: &mut Session) -> Result<PathBuf, Failure> {
    let target = session.target();
    let mut cargo = session.cargo("test --workspace --test driver --no-run --target-dir");
    cargo.arg(&target);
    session.run(cargo)?;
    client::driver_of_tests(session)
}

/// Installs a wheel into a fresh environment and returns the environment's Python. Many systems
/// have no pip for such an environment: theirs installs it.
fn environment(session: &mut Session, wheel: &Path) -> Result<PathBuf, Failure> {
    let folder = session.target().join("python/environment");
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear", "--without-pip"])
        .arg(&folder);
    session.run(venv)?;
    let python = folder.join("bin/python3");
    let mut site = Command::new(&python);
    site.args([
        "-c",
        "import sysconfig; print(sysconfig.get_path('platlib'))",
    ]);
    let site = session.capture(site)?;
    pip::install_file(session, wheel, Path::new(site.trim()))?;
    Ok(python)
}

pub fn python(session: &mut Session, choices: &Choices) -> Result<(), Failure> {
    let mut packages = Vec::new();
    let target = session.target();
    let install = |session: &mut Session, list, folder: &str| {
        let folder = target.join("python").join(folder);
        pip::ensure(session, list, &folder).map(|()| folder)
    };
    packages.push(install(session, PACKAGES, "packages")?);
    if choices.torch {
        match machine_packages() {
            Some(folder) => packages.push(folder),
            None => {
                packages.push(install(session, TORCH, "torch")?);
                packages.push(install(session, PEFT, "peft")?);
            }
        }
    }
    if choices.types {
        let checkers = [install(session, CHECKERS, "checkers")?];
        for arguments in [&["check"][..], &["format", "--check"]] {
            let mut ruff = module(Path::new("python3"), "ruff", session, &checkers);
            ruff.args(arguments).args(["--no-cache", "python"]);
            session.run(ruff)?;
        }
        let mut check = module(Path::new("python3"), "mypy", session, &checkers);
        check.args(["--strict", "--no-error-summary", "--cache-dir"]);
        check.arg(session.target().join("python/mypy-cache"));
        check
            .args(["-p", "lora_kernels"])
            .current_dir(session.root().join("python"));
        session.run(check)?;
    }
    let wheel = wheel::build(session)?;
    let python = environment(session, &wheel)?;
    let driver = driver(session)?;
    let mut tests = module(&python, "pytest", session, &packages);
    tests
        .args(["-q", "-p", "no:cacheprovider", "python/tests"])
        .args(&choices.arguments);
    // The library is that of the wheel.
    tests.env_remove("LORA_KERNELS_LIBRARY");
    tests.env("LORA_KERNELS_TEST_WHEEL", "1");
    if choices.torch {
        tests.env("LORA_KERNELS_TEST_TORCH", "1");
    }
    if std::env::var_os("LORA_KERNELS_DEVICE").is_none_or(|device| device != "real") {
        tests.env("LD_LIBRARY_PATH", searched(&driver));
        tests.env("PTX_EMULATOR_DEVICE", "a100");
    }
    session.run(tests)?;
    if choices.torch {
        // Its bars are for an idle machine: it prints, and fails only with --check.
        let mut bench = Command::new(&python);
        bench
            .args(["-B", HOST_TIME])
            .current_dir(session.root())
            .env("PYTHONPATH", joined(&packages))
            .env_remove("LORA_KERNELS_LIBRARY");
        session.run(bench)?;
    }
    Ok(())
}

/// Where this machine's Python has PyTorch, PEFT and transformers, in any version, if it has them.
fn machine_packages() -> Option<PathBuf> {
    let mut python = Command::new("python3");
    let program = "import peft, torch, transformers; print(torch.__path__[0])";
    let output = python.args(["-c", program]).output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    let folder = Path::new(printed.trim()).parent()?;
    output.status.success().then(|| folder.to_owned())
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

/// A module of Python, with packages in folders. Others that are on Python's path don't count: the
/// package itself may be among them.
fn module(python: &Path, name: &str, session: &Session, packages: &[PathBuf]) -> Command {
    let mut command = Command::new(python);
    command.args(["-B", "-m", name]).current_dir(session.root());
    command.env("PYTHONPATH", joined(packages));
    command
}

fn joined(folders: &[PathBuf]) -> OsString {
    std::env::join_paths(folders).unwrap_or_default()
}
