//! What each command does.

use std::path::PathBuf;
use std::process::Command;

use crate::program::Program;
use crate::steps::{Failure, Session};
use crate::toolchain;

const FIXTURES: &str = "tests/fixtures";

/// The tests that compare what tensor cores compute with references, by their path.
const LAYERS: &str = "layers::";

/// The clang-format whose output the kernels have; other versions differ in details.
const CLANG_FORMAT: &str = "version 19.";

pub fn setup(session: &mut Session) -> Result<(), Failure> {
    let nvcc = toolchain::ensure(session)?;
    let (major, minor) = nvcc.release;
    eprintln!("nvcc {major}.{minor}: {}", nvcc.path.display());
    Ok(())
}

pub fn demo(session: &mut Session) -> Result<(), Failure> {
    setup(session)?;
    let program = Program::build(session)?;
    for case in recorded_layers(session)? {
        for dtype in ["f32", "bf16", "f16"] {
            let mut replay = program.command(session);
            replay.arg("replay").arg(&case).args(["--dtype", dtype]);
            session.run(replay)?;
        }
    }
    Ok(())
}

/// The recorded layers in the repository, relative to it.
fn recorded_layers(session: &Session) -> Result<Vec<PathBuf>, Failure> {
    let folder = session.root().join(FIXTURES);
    let entries = folder
        .read_dir()
        .map_err(|error| format!("can't list {}: {error}", folder.display()))?;
    let mut cases = Vec::new();
    for entry in entries {
        let name = entry
            .map_err(|error| format!("can't list {}: {error}", folder.display()))?
            .file_name();
        let case = PathBuf::from(FIXTURES).join(name);
        if case
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            cases.push(case);
        }
    }
    cases.sort();
    if cases.is_empty() {
        return Err(format!("{FIXTURES} holds no recorded layer (*.safetensors)").into());
    }
    Ok(cases)
}

pub fn test(session: &mut Session) -> Result<(), Failure> {
    setup(session)?;
    session.run(session.cargo("test --workspace"))?;

    // The emulated A100 sums as its tensor cores do; a test's bound must hold for the others as
    // well. Kernels for f32 use none, so their tests would only repeat themselves. A real GPU has
    // no such choice.
    if std::env::var_os("LORA_KERNELS_DEVICE").is_none_or(|device| device != "real") {
        for numerics in ["hopper", "f32fma"] {
            // Large sizes are more sums, not deeper ones.
            let mut kernels = session.cargo("test --workspace --test integration --");
            kernels.args([LAYERS, "--skip", "in_f32", "--skip", "every_large_size"]);
            kernels.env("PTX_EMULATOR_NUMERICS", numerics);
            session.run(kernels)?;
        }
    }

    // A setting of its own makes cargo keep this build of the one package beside the other: they
    // would otherwise undo each other's work on every run.
    let mut stub = session.cargo(
        "test --test missing_kernels --config profile.dev.package.lora-kernels.codegen-units=15",
    );
    stub.env("LORA_KERNELS_STUB", "1");
    session.run(stub)?;

    session.run(session.cargo(
        "check --no-default-features --package lora-kernels --package lora-kernels-adapters",
    ))
}

pub fn bench(session: &mut Session, arguments: &[String]) -> Result<(), Failure> {
    setup(session)?;
    // Without timing anything the tests' build will do.
    let only_once = arguments == ["--test"];
    let mut bench = session.cargo(if only_once {
        "test --bench *"
    } else {
        "bench --bench *"
    });
    if !arguments.is_empty() && !only_once {
        bench.arg("--").args(arguments);
    }
    session.run(bench)
}

pub fn lint(session: &mut Session) -> Result<(), Failure> {
    setup(session)?;
    session.run(session.cargo("fmt --all -- --check"))?;
    session.run(session.cargo("clippy --workspace --all-targets -- -D warnings"))?;
    let mut documentation = session.cargo("doc --workspace --no-deps");
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    session.run(documentation)?;
    spills(session)?;
    format_of_kernels(session)
}

/// What nvcc said of the kernels as they are now: ptxas warns of registers that it had to spill.
fn spills(session: &mut Session) -> Result<(), Failure> {
    let mut build = session.cargo("build --message-format short");
    // The build script repeats its warnings only where it runs.
    build.env("LORA_KERNELS_STRICT", "1");
    session.run(build)
}

fn format_of_kernels(session: &mut Session) -> Result<(), Failure> {
    let version = Command::new("clang-format").arg("--version").output().ok();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match version {
        Some(version) if version.contains(CLANG_FORMAT) => {}
        found => {
            let found = found.unwrap_or_else(|| "none".to_owned());
            eprintln!(
                "\nthe format of kernels/ was not checked: that takes clang-format {CLANG_FORMAT}x, found {found}"
            );
            return Ok(());
        }
    }
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from("kernels")];
    while let Some(folder) = folders.pop() {
        let failed = |error| format!("can't list {}: {error}", folder.display());
        for entry in session.root().join(&folder).read_dir().map_err(failed)? {
            let path = folder.join(entry.map_err(failed)?.file_name());
            if session.root().join(&path).is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "cu" || extension == "cuh")
            {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut clang_format = Command::new("clang-format");
    clang_format
        .args(["--dry-run", "-Werror"])
        .args(files)
        .current_dir(session.root());
    session.run(clang_format)
}
