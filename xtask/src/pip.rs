//! Installs Python packages from PyPI, each list into a folder of its own. No Python environment is
//! changed, so this also works with one that the system manages.
//!
//! A list names everything that is installed, with its version and the hashes of its files: whoever
//! answers for the index, nothing else comes in. `xtask/pin.py` writes the hashes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::steps::{Failure, Session};

/// The arguments of pip for a list: the files whose hashes it has, and nothing that they ask for.
const PINNED: [&str; 4] = ["--require-hashes", "--no-deps", "--only-binary", ":all:"];

/// Installs the packages of a list in the checkout into a folder, unless it holds them already.
pub fn ensure(session: &mut Session, list: &str, folder: &Path) -> Result<(), Failure> {
    let path = session.root().join(list);
    let pinned = fs::read_to_string(&path)
        .map_err(|error| format!("can't read {}: {error}", path.display()))?;
    let stamp = folder.join("requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| are_same(&installed, &pinned)) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder)
            .map_err(|error| format!("can't empty {}: {error}", folder.display()))?;
    }
    install(session, list, folder)?;
    fs::write(&stamp, pinned)
        .map_err(|error| format!("can't write {}: {error}", stamp.display()).into())
}

/// Whether two lists have the same packages in the same versions.
pub fn are_same(list: &str, other: &str) -> bool {
    packages(list).eq(packages(other))
}

/// The packages of a list: name, version and marker.
fn packages(list: &str) -> impl Iterator<Item = &str> {
    let lines = list.lines().map(|line| line.trim_end_matches('\\').trim());
    lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '-']))
}

/// Installs the packages of a list in the checkout into a folder.
pub fn install(session: &mut Session, list: &str, folder: &Path) -> Result<(), Failure> {
    check(list)?;
    let mut pip = pip(Path::new(list), folder);
    pip.current_dir(session.root());
    session.run(pip).map_err(|failure| Failure {
        message: format!(
            "{failure}\npip could not install the packages of {list} (its own words are above): they need PyPI or a \
             mirror of it that has the same files, and Python 3.11 to 3.14 (of python/tests without PyTorch, also \
             3.10) on x86_64 or aarch64"
        ),
        ..failure
    })
}

/// pip, to install the packages of a list into a folder.
fn pip(list: &Path, folder: &Path) -> Command {
    let mut pip = into(folder);
    pip.args(PINNED).arg("-r").arg(list);
    pip
}

/// pip, to install into a folder.
fn into(folder: &Path) -> Command {
    let mut pip = Command::new("python3");
    pip.args(
        "-m pip install --quiet --disable-pip-version-check --no-input --no-compile".split(' '),
    );
    pip.arg("--target").arg(folder);
    pip.envs([("PIP_USER", "0"), ("PIP_ROOT_USER_ACTION", "ignore")]);
    pip
}

/// Installs a wheel that was made here into a folder, and nothing that it asks for.
pub fn install_file(session: &mut Session, wheel: &Path, folder: &Path) -> Result<(), Failure> {
    let mut pip = into(folder);
    pip.args(["--no-index", "--no-deps"]).arg(wheel);
    session.run(pip)
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Files below the root that pip could be given.
    fn lists(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in folder.read_dir().unwrap() {
            let (path, name) = entry
                .map(|entry| (entry.path(), entry.file_name()))
                .unwrap();
            let name = name.to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                lists(&path, found);
            } else if path.is_file()
                && (name.starts_with("requirements") || name == "toolchain.txt")
            {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_package_that_is_installed_has_a_version_and_hashes() {
        let mut found = Vec::new();
        lists(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
            &mut found,
        );
        assert!(found.len() >= 9, "{found:?}");
        for list in found {
            let text = fs::read_to_string(&list).unwrap();
            let joined = text.replace("\\\n", " ");
            let requirements: Vec<&str> = joined
                .lines()
                .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
                .collect();
            assert!(!requirements.is_empty(), "{}", list.display());
            for requirement in requirements {
                let mut hashes = requirement.split("--hash=sha256:");
                let named = hashes.next().unwrap();
                let hashes: Vec<&str> = hashes.map(str::trim).collect();
                assert!(named.contains("=="), "{}: {requirement}", list.display());
                assert!(!hashes.is_empty(), "{}: {requirement}", list.display());
                for hash in hashes {
                    let is_hexadecimal = hash.bytes().all(|byte| byte.is_ascii_hexdigit());
                    assert!(hash.len() == 64 && is_hexadecimal, "{requirement}");
                }
            }
        }
    }

    /// Writes a wheel without anything in it but its name, and prints its hash.
    const WHEEL: &str = "import hashlib, sys, zipfile
path = sys.argv[1] + '/one-1.0-py3-none-any.whl'
with zipfile.ZipFile(path, 'w') as wheel:
    wheel.writestr('one.py', '')
    wheel.writestr('one-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: one\\nVersion: 1.0\\n')
    tags = 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'
    wheel.writestr('one-1.0.dist-info/WHEEL', tags)
    wheel.writestr('one-1.0.dist-info/RECORD', '')
print(hashlib.sha256(open(path, 'rb').read()).hexdigest())";

    #[test]
    fn nothing_is_installed_but_files_of_a_known_hash() {
        let place = std::env::temp_dir().join(format!("xtask-pip-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        let made = Command::new("python3")
            .args(["-c", WHEEL])
            .arg(&place)
            .output()
            .unwrap();
        let hash = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let other = "0".repeat(64);
        for (name, line, is_taken) in [
            ("right", format!("one==1.0 --hash=sha256:{hash}"), true),
            ("wrong", format!("one==1.0 --hash=sha256:{other}"), false),
            ("none", "one==1.0".to_owned(), false),
        ] {
            let (list, folder) = (place.join(format!("{name}.txt")), place.join(name));
            fs::write(&list, line).unwrap();
            let mut pip = pip(&list, &folder);
            pip.env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", &place);
            let output = pip.output().unwrap();
            let printed = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), is_taken, "{name}: {printed}");
            assert_eq!(folder.join("one.py").exists(), is_taken, "{name}");
        }
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn hashes_and_comments_make_no_other_list() {
        let plain = "# Two.\none==1.0\ntwo==2.0; python_version < \"3.11\"\n";
        let hashed = "one==1.0 \\\n    --hash=sha256:00\n\
                      two==2.0; python_version < \"3.11\" \\\n    --hash=sha256:01\n";
        assert!(are_same(plain, hashed));
        assert!(!are_same(plain, &hashed.replace("1.0", "1.1")));
        assert!(!are_same(plain, "one==1.0\n"));
    }
}
