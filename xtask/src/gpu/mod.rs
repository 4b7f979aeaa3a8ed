//! `cargo xtask gpu`: a folder that tests and benches this crate on a CUDA machine without Rust,
//! nvcc or a network.

mod build;
mod check;
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
const FIXTURES: &str = "tests/fixtures";
/// Written for this folder, in the checkout.
const OWN_FILES: &str = "crates/lora-kernels-bundle/bundle";

/// Test programs that have nothing to do there.
const LEFT_OUT: [(&str, &str); 2] = [
    ("build_script", "compiles with nvcc"),
    ("peers", "compiles with nvcc"),
];

/// Tests that have nothing to do there, by their path in their program.
const SKIPPED: [(&str, &str); 2] = [
    ("plans::", "run no kernel"),
    ("emulated::", "set what a GPU leaves nobody to choose"),
];

/// The quick form: these programs, and of their tests those whose names hold one of these; all
/// where there is none.
const QUICK: [(&str, &[&str]); 3] = [
    (
        "integration",
        &[
            "device::",
            "layers::forward::in_bf16",
            "layers::backward::in_bf16",
            "layers::recorded::in_bf16",
        ],
    ),
    ("missing_kernels", &[]),
    // Starts another program.
    ("replay", &["the_device_is_named"]),
];

pub fn gpu(session: &mut Session, check: bool) -> Result<(), Failure> {
    let nvcc = toolchain::ensure(session)?;
    let built = build::build(session)?;
    let folder = session.target().join("gpu").join(NAME);
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
        check::check(session, &folder, &built)?;
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
    let listed = LEFT_OUT
        .map(|(name, _)| name)
        .into_iter()
        .chain(QUICK.map(|(name, _)| name));
    for name in listed {
        if built.tests.iter().all(|(test, _)| test != name) {
            return Err(format!(
                "there is no test program {name} any more: take it off the lists in xtask/src/gpu"
            )
            .into());
        }
    }
    empty(folder)?;
    let mut packer = Packer::new(folder, &built.images)?;
    for (name, path) in &built.tests {
        if LEFT_OUT.iter().any(|(left_out, _)| left_out == name) {
            continue;
        }
        let mut program = packer.pack(Kind::Test, name, path, "bin/deps")?;
        let quick = QUICK.iter().find(|(quick, _)| quick == name);
        program.skip = SKIPPED.map(|(tests, _)| tests.to_owned()).to_vec();
        program.quick =
            quick.map(|(_, filters)| filters.iter().map(|&filter| filter.to_owned()).collect());
        manifest.programs.push(program);
    }
    // Tests look for it where cargo puts it: beside the folder that they themselves lie in.
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

/// A folder with all that is in it, with permissions.
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

/// Makes sure that there is nothing.
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
    eprintln!(
        "\n{:.1} MiB, {:.0} MiB more once it has run; {tests} test programs; for Linux on x86-64 with glibc {} or newer",
        mib(size(folder)?),
        mib(unpacked),
        manifest.glibc
    );
    let left_out: Vec<_> = LEFT_OUT
        .iter()
        .chain(&SKIPPED)
        .map(|(name, reason)| format!("{name} ({reason})"))
        .collect();
    eprintln!("left out: {}", left_out.join(", "));
    Ok(())
}

/// Bytes of all files below a folder.
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
