//! The candle crate: its fine-tune, and its tests on candle's CUDA device, which is the emulated
//! GPU here.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client;
use crate::steps::{Failure, Session};
use crate::toolchain;
use lora_kernels_build::archs;

const NVCC: &str = "xtask/stand-in/nvcc";
const SOURCES: [&str; 2] = ["xtask/stand-in/libraries.c", "xtask/stand-in/missing.c"];
/// The libraries that candle links with its CUDA feature.
const LIBRARIES: [&str; 5] = [
    "libcublas.so",
    "libcublasLt.so",
    "libcurand.so",
    "libnvrtc.so",
    "libcudart.so",
];
/// The declarations of their functions: package, file, and the text before each name.
const DECLARATIONS: [(&str, &str, &str); 5] = [
    ("cudarc", "src/cublas/sys/mod.rs", "pub unsafe fn "),
    ("cudarc", "src/cublaslt/sys/mod.rs", "pub unsafe fn "),
    ("cudarc", "src/curand/sys/mod.rs", "pub unsafe fn "),
    ("cudarc", "src/nvrtc/sys/mod.rs", "pub unsafe fn "),
    ("candle-kernels", "src/ffi.rs", "fn "),
];

pub fn finetune(session: &mut Session, arguments: &[String]) -> Result<(), Failure> {
    toolchain::ensure(session)?;
    // The features are those of the whole workspace, as in the tests' build, so that nothing is
    // compiled twice.
    session.run(session.cargo("build --quiet --workspace --example finetune_minilm"))?;
    let mut example = Command::new(session.target().join("debug/examples/finetune_minilm"));
    example.args(arguments).current_dir(session.root());
    // The checks make a step six times as slow, and the tests run every kernel with them.
    if std::env::var_os("PTX_EMULATOR_CHECKS").is_none() {
        example.env("PTX_EMULATOR_CHECKS", "off");
    }
    session.run(example)
}

/// Runs the tests with candle's `cuda` feature. candle's own kernels are compiled as far as the
/// tests need them. cuBLAS, cuRAND and the others are stand-ins that end the program if anything
/// but a handle is asked of them.
pub fn cuda(session: &mut Session) -> Result<(), Failure> {
    let nvcc = toolchain::ensure(session)?;
    // Building a test of the emulated GPU also builds the driver that candle links.
    session.run(session.cargo("test --quiet --workspace --test driver --no-run"))?;
    let folders = [libraries(session)?, client::driver_of_tests(session)?];
    let libraries =
        std::env::join_paths(folders).map_err(|error| format!("a folder's name: {error}"))?;
    // With this setting, cargo keeps this build of our kernels, which uses another nvcc, beside the
    // other builds.
    let mut tests = session.cargo(
        "test --workspace --features lora-kernels-candle/cuda --test on_cuda \
         --config profile.dev.package.lora-kernels.codegen-units=14",
    );
    tests
        .env("NVCC", session.root().join(NVCC))
        .env("REAL_NVCC", nvcc.path);
    tests.env("CUDA_COMPUTE_CAP", "80");
    // Our kernels must not be recompiled for that device.
    if std::env::var_os("LORA_KERNELS_CUDA_ARCHS").is_none() {
        tests.env("LORA_KERNELS_CUDA_ARCHS", archs::DEFAULT);
    }
    tests
        .env("LIBRARY_PATH", &libraries)
        .env("LD_LIBRARY_PATH", &libraries);
    session.run(tests)
}

/// A folder with the libraries that candle links, except the driver.
fn libraries(session: &mut Session) -> Result<PathBuf, Failure> {
    let folder = session.target().join("stand-in");
    let failed = |error: std::io::Error| format!("can't fill {}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let functions = folder.join("functions.h");
    fs::write(&functions, declared(session)?).map_err(failed)?;
    let all = folder.join("libstand_in.so");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-Wl,-soname,libstand_in.so", "-I"])
        .arg(&folder)
        .arg("-o");
    compiler
        .arg(&all)
        .args(SOURCES.map(|source| session.root().join(source)));
    session.run(compiler)?;
    client::link_as(&all, &folder, &LIBRARIES)?;
    Ok(folder)
}

/// `FUNCTION(name)` for each function that candle's libraries have.
fn declared(session: &mut Session) -> Result<String, Failure> {
    let metadata = session.cargo("metadata --format-version 1 --features lora-kernels-candle/cuda");
    let metadata: serde_json::Value = serde_json::from_str(&session.capture(metadata)?)
        .map_err(|error| format!("cargo's metadata can't be read: {error}"))?;
    let folder = |package: &str| {
        let mut packages = metadata["packages"].as_array().into_iter().flatten();
        let found = packages.find(|one| one["name"] == package);
        let manifest = found
            .and_then(|one| one["manifest_path"].as_str())
            .map(Path::new);
        let folder = manifest.and_then(Path::parent);
        folder
            .ok_or_else(|| format!("{package} is not among the packages of candle's CUDA feature"))
    };
    let mut names = BTreeSet::new();
    for (package, file, before) in DECLARATIONS {
        let path = folder(package)?.join(file);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("can't read {}: {error}", path.display()))?;
        let declarations = text.split(before).skip(1);
        let functions = declarations.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned()));
        names.extend(
            functions.filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')),
        );
    }
    let mut text = String::new();
    for name in names {
        let _ = writeln!(text, "FUNCTION({name})");
    }
    Ok(text)
}
