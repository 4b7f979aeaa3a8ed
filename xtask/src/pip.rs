//! Installs Python packages from PyPI, each list into a folder of its own. No Python environment is
//! changed, so this also works with one that the system manages.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::steps::{Failure, Session};

/// Whether a list includes the dependencies of its packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The list names all dependencies.
    Listed,
    /// pip resolves the dependencies.
    Found,
}

/// Installs the packages of a list in the checkout into a folder, unless it holds them already.
pub fn ensure(
    session: &mut Session,
    list: &str,
    folder: &Path,
    needs: Needs,
) -> Result<(), Failure> {
    let path = session.root().join(list);
    let pinned = fs::read_to_string(&path)
        .map_err(|error| format!("can't read {}: {error}", path.display()))?;
    let stamp = folder.join("requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == pinned) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder)
            .map_err(|error| format!("can't empty {}: {error}", folder.display()))?;
    }
    install(session, list, folder, needs)?;
    fs::write(&stamp, pinned)
        .map_err(|error| format!("can't write {}: {error}", stamp.display()).into())
}

/// Installs the packages of a list in the checkout into a folder.
pub fn install(
    session: &mut Session,
    list: &str,
    folder: &Path,
    needs: Needs,
) -> Result<(), Failure> {
    check(list)?;
    let mut pip = Command::new("python3");
    pip.args(
        "-m pip install --quiet --disable-pip-version-check --no-input --no-compile".split(' '),
    );
    if needs == Needs::Listed {
        pip.arg("--no-deps");
    }
    pip.args(["--only-binary", ":all:", "-r", list, "--target"])
        .arg(folder);
    pip.envs([("PIP_USER", "0"), ("PIP_ROOT_USER_ACTION", "ignore")])
        .current_dir(session.root());
    session.run(pip).map_err(|failure| Failure {
        message: format!(
            "{failure}\npip could not install the packages of {list} (its own words are above): they need PyPI or a \
             mirror of it, and Python 3.10 to 3.13 on x86_64 or aarch64"
        ),
        ..failure
    })
}

/// Checks that python3 and pip work, and says what is missing.
fn check(list: &str) -> Result<(), Failure> {
    if !runs("python3", &["--version"]) {
        return Err(format!(
            "python3 is missing, whose pip installs the packages of {list}: install python3 and pip (Debian, Ubuntu: \
             apt install python3-pip)"
        )
        .into());
    }
    if !runs("python3", &["-m", "pip", "--version"]) {
        return Err(format!(
            "python3 has no pip, which installs the packages of {list}: install it (Debian, Ubuntu: apt install \
             python3-pip; elsewhere: python3 -m ensurepip)"
        )
        .into());
    }
    Ok(())
}

/// Whether a program exits without an error.
pub fn runs(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}
