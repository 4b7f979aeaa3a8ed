//! The replay example as its users meet it: exit status, output and messages, on good files and on broken ones.

mod case;
mod refusals;
mod results;
mod scaled;
#[path = "../common/scratch.rs"]
mod scratch;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TOKENS: usize = 5;
const IN: usize = 24;
const OUT: usize = 17;
const RANK: usize = 3;

/// An empty folder that belongs to one test.
fn folder(test: &str) -> PathBuf {
    let folder = scratch::scratch().join("replay_cli").join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("case.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn fixture(name: &str) -> PathBuf {
    // Cargo runs tests in the package's folder.
    Path::new("tests/fixtures").join(name)
}

fn replay(case: &Path, arguments: &[&str]) -> Output {
    // Cargo builds tests into target/<profile>/deps and examples into target/<profile>/examples.
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join("replay");
    assert!(
        program.is_file(),
        "{} is missing: build it with `cargo build --example replay`",
        program.display()
    );
    Command::new(program).arg(case).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn assert_status(output: &Output, status: i32) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(status),
        "stdout:\n{}\nstderr:\n{stderr}",
        stdout(output)
    );
}

/// Exit status 2, and one line on stderr that holds all of `fragments`.
#[track_caller]
fn assert_refused(output: &Output, fragments: &[&str]) {
    assert_status(output, 2);
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(stderr.lines().count(), 1, "one line, not:\n{stderr}");
    for fragment in fragments {
        assert!(stderr.contains(fragment), "`{fragment}` is not in: {stderr}");
    }
}
