//! Hostile calls: as they are, under AddressSanitizer, and, where nightly Rust is installed, with
//! the library instrumented too, so that it sees what the library itself reads and writes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{C, Linked, compile, folders, here, link, run_with, sanitized_c, succeed};

/// A copy of the shared library that the loader takes for another one.
fn another_copy() -> PathBuf {
    let copy = folders().out.join("another/liblora_kernels.so");
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    std::fs::copy(folders().libraries.join("liblora_kernels.so"), &copy).unwrap();
    copy
}

fn run_hostile(linked: Linked<'_>, flags: &[&str], copy: &Path) {
    let source = here("tests/c/hostile.c");
    let program = compile("gcc", &source, linked, flags, &["-lcuda", "-ldl"]);
    run_with(&program, folders().driver.as_deref(), &[copy]);
}

/// The static library of an instrumented build, in a folder of its own; none without nightly Rust.
fn instrumented() -> Option<PathBuf> {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", "nightly", "rustc", "--verbose", "--version"]);
    let version = rustc
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))?;

    let target = folders().out.join("instrumented");
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "nightly", "cargo", "rustc", "--quiet", "--locked"]);
    cargo.args([
        "--package",
        "lora-kernels-capi",
        "--lib",
        "--crate-type",
        "staticlib",
    ]);
    // Build scripts and macros run in the compiler, which isn't instrumented: a target leaves them
    // out. Compiling fast is worth more here than running fast.
    cargo.args(["--config", "profile.dev.opt-level=0", "--target", host]);
    cargo.arg("--target-dir").arg(&target);
    cargo.current_dir(here(""));
    cargo.env("RUSTFLAGS", "-Zsanitizer=address");
    for variable in ["CARGO", "RUSTC", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(variable);
    }
    succeed(cargo);
    let built = target.join(host).join("debug/liblora_kernels_capi.a");
    link(&built, &target.join("lib/liblora_kernels.a"));
    Some(target.join("lib"))
}

#[test]
fn hostile_calls_are_refused_or_work_and_write_nowhere_else() {
    let copy = another_copy();
    run_hostile(Linked::Shared, &C, &copy);
    run_hostile(Linked::Static, &sanitized_c(), &copy);
    match instrumented() {
        Some(folder) => run_hostile(Linked::StaticIn(&folder), &sanitized_c(), &copy),
        None => eprintln!("without nightly Rust, the library was not instrumented"),
    }
}
