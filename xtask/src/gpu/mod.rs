//! `cargo xtask gpu`: a folder that tests and benches this crate on a CUDA machine without Rust,
//! nvcc or a network.

mod build;
mod check;
mod choice;
mod pack;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::steps::{Failure, Session};
use crate::toolchain;
use build::Built;
use lora_kernels_bundle::manifest::{Kind, MANIFEST, Manifest};
use pack::Packer;

const NAME: &str = "lora-kernels-gpu";
/// The bundle that is only checked. Its bench is not optimised as a bench should be.
const CHECKED: &str = "lora-kernels-gpu-check";
/// The largest bundle. What is larger is refused by some ways to a machine.
const MOST_MIB: u64 = 64;
const FIXTURES: &str = "tests/fixtures";
/// The files in the checkout that were written for the bundle.
const OWN_FILES: &str = "crates/lora-kernels-bundle/bundle";

pub fn gpu(session: &mut Session, check: bool) -> Result<(), Failure> {
    let nvcc = toolchain::ensure(session)?;
    let built = build::build(session, check)?;
    let name = if check { CHECKED } else { NAME };
    let folder = session.target().join("gpu").join(name);
    let manifest = Manifest {
        commit: commit(session),
        nvcc: format!("{}.{}", nvcc.release.0, nvcc.release.1),
        archs: std::env::var("LORA_KERNELS_CUDA_ARCHS")
            .unwrap_or_else(|_| "the default architectures".to_owned()),
        ..Manifest::default()
    };
    let manifest = fill(session, &folder, &built, manifest)?;
    session.summarise();
    report(&folder, &manifest)?;
    if check {
        return check::check(session, &folder, &built);
    }
    writeln!(std::io::stdout(), "{}", folder.display())
        .map_err(|error| format!("can't print the path: {error}").into())
}

fn fill(
    session: &Session,
    folder: &Path,
    built: &Built,
    mut manifest: Manifest,
) -> Result<Manifest, Failure> {
    empty(folder)?;
    let mut packer = Packer::new(folder, &built.images)?;
    for (name, path) in &built.tests {
        let program = packer.pack(Kind::Test, name, path, "bin/deps")?;
        manifest.programs.push(choice::chosen(program));
    }
    manifest.families = choice::families();
    // Tests look for the program where cargo puts it: beside their own folder.
    let program = packer.pack(Kind::Helper, build::PROGRAM, &built.program, "bin")?;
    manifest.programs.push(program);
    let program = packer.pack(Kind::Bench, "layer", &built.bench, "bin/deps")?;
    manifest.programs.push(program);
    packer.strip(&built.suite, &folder.join("bin/suite"))?;
    manifest.glibc = packer.glibc();

    copy(&session.root().join(OWN_FILES), folder)?;
    copy(&session.root().join(FIXTURES), &folder.join(FIXTURES))?;
    let text =
        serde_json::to_string_pretty(&manifest).map_err(|error| format!("{MANIFEST}: {error}"))?;
    let path = folder.join(MANIFEST);
    fs::write(&path, text + "\n")
        .map_err(|error| format!("can't write {}: {error}", path.display()))?;
    Ok(manifest)
}

/// Copies a folder with its contents and permissions.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        format!("can't copy {} to {}: {error}", from.display(), to.display())
    };
    fs::create_dir_all(to).map_err(failed)?;
    for entry in from.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            fs::copy(path, to).map_err(failed)?;
        }
    }
    Ok(())
}

/// Removes a folder.
fn empty(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("can't remove {}: {error}", folder.display()).into())
        }
        _ => Ok(()),
    }
}

fn commit(session: &mut Session) -> String {
    let mut git = std::process::Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"])
        .current_dir(session.root());
    // An archive of the source has no history.
    let commit = session.capture(git).unwrap_or_default();
    match commit.trim() {
        "" => "unknown".to_owned(),
        commit => commit.to_owned(),
    }
}

fn report(folder: &Path, manifest: &Manifest) -> Result<(), Failure> {
    let tests = manifest
        .programs
        .iter()
        .filter(|program| program.kind == Kind::Test)
        .count();
    let unpacked: u64 = manifest.programs.iter().map(|program| program.bytes).sum();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let bytes = size(folder)?;
    eprintln!(
        "\n{:.1} MiB, {:.0} MiB more once it has run; {tests} test programs; for Linux on x86-64 with glibc {} or newer",
        mib(bytes),
        mib(unpacked),
        manifest.glibc
    );
    if bytes > MOST_MIB << 20 {
        return Err(format!(
            "{} has {:.1} MiB, and {MOST_MIB} are allowed: set LORA_KERNELS_CUDA_ARCHS to the GPUs \
             that it is for, e.g. 90",
            folder.display(),
            mib(bytes)
        )
        .into());
    }
    Ok(())
}

/// The size of all files below a folder, in bytes.
fn size(folder: &Path) -> Result<u64, Failure> {
    let failed = |error: std::io::Error| format!("can't list {}: {error}", folder.display());
    let mut bytes = 0;
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}
