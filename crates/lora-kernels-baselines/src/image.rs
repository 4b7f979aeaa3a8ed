//! The image of the compiled kernels.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use lora_kernels_build::flags::Flags;
use lora_kernels_build::{host, nvcc};

use super::Result;

/// The environment variable that names an image to use instead of compiling one.
pub const VARIABLE: &str = "LORA_PEERS_FATBIN";

/// Only PTX is made: the emulated device interprets it, and a driver compiles it for its GPU. The
/// compiler fuses no multiply-adds; the source says where it wants them.
const ARGUMENTS: [&str; 9] = [
    "--fatbin",
    "-std=c++17",
    "-O3",
    "-lineinfo",
    "-fmad=false",
    "--no-compress",
    "-Ikernels",
    "-gencode",
    "arch=compute_80,code=compute_80",
];
const UNIT: &str = "crates/lora-kernels-baselines/kernels/peers.cu";
const SOURCES: [&str; 2] = ["crates/lora-kernels-baselines/kernels", "kernels/ptx"];

/// The image that `LORA_PEERS_FATBIN` names, or else the one that nvcc compiles from this crate's
/// `kernels/` in `checkout`. It is kept in `folder` and reused until the sources, the compiler or
/// its arguments change.
///
/// # Errors
/// If nvcc is missing or fails, or a file can't be read or written.
pub fn fatbin(checkout: &Path, folder: &Path) -> Result<Vec<u8>> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return Ok(
            fs::read(&path).map_err(|error| format!("{VARIABLE}={}: {error}", path.display()))?
        );
    }
    let nvcc = nvcc::find(&nvcc::Here, checkout)?;
    let flags = Flags::find(&nvcc::Here)?;
    let key = key(checkout, &nvcc, &flags)?;
    let image = folder.join(format!("peers-{key:016x}.fatbin"));
    if !image.exists() {
        compile(checkout, &nvcc.path, &flags, &image)?;
    }
    Ok(fs::read(&image).map_err(|error| format!("can't read {}: {error}", image.display()))?)
}

fn compile(checkout: &Path, nvcc: &Path, flags: &Flags, image: &Path) -> Result<()> {
    // Several programs may compile at once: each writes a file of its own, and the last rename
    // wins.
    let partial = image.with_extension(format!("{}.partial", std::process::id()));
    let mut compiler = Command::new(nvcc);
    flags.give(&mut compiler);
    compiler
        .args(ARGUMENTS)
        .arg("-o")
        .arg(&partial)
        .arg(UNIT)
        .current_dir(checkout);
    if let Some(host) = std::env::var_os("NVCC_CCBIN").filter(|host| !host.is_empty()) {
        compiler.arg("-ccbin").arg(host);
    }
    let output = compiler
        .output()
        .map_err(|error| format!("can't run {}: {error}", nvcc.display()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let advice = host::advice(&words).unwrap_or_default();
        let nvcc = nvcc.display();
        return Err(format!("{nvcc} could not compile {UNIT}:\n{words}{advice}").into());
    }
    Ok(fs::rename(&partial, image)
        .map_err(|error| format!("can't make {}: {error}", image.display()))?)
}

/// A hash of everything that the image is made from.
fn key(checkout: &Path, nvcc: &nvcc::Nvcc, flags: &Flags) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    (ARGUMENTS, &nvcc.version, flags).hash(&mut hasher);
    for folder in SOURCES {
        let path = checkout.join(folder);
        let failed = |error| format!("can't read {}: {error}", path.display());
        let mut files = Vec::new();
        for entry in path.read_dir().map_err(failed)? {
            files.push(entry.map_err(failed)?.path());
        }
        // Folders there hold the sources of other programs.
        files.retain(|path| path.is_file());
        files.sort();
        for file in files {
            let source = fs::read(&file)
                .map_err(|error| format!("can't read {}: {error}", file.display()))?;
            (file.file_name(), source).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}
