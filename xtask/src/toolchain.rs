//! Installs nvcc on machines that have none: pinned packages from PyPI, unpacked into .toolchain.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::pip;
use crate::steps::{Failure, Session};
use lora_kernels_build::nvcc::{self, Here, Machine, Nvcc};

const FOLDER: &str = ".toolchain";
/// An unfinished installation is in `.toolchain-partial-<process>`. Only a complete one is renamed.
const PARTIAL: &str = ".toolchain-partial-";
const LIST: &str = "xtask/toolchain.txt";
const PACKAGES: &str = include_str!("../toolchain.txt");
/// The list of packages, kept in the installation made from it.
const STAMP: &str = "toolchain.txt";

/// Finds nvcc, or installs it if there is none or if .toolchain holds other versions than the
/// pinned ones.
pub fn ensure(session: &mut Session) -> Result<Nvcc, Failure> {
    let root = session.root().to_owned();
    if Here.var("NVCC").is_some() {
        return Ok(nvcc::find(&Here, &root)?);
    }
    if let Ok(nvcc) = nvcc::find(&Here, &root) {
        let ours = nvcc.path.starts_with(root.join(FOLDER));
        if !ours
            || fs::read_to_string(root.join(FOLDER).join(STAMP))
                .is_ok_and(|stamp| pip::are_same(&stamp, PACKAGES))
        {
            return Ok(nvcc);
        }
        eprintln!("{FOLDER} holds other versions than the pinned ones: installing them anew");
    }
    install(session, &root)?;
    Ok(nvcc::find(&Here, &root)?)
}

fn install(session: &mut Session, root: &Path) -> Result<(), Failure> {
    check_host_compiler()?;
    remove_leftovers(root);
    eprintln!(
        "installing nvcc from PyPI into {FOLDER}, about 300 MB; `cargo clean` leaves it, and deleting it is safe"
    );
    let partial = root.join(format!("{PARTIAL}{}", std::process::id()));
    let result = fill(session, &partial).and_then(|()| put_in_place(root, &partial));
    if result.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

/// Says clearly that the host compiler is missing, before nvcc fails because of it.
fn check_host_compiler() -> Result<(), Failure> {
    if Here.var("NVCC_CCBIN").is_none() && !pip::runs("g++", &["--version"]) {
        return Err(
            "g++ is missing, which nvcc needs; install it (Debian, Ubuntu: apt install g++), or set NVCC_CCBIN \
            to another C++ compiler that nvcc supports"
                .to_owned()
                .into(),
        );
    }
    Ok(())
}

fn fill(session: &mut Session, partial: &Path) -> Result<(), Failure> {
    pip::install(session, LIST, partial).map_err(|failure| Failure {
        message: format!(
            "{failure}\nThere are packages of nvcc for Linux on x86_64 and aarch64 and for Windows. With CUDA_HOME set \
             to a CUDA toolkit, none is installed"
        ),
        ..failure
    })?;

    // Compiles a kernel, which shows that the versions match and that nvcc accepts the host
    // compiler.
    let folder = partial.join(nvcc::INSTALLED.trim_start_matches(&format!("{FOLDER}/")));
    let (source, image) = (partial.join("try.cu"), partial.join("try.fatbin"));
    fs::write(
        &source,
        "extern \"C\" __global__ void one(float* p) { *p = 1.0f; }\n",
    )
    .map_err(|error| format!("can't write {}: {error}", source.display()))?;
    let mut compiler = Command::new(nvcc::in_toolkit(&folder));
    compiler
        .args(["--fatbin", "-std=c++17", "-arch=sm_80", "-o"])
        .args([&image, &source]);
    if let Some(host) = Here.var("NVCC_CCBIN") {
        compiler.arg("-ccbin").arg(host);
    }
    session.run(compiler).map_err(|failure| Failure {
        message: format!(
            "{failure}\nthe nvcc that was just installed can't compile a kernel here, see above; if \
             it doesn't support the C++ compiler, set NVCC_CCBIN to one that it supports"
        ),
        ..failure
    })?;
    let stamp = partial.join(STAMP);
    fs::remove_file(&source)
        .and_then(|()| fs::remove_file(&image))
        .and_then(|()| fs::write(&stamp, PACKAGES))
        .map_err(|error| format!("can't finish {}: {error}", partial.display()).into())
}

fn put_in_place(root: &Path, partial: &Path) -> Result<(), Failure> {
    let folder = root.join(FOLDER);
    let failed = |error| {
        format!(
            "can't rename {} to {}: {error}",
            partial.display(),
            folder.display()
        )
    };
    let old = root.join(format!("{PARTIAL}{}-old", std::process::id()));
    if folder.exists() {
        fs::rename(&folder, &old).map_err(failed)?;
    }
    fs::rename(partial, &folder).map_err(failed)?;
    let _ = fs::remove_dir_all(old);
    Ok(())
}

/// Removes what interrupted installations left. One that is less than an hour old may still be
/// running.
fn remove_leftovers(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PARTIAL))
    {
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .map(|time| SystemTime::now().duration_since(time));
        if matches!(age, Ok(Ok(age)) if age > Duration::from_secs(3600)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
