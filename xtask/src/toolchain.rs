//! nvcc for machines that have none: pinned packages from PyPI, unpacked into .toolchain.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::steps::{Failure, Session};
use lora_kernels_build::nvcc::{self, Here, Machine, Nvcc};

const FOLDER: &str = ".toolchain";
/// Installations in the making are `.toolchain-partial-<process>`; only a complete one is renamed.
const PARTIAL: &str = ".toolchain-partial-";
const PACKAGES: &str = include_str!("../toolchain.txt");
/// The list of packages, kept in what was installed from it.
const STAMP: &str = "toolchain.txt";

/// Finds nvcc, or installs it where there is none or where .toolchain holds other versions than the
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
                .is_ok_and(|stamp| stamp == PACKAGES)
        {
            return Ok(nvcc);
        }
        eprintln!("{FOLDER} holds other versions than the pinned ones: installing them anew");
    }
    install(session, &root)?;
    Ok(nvcc::find(&Here, &root)?)
}

fn install(session: &mut Session, root: &Path) -> Result<(), Failure> {
    check_tools()?;
    remove_leftovers(root);
    eprintln!(
        "installing nvcc from PyPI into {FOLDER}, about 300 MB; `cargo clean` leaves it, and deleting it is safe"
    );
    let partial = root.join(format!("{PARTIAL}{}", std::process::id()));
    let result = fill(session, root, &partial).and_then(|()| put_in_place(root, &partial));
    if result.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

/// A clear word on what is missing, rather than whatever pip or nvcc make of it.
fn check_tools() -> Result<(), Failure> {
    let runs = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !runs("python3", &["--version"]) {
        return Err(
            "python3 is missing: nvcc is installed with its pip; install python3 and pip (Debian, Ubuntu: \
            apt install python3-pip), or set CUDA_HOME to a CUDA toolkit"
                .to_owned()
                .into(),
        );
    }
    if !runs("python3", &["-m", "pip", "--version"]) {
        return Err(
            "python3 has no pip, which nvcc is installed with; install it (Debian, Ubuntu: apt install \
            python3-pip; elsewhere: python3 -m ensurepip), or set CUDA_HOME to a CUDA toolkit"
                .to_owned()
                .into(),
        );
    }
    if Here.var("NVCC_CCBIN").is_none() && !runs("g++", &["--version"]) {
        return Err(
            "g++ is missing, which nvcc needs; install it (Debian, Ubuntu: apt install g++), or set NVCC_CCBIN \
            to another C++ compiler that nvcc supports"
                .to_owned()
                .into(),
        );
    }
    Ok(())
}

fn fill(session: &mut Session, root: &Path, partial: &Path) -> Result<(), Failure> {
    // Packages go into the one folder and no Python environment is touched, so an externally
    // managed one allows it.
    let mut pip = Command::new("python3");
    pip.args(
        "-m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile"
            .split(' '),
    );
    pip.args([
        "--only-binary",
        ":all:",
        "-r",
        "xtask/toolchain.txt",
        "--target",
    ])
    .arg(partial);
    pip.envs([("PIP_USER", "0"), ("PIP_ROOT_USER_ACTION", "ignore")])
        .current_dir(root);
    session.run(pip).map_err(|failure| Failure {
        message: format!(
            "{failure}\npip could not install nvcc (its own words are above): it needs PyPI or a mirror of it, and has \
             packages for Linux on x86_64 and aarch64 and for Windows; or set CUDA_HOME to a CUDA toolkit"
        ),
        ..failure
    })?;

    // One kernel through the whole compiler: the versions match, and the host compiler is one that
    // nvcc takes.
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
            "{failure}\nthe nvcc that was just installed can't compile a kernel here, see above"
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

/// Removes what interrupted installations left. One of the last hour may still be running.
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
