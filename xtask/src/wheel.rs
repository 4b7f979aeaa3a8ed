//! The Python package as a wheel for Linux, with the library in it.
//!
//! The library asks for nothing newer than glibc 2.17 and for no more than the first x86-64, though
//! it is linked on a newer system: `xtask/wheel/glibc.c` leads to the older versions of functions,
//! and auditwheel, which knows what every Linux has, checks the result.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::commands;
use crate::pip;
use crate::steps::{Failure, Session};

/// setuptools and auditwheel, and what they import.
const TOOLS: &str = "xtask/wheel/requirements.txt";
const LIBRARY: &str = "liblora_kernels.so";
const CRATE: &str = "lora-kernels-capi";
const GLIBC: &str = "xtask/wheel/glibc.c";
/// What `glibc.c` has for the standard library. The linker leads calls there.
const OLDER: [&str; 9] = [
    "dlclose",
    "dlerror",
    "dlopen",
    "dlsym",
    "fstat64",
    "pthread_key_create",
    "pthread_key_delete",
    "pthread_setspecific",
    "stat64",
];
/// What the standard library uses only where glibc has it, from 2.18 to 2.30 on. The linker finds
/// nothing under another name, so that it is as with an older glibc.
const OPTIONAL: [&str; 4] = ["__cxa_thread_atexit_impl", "getrandom", "gettid", "statx"];
const PLATFORM: &str = "manylinux_2_17_x86_64";
const MOST_BYTES: u64 = 20_000_000;
/// The licences that lie beside the package and come with the wheel.
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];
const NOTICES: &str = "LICENSE-THIRD-PARTY";

/// Where the wheel's parts are made.
fn folder(session: &Session) -> PathBuf {
    session.target().join("wheel")
}

/// Builds the wheel and prints its path.
pub fn wheel(session: &mut Session) -> Result<(), Failure> {
    let wheel = build(session)?;
    session.summarise();
    writeln!(std::io::stdout(), "{}", wheel.display())
        .map_err(|error| format!("can't print the path: {error}"))?;
    Ok(())
}

/// Builds the wheel and returns its path.
pub fn build(session: &mut Session) -> Result<PathBuf, Failure> {
    commands::setup(session)?;
    let tools = folder(session).join("tools");
    pip::ensure(session, TOOLS, &tools)?;
    let library = library(session)?;
    let source = stage(session, &library)?;
    let made = folder(session).join("made");
    empty(&made)?;
    let mut pip = Command::new("python3");
    pip.args(
        "-m pip wheel --quiet --disable-pip-version-check --no-input --no-index --no-deps"
            .split(' '),
    );
    pip.arg("--no-build-isolation");
    if is_portable() {
        pip.arg(format!(
            "--config-settings=--build-option=--plat-name={PLATFORM}"
        ));
    }
    pip.arg("--wheel-dir").arg(&made).arg(&source);
    pip.env("PYTHONPATH", &tools)
        .env("PIP_ROOT_USER_ACTION", "ignore");
    // The same sources make the same bytes: files in a zip archive have no earlier time.
    pip.env("SOURCE_DATE_EPOCH", "315532800");
    session.run(pip)?;
    let wheel = only_file(&made)?;
    check(session, &wheel, &tools)?;
    Ok(wheel)
}

/// Whether the wheel is for any Linux of this architecture, not only for systems like this one.
const fn is_portable() -> bool {
    cfg!(all(target_arch = "x86_64", target_os = "linux"))
}

/// Builds the library, stripped, for the first x86-64 and an old glibc.
fn library(session: &mut Session) -> Result<PathBuf, Failure> {
    let target = folder(session).join("target");
    let mut cargo = session.cargo("rustc --release --lib --crate-type cdylib --package");
    cargo.arg(CRATE).arg("--target-dir").arg(&target);
    cargo.args(["--", "-C", "strip=symbols"]);
    if is_portable() {
        let older = older_glibc(session)?;
        let mut link = |argument: &str| {
            cargo.arg("-C").arg(format!("link-arg={argument}"));
        };
        link(&older.to_string_lossy());
        // Before 2.34 they hold functions of dlfcn.h and pthread.h.
        link("-Wl,--push-state,--no-as-needed,-l:libdl.so.2,-l:libpthread.so.0,--pop-state");
        for name in OLDER.iter().chain(&OPTIONAL) {
            link(&format!("-Wl,--wrap={name}"));
        }
    }
    let mut flags = Vec::new();
    if cfg!(target_arch = "x86_64") {
        flags.push("-Ctarget-cpu=x86-64".to_owned());
    }
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    session.run(cargo)?;
    Ok(target.join("release/liblora_kernels_capi.so"))
}

/// Where the sources of other crates lie, whose paths are in the texts of panics.
fn cargo_home() -> Option<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

/// Compiles what leads to the older versions of glibc's functions.
fn older_glibc(session: &mut Session) -> Result<PathBuf, Failure> {
    let object = folder(session).join("glibc.o");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-fPIC", "-D_GNU_SOURCE", "-Wall", "-Werror", "-c"]);
    compiler.arg(GLIBC).arg("-o").arg(&object);
    compiler.current_dir(session.root());
    session.run(compiler)?;
    Ok(object)
}

