//! The emulated driver by itself: building it, running other programs on it, and giving it random
//! input.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::pip;
use crate::steps::{Failure, Session};
use crate::toolchain;

const PACKAGES: &str = "crates/ptx-emulator/client/requirements.txt";
const PROGRAM: &str = "crates/ptx-emulator/client/test_bindings.py";
/// The emulator's CUDA runtime, its parts and a program that uses it.
const RUNTIME: &str = "crates/ptx-emulator/client/cudart";
const RUNTIME_PARTS: [&str; 5] = ["device", "graphs", "memory", "registry", "streams"];
const LIBRARY: &str = "libptx_emulator.so";
/// The names under which programs look for the driver.
const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// Builds the driver and returns its path.
fn build(session: &mut Session) -> Result<PathBuf, Failure> {
    let target = session.target();
    let mut cargo = session.cargo("build --release --package ptx-emulator --lib --target-dir");
    cargo.arg(&target);
    session.run(cargo)?;
    let library = target.join("release").join(LIBRARY);
    if !library.is_file() {
        return Err(format!(
            "cargo made no {}: the emulated driver is for Linux",
            library.display()
        )
        .into());
    }
    Ok(library)
}

/// A folder in which the library has the names that programs look for.
fn named(library: &Path) -> Result<PathBuf, Failure> {
    let folder = library.with_file_name("cuda");
    link_as(library, &folder, &NAMES)?;
    Ok(folder)
}

/// Gives a library other names, in a folder of their own.
pub fn link_as(library: &Path, folder: &Path, names: &[&str]) -> Result<(), Failure> {
    if !library.is_file() {
        return Err(format!("cargo made no {}: it is for Linux", library.display()).into());
    }
    let failed = |error: std::io::Error| format!("can't fill {}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(failed)?;
    for name in names {
        let link = folder.join(name);
        if fs::read_link(&link).is_ok_and(|to| to == library) {
            continue;
        }
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link).map_err(failed)?;
        }
        make_link(library, &link).map_err(failed)?;
    }
    Ok(())
}

/// A link at a path to another, which is relative to the link's folder or absolute.
#[cfg(unix)]
pub fn make_link(library: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(library, link)
}

#[cfg(not(unix))]
pub fn make_link(library: &Path, link: &Path) -> std::io::Result<()> {
    fs::copy(library, link).map(|_| ())
}

/// A folder in which programs find the driver that a build of tests made.
pub fn driver_of_tests(session: &Session) -> Result<PathBuf, Failure> {
    let folder = session.target().join("debug/cuda");
    link_as(
        &session.target().join("debug/deps").join(LIBRARY),
        &folder,
        &NAMES,
    )?;
    Ok(folder)
}

pub fn emulator(session: &mut Session) -> Result<(), Failure> {
    let library = build(session)?;
    let folder = named(&library)?;
    session.summarise();
    eprintln!(
        "\nfor programs that load libcuda.so.1 by name: LD_LIBRARY_PATH={}",
        folder.display()
    );
    writeln!(std::io::stdout(), "{}", library.display())
        .map_err(|error| format!("can't print the path: {error}"))?;
    Ok(())
}

pub fn client(session: &mut Session) -> Result<(), Failure> {
    let folder = named(&build(session)?)?;
    let packages = session.target().join("client");
    pip::ensure(session, PACKAGES, &packages)?;
    let mut python = Command::new("python3");
    python.args(["-B", PROGRAM]).current_dir(session.root());
    python
        .env("PYTHONPATH", packages)
        .env("LD_LIBRARY_PATH", &folder);
    python.env("PTX_EMULATOR_DEVICE", "a100");
    session.run(python)?;
    runtime(session, &folder)
}

/// Compiles a program of the CUDA runtime together with the emulator's runtime, for the two
/// architectures that programs are written for, and runs it.
fn runtime(session: &mut Session, driver: &Path) -> Result<(), Failure> {
    let nvcc = toolchain::ensure(session)?;
    let folder = session.target().join("client");
    for (device, architecture) in [("a100", "80"), ("h100", "90")] {
        let program = folder.join(format!("runtime-{architecture}"));
        let mut compiler = Command::new(&nvcc.path);
        compiler.args(["--cudart", "none", "-std=c++17", "-gencode"]);
        compiler.arg(format!(
            "arch=compute_{architecture},code=compute_{architecture}"
        ));
        compiler.arg(format!("{RUNTIME}/test.cu"));
        compiler.args(RUNTIME_PARTS.map(|part| format!("{RUNTIME}/{part}.cpp")));
        compiler.arg("-ldl").arg("-o").arg(&program);
        compiler.current_dir(session.root());
        session.run(compiler)?;
        let mut run = Command::new(&program);
        run.env("LD_LIBRARY_PATH", driver);
        run.env("PTX_EMULATOR_DEVICE", device);
        session.run(run)?;
    }
    Ok(())
}

/// Of merges, at random system calls.
const KILLS: u64 = 1000;

pub fn fuzz(session: &mut Session, cases: u64) -> Result<(), Failure> {
    for (package, variable) in [
        ("ptx-emulator", "PTX_EMULATOR_FUZZ_CASES"),
        ("lora-kernels-adapters", "LORA_KERNELS_FUZZ_CASES"),
        ("lora-kernels-cases", "LORA_KERNELS_FUZZ_CASES"),
        ("lora-kernels-cli", "LORA_KERNELS_FUZZ_CASES"),
    ] {
        let test = format!("test --release --package {package} --test fuzz -- --show-output");
        let mut cargo = session.cargo(&test);
        cargo.env(variable, cases.to_string());
        session.run(cargo)?;
    }
    let test = "test --release --package lora-kernels-cli --test faults -- --show-output";
    let mut cargo = session.cargo(test);
    cargo.env("LORA_KERNELS_FAULTS", "all");
    cargo.env("LORA_KERNELS_KILLS", KILLS.to_string());
    session.run(cargo)
}
