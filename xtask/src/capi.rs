//! The C ABI for other programs: libraries, header and pkg-config file in one folder.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::client;
use crate::commands;
use crate::steps::{Failure, Session};

/// Cargo's name of the library: two packages can't both build a liblora_kernels.
const BUILT: &str = "liblora_kernels_capi";
const SHARED: &str = "liblora_kernels.so";
/// The name that programs look for at run time, set by the crate's build.rs.
const SONAME: &str = concat!(
    "liblora_kernels.so.",
    env!("CARGO_PKG_VERSION_MAJOR"),
    ".",
    env!("CARGO_PKG_VERSION_MINOR")
);
const STATIC: &str = "liblora_kernels.a";
const HEADER: &str = "crates/lora-kernels-capi/include/lora_kernels.h";

/// Builds the libraries and fills `prefix`, by default a folder in the target folder.
pub fn capi(session: &mut Session, prefix: Option<PathBuf>) -> Result<(), Failure> {
    commands::setup(session)?;
    let target = session.target();
    let mut cargo = session.cargo("build --release --package lora-kernels-capi --target-dir");
    cargo.arg(&target);
    session.run(cargo)?;

    let prefix = std::path::absolute(prefix.unwrap_or_else(|| target.join("capi")))
        .map_err(|error| format!("no such folder: {error}"))?;
    let library = |suffix: &str| target.join("release").join(BUILT).with_extension(suffix);
    put(&library("so"), &prefix.join("lib").join(SONAME))?;
    put_link(SONAME, &prefix.join("lib").join(SHARED))?;
    put(&library("a"), &prefix.join("lib").join(STATIC))?;
    put(
        &session.root().join(HEADER),
        &prefix.join("include/lora_kernels.h"),
    )?;
    let description = prefix.join("lib/pkgconfig/lora_kernels.pc");
    make_parent(&description)?;
    fs::write(&description, PKG_CONFIG)
        .map_err(|error| format!("can't write {}: {error}", description.display()))?;
    session.summarise();
    writeln!(std::io::stdout(), "{}", prefix.display())
        .map_err(|error| format!("can't print the path: {error}"))?;
    Ok(())
}

fn make_parent(file: &Path) -> Result<(), Failure> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder)
        .map_err(|error| format!("can't make {}: {error}", folder.display()).into())
}

fn put(from: &Path, to: &Path) -> Result<(), Failure> {
    make_parent(to)?;
    // A program may have the old file open. It keeps a removed file, but an overwritten one would
    // change under it.
    let _ = fs::remove_file(to);
    let copied = fs::copy(from, to).map(|_| ());
    copied.map_err(|error| {
        format!("can't copy {} to {}: {error}", from.display(), to.display()).into()
    })
}

/// Links to a file in the same folder, so that the folder can be moved.
fn put_link(to: &str, at: &Path) -> Result<(), Failure> {
    let _ = fs::remove_file(at);
    client::make_link(Path::new(to), at)
        .map_err(|error| format!("can't link {} to {to}: {error}", at.display()).into())
}

/// Paths are relative to this file, so that the folder can be moved. The last line lists what
/// Rust's standard library needs when it is linked statically (`rustc --print native-static-libs`).
const PKG_CONFIG: &str = concat!(
    "prefix=${pcfiledir}/../..\n\n",
    "Name: lora_kernels\n",
    "Description: CUDA kernels for linear layers with low-rank adapters (LoRA)\n",
    "Version: ",
    env!("CARGO_PKG_VERSION"),
    "\n",
    "Cflags: -I${prefix}/include\n",
    "Libs: -L${prefix}/lib -llora_kernels\n",
    "Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl\n",
);