/// Copies the package's sources into a folder and adds the library and the licences.
fn stage(session: &mut Session, library: &Path) -> Result<PathBuf, Failure> {
    let source = folder(session).join("source");
    empty(&source)?;
    let python = session.root().join("python");
    for file in ["pyproject.toml", "setup.py", "README.md"]
        .iter()
        .chain(&LICENCES)
    {
        copy(&python.join(file), &source.join(file))?;
    }
    copy_package(&python.join("lora_kernels"), &source.join("lora_kernels"))?;
    copy(library, &source.join("lora_kernels").join(LIBRARY))?;
    let notices = notices(session)?;
    let path = source.join(NOTICES);
    fs::write(&path, notices)
        .map_err(|error| format!("can't write {}: {error}", path.display()))?;
    Ok(source)
}

fn empty(folder: &Path) -> Result<(), Failure> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .map_err(|error| format!("can't empty {}: {error}", folder.display()))?;
    }
    fs::create_dir_all(folder)
        .map_err(|error| format!("can't make {}: {error}", folder.display()).into())
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let copied = fs::copy(from, to).map(|_| ());
    copied.map_err(|error| {
        format!("can't copy {} to {}: {error}", from.display(), to.display()).into()
    })
}

/// Copies the sources of a package and its subpackages, without a library that lies among them.
fn copy_package(from: &Path, to: &Path) -> Result<(), Failure> {
    empty(to)?;
    let failed = |error: std::io::Error| format!("can't list {}: {error}", from.display());
    for entry in from.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "__pycache__" {
            copy_package(&path, &to.join(name))?;
        } else if path
            .extension()
            .is_some_and(|kind| kind == "py" || kind == "typed")
        {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// The licences of the crates that are in the library, with their texts.
fn notices(session: &mut Session) -> Result<String, Failure> {
    let tree = format!("tree --package {CRATE} --edges normal,no-proc-macro --prefix none");
    let mut tree = session.cargo(&tree);
    tree.args(["--format", "{p}"]);
    let tree = session.capture(tree)?;
    let metadata = session.capture(session.cargo("metadata --format-version 1"))?;
    let metadata: Value = serde_json::from_str(&metadata)
        .map_err(|error| format!("cargo's metadata can't be read: {error}"))?;
    let mut text = "liblora_kernels.so contains Rust's standard library, under MIT or Apache-2.0 \
                    (LICENSE-MIT and\nLICENSE-APACHE have the terms), and these crates:\n"
        .to_owned();
    let mut packages: Vec<&Value> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    // Packages of ours have no source.
    packages.retain(|package| {
        let name = format!(
            "{} v{}",
            package["name"].as_str().unwrap_or_default(),
            package["version"].as_str().unwrap_or_default()
        );
        !package["source"].is_null()
            && tree
                .lines()
                .any(|line| line.split(" (").next() == Some(&name))
    });
    for package in packages {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        text.push_str(&format!(
            "\n{} {}, {}\n\n",
            field("name"),
            field("version"),
            field("license")
        ));
        let folder = Path::new(field("manifest_path")).parent();
        text.push_str(&licence_of(folder.unwrap_or(Path::new("")))?);
    }
    Ok(text)
}

/// The text of a crate's licence: that of MIT if it has several, which is the shortest.
fn licence_of(folder: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| format!("can't read {}: {error}", folder.display());
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_uppercase();
        if name.starts_with("LICEN") && path.is_file() {
            found.push((!name.contains("MIT"), path));
        }
    }
    found.sort();
    let Some((_, path)) = found.first() else {
        return Err(format!("{} has no file with a licence", folder.display()).into());
    };
    fs::read_to_string(path)
        .map_err(|error| format!("can't read {}: {error}", path.display()).into())
}

fn only_file(folder: &Path) -> Result<PathBuf, Failure> {
    let mut files = folder
        .read_dir()
        .map_err(|error| format!("can't list {}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()));
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file),
        _ => Err(format!("{} does not hold exactly one file", folder.display()).into()),
    }
}

/// Checks the wheel's size and tags, and that the library needs nothing that they don't promise.
fn check(session: &mut Session, wheel: &Path, tools: &Path) -> Result<(), Failure> {
    let bytes = fs::metadata(wheel)
        .map_err(|error| format!("can't read {}: {error}", wheel.display()))?
        .len();
    if bytes > MOST_BYTES {
        return Err(format!(
            "{} has {bytes} bytes, but may have {MOST_BYTES}",
            wheel.display()
        )
        .into());
    }
    if !is_portable() {
        return Ok(());
    }
    let name = wheel.file_name().unwrap_or_default().to_string_lossy();
    if !name.ends_with(&format!("-py3-none-{PLATFORM}.whl")) {
        return Err(format!("{name} is not for {PLATFORM} and every Python").into());
    }
    let mut audit = Command::new("python3");
    audit
        .args(["-B", "-m", "auditwheel", "show", "--json"])
        .arg(wheel);
    audit.env("PYTHONPATH", tools);
    let found = session.capture(audit)?;
    let found: Value = serde_json::from_str(&found)
        .map_err(|error| format!("auditwheel's words can't be read: {error}: {found}"))?;
    if found["overall_tag"] != PLATFORM {
        return Err(format!(
            "{name} is not for {PLATFORM}, but for {}: newer functions belong into {GLIBC}; \
             auditwheel found\n{found:#}",
            found["overall_tag"]
        )
        .into());
    }
    Ok(())
}
