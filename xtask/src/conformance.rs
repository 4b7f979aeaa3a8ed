//! Programs that nobody here wrote, on the emulated GPU: gets their sources, compiles them and runs
//! them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::pip;
use crate::steps::{Failure, Session};
use crate::toolchain;
use lora_kernels_build::nvcc::Nvcc;

const CUTLASS: &str = "crates/ptx-emulator/tests/conformance/requirements.txt";
const TRITON: &str = "crates/ptx-emulator/tests/conformance/triton/requirements.txt";
const TRITON_FOLDER: &str = "crates/ptx-emulator/tests/conformance/triton";
const GEMM: &str = "crates/ptx-emulator/tests/conformance/cutlass/gemm.cu";
const GEMM_SM90: &str = "crates/ptx-emulator/tests/conformance/cutlass/gemm_sm90.cu";
const RUNTIME: &str = "crates/ptx-emulator/client/cudart";
const CANDLE_KERNELS: &str = "0.11.1";
/// The sources of candle-kernels whose kernels are run.
const CANDLE_FILES: [&str; 10] = [
    "affine", "binary", "cast", "conv", "fill", "indexing", "reduce", "sort", "ternary", "unary",
];

pub fn conformance(session: &mut Session, regenerate: bool) -> Result<(), Failure> {
    let folder = folder(session);
    if regenerate {
        let packages = folder.join("triton");
        pip::ensure(session, TRITON, &packages)?;
        let mut python = Command::new("python3");
        python
            .args(["-B", "compile.py", "."])
            .current_dir(session.root().join(TRITON_FOLDER));
        python.env("PYTHONPATH", packages);
        // The result must depend only on this source and compiler.
        python.env(
            "TRITON_CACHE_DIR",
            folder.join(format!("triton-cache-{}", std::process::id())),
        );
        session.run(python)?;
    }
    let nvcc = toolchain::ensure(session)?;
    let compiled = folder.join("ptx");
    cutlass(session, &nvcc, &folder, &compiled.join("cutlass"))?;
    candle(session, &nvcc, &folder, &compiled.join("candle"))?;
    // The first CUDA call decides which device a process has.
    for (device, test) in [("a100", "every_program"), ("h100", "every_hopper_program")] {
        let mut run = session.cargo(
            "test --quiet --package ptx-emulator --test conformance -- --ignored --nocapture",
        );
        run.arg(test).env("PTX_EMULATOR_CONFORMANCE", &compiled);
        if std::env::var_os("PTX_EMULATOR_DEVICE").is_none() {
            run.env("PTX_EMULATOR_DEVICE", device);
        }
        session.run(run)?;
    }
    Ok(())
}

/// nvcc with the arguments that all programs share.
fn compiler(nvcc: &Nvcc) -> Command {
    let mut command = Command::new(&nvcc.path);
    command.args(
        "-ptx -arch=compute_80 -std=c++17 -O3 --expt-relaxed-constexpr --disable-warnings"
            .split(' '),
    );
    command
}

fn cutlass(session: &mut Session, nvcc: &Nvcc, folder: &Path, to: &Path) -> Result<(), Failure> {
    let source = cutlass_source(session, folder)?;
    make_folder(to)?;
    for (name, define) in [("f16", "GEMM_F16"), ("bf16", "GEMM_BF16")] {
        let mut command = compiler(nvcc);
        command.arg("-I").arg(source.join("include"));
        command.arg(format!("-D{define}")).arg("-o");
        command.arg(to.join(format!("gemm_{name}.ptx"))).arg(GEMM);
        command.current_dir(session.root());
        session.run(command)?;

        // A whole program, with a CUDA runtime in it: NVIDIA's own takes NVIDIA's driver only.
        let mut command = Command::new(&nvcc.path);
        command.args("-O3 -std=c++17 --expt-relaxed-constexpr --disable-warnings".split(' '));
        command.args("-gencode arch=compute_90a,code=compute_90a --cudart none".split(' '));
        for include in CUTLASS_INCLUDES {
            command.arg("-I").arg(source.join(include));
        }
        command.arg(format!("-D{define}")).arg("-o");
        command
            .arg(to.join(format!("gemm_sm90_{name}")))
            .arg(GEMM_SM90)
            .args(runtime_sources(session)?)
            .arg("-ldl");
        command.current_dir(session.root());
        session.run(command)?;
    }
    Ok(())
}

/// The folders of CUTLASS's sources that hold headers.
pub const CUTLASS_INCLUDES: [&str; 2] = ["include", "tools/util/include"];

/// The sources of CUTLASS, as PyPI has them, in a folder of packages.
pub fn cutlass_source(session: &mut Session, folder: &Path) -> Result<PathBuf, Failure> {
    let packages = folder.join("cutlass");
    pip::ensure(session, CUTLASS, &packages)?;
    Ok(packages.join("cutlass_library/source"))
}

/// The folder of the packages and programs of others.
pub fn folder(session: &Session) -> PathBuf {
    session.target().join("conformance")
}

/// The sources of the CUDA runtime that uses documented entry points of the driver only.
pub fn runtime_sources(session: &Session) -> Result<Vec<PathBuf>, Failure> {
    let folder = session.root().join(RUNTIME);
    let failed = |error| format!("can't read {}: {error}", folder.display());
    let mut sources = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "cpp") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn candle(session: &mut Session, nvcc: &Nvcc, folder: &Path, to: &Path) -> Result<(), Failure> {
    let source = vendor(session, &folder.join("candle"))?;
    make_folder(to)?;
    for file in CANDLE_FILES {
        let mut command = compiler(nvcc);
        command.arg("-o").arg(to.join(format!("{file}.ptx")));
        command.arg(source.join(format!("{file}.cu")));
        session.run(command)?;
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)
        .map_err(|error| format!("can't make {}: {error}", folder.display()).into())
}

/// The sources of candle-kernels, as crates.io has them; nothing of the crate is built.
fn vendor(session: &mut Session, folder: &Path) -> Result<PathBuf, Failure> {
    let sources = folder
        .join("vendor")
        .join(format!("candle-kernels-{CANDLE_KERNELS}"));
    if !sources.is_dir() {
        make_folder(&folder.join("src"))?;
        // It is a workspace of its own, because this folder may be inside this project.
        let manifest = format!(
            "[package]\nname = \"sources\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
             candle-kernels = \"={CANDLE_KERNELS}\"\n\n[workspace]\n"
        );
        for (file, text) in [("Cargo.toml", manifest.as_str()), ("src/lib.rs", "")] {
            let path = folder.join(file);
            fs::write(&path, text)
                .map_err(|error| format!("can't write {}: {error}", path.display()))?;
        }
        let mut cargo = session.cargo("vendor --quiet --versioned-dirs vendor");
        cargo
            .current_dir(folder)
            .stdout(std::process::Stdio::null());
        session.run(cargo)?;
    }
    Ok(sources.join("src"))
}
