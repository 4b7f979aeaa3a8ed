//! Starts the program under test on the device that the tests run on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lora_kernels_test_device::{Selection, select};

/// Where tests write: cargo's folder for that, or, where this runs far from where it was built, the
/// machine's folder for temporary files.
fn scratch() -> PathBuf {
    let cargo = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if cargo.is_dir() {
        cargo.to_owned()
    } else {
        std::env::temp_dir().join("lora-kernels-tests")
    }
}

/// An empty folder that belongs to one test.
pub fn folder(program: &str, test: &str) -> PathBuf {
    let folder = scratch().join(program).join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Whether tests run on the emulated GPU.
pub fn emulated() -> bool {
    matches!(
        select().expect("a device, real or emulated"),
        Selection::Emulated { .. }
    )
}

/// The program under test. It looks for libcuda as any program does; if tests run emulated, it
/// finds the emulated driver.
pub fn lora_kernels() -> Command {
    // Cargo puts tests into target/<profile>/deps and programs into target/<profile>.
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("lora-kernels");
    assert!(
        program.is_file(),
        "{} is missing: build it with `cargo build --package lora-kernels-cli`",
        program.display()
    );
    let mut command = Command::new(program);
    if let Selection::Emulated { path } = select().expect("a device, real or emulated")
        && path.is_absolute()
    {
        command.env("LD_LIBRARY_PATH", named(&path));
    }
    command
}

/// The program under test, on a machine without a driver.
pub fn without_driver() -> Command {
    let mut command = lora_kernels();
    let empty = scratch().join("no-driver");
    std::fs::create_dir_all(&empty).unwrap();
    command.env("LD_LIBRARY_PATH", empty);
    command
}

/// A folder in which the emulated driver has the names that programs look for.
fn named(library: &Path) -> PathBuf {
    let folder = scratch().join("driver");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = folder.join(name);
        if std::fs::read_link(&link).is_ok_and(|to| to == library) {
            continue;
        }
        // Test programs run in parallel, so the link is replaced atomically.
        let new = folder.join(format!(
            "{name}.{}.{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::os::unix::fs::symlink(library, &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
    }
    folder
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
pub fn assert_status(output: &Output, status: i32) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(status),
        "stdout:\n{}\nstderr:\n{stderr}",
        stdout(output)
    );
}

/// Asserts this exit status, and one line on stderr that contains all of `fragments`.
#[track_caller]
pub fn assert_refused(output: &Output, status: i32, fragments: &[&str]) {
    assert_status(output, status);
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(stderr.lines().count(), 1, "one line, not:\n{stderr}");
    for fragment in fragments {
        assert!(
            stderr.contains(fragment),
            "`{fragment}` is not in: {stderr}"
        );
    }
}
