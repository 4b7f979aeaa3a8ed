//! Checks the format of CUDA sources, if the clang-format that formatted them is installed.

use std::path::PathBuf;
use std::process::Command;

use super::files;
use crate::steps::{Failure, Session};

/// Other versions differ in details.
const VERSION: &str = "version 19.";

/// Its names in distributions. PyPI's package uses the second.
const NAMES: [&str; 2] = ["clang-format-19", "clang-format"];

/// Finds the program in PyPI's package, if that is installed and its scripts are not on PATH.
const FROM_PYPI: &str = "import clang_format, os; \
    print(os.path.join(os.path.dirname(clang_format.__file__), 'data', 'bin', 'clang-format'))";

pub fn check(session: &mut Session) -> Result<(), Failure> {
    let Some(program) = find() else {
        eprintln!(
            "\nthe format of CUDA sources was not checked: that takes clang-format {VERSION}x (python3 -m pip install \
             'clang-format==19.*')"
        );
        return Ok(());
    };
    let is_cuda = |file: &PathBuf| {
        file.extension()
            .is_some_and(|extension| extension == "cu" || extension == "cuh")
            && file.components().any(|part| part.as_os_str() == "kernels")
    };
    let sources = files(session.root())?.into_iter().filter(is_cuda);
    let mut clang_format = Command::new(program);
    clang_format
        .args(["--dry-run", "-Werror"])
        .args(sources)
        .current_dir(session.root());
    session.run(clang_format)
}

fn find() -> Option<PathBuf> {
    let mut python = Command::new("python3");
    let packaged = python.args(["-c", FROM_PYPI]).output().ok();
    let packaged = packaged
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let mut candidates = NAMES.map(PathBuf::from).into_iter().chain(packaged);
    candidates.find(|program| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION))
    })
}
