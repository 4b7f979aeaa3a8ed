//! `cargo xtask lint`: rustfmt, clippy, rustdoc, clang-format and cargo-deny, and rules of this
//! repository that none of them checks.

mod clang_format;
mod deny;
mod directions;
mod links;
mod tunnels;
mod width;

use std::fs;
use std::path::{Path, PathBuf};

use crate::commands;
use crate::steps::{Failure, Session};

/// The variable that makes the build script treat nvcc's warnings as errors.
const STRICT: &str = "LORA_KERNELS_STRICT";

/// A line that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// Counted from 1.
    line: usize,
    what: String,
}

pub fn lint(session: &mut Session) -> Result<(), Failure> {
    rules(session.root())?;
    commands::setup(session)?;
    session.run(session.cargo("fmt --all -- --check"))?;
    let mut clippy = session.cargo("clippy --workspace --all-targets -- -D warnings");
    // Warnings of ptxas, such as spilled registers, fail the build of the kernels.
    clippy.env(STRICT, "1");
    session.run(clippy)?;
    let mut documentation = session.cargo("doc --workspace --no-deps");
    documentation
        .env(STRICT, "1")
        .env("RUSTDOCFLAGS", "-D warnings");
    session.run(documentation)?;
    clang_format::check(session)?;
    deny::check(session)
}

/// Checks the rules of this repository in all its files.
fn rules(root: &Path) -> Result<(), Failure> {
    let mut broken = Vec::new();
    let files = files(root)?;
    let packages = packages(&files);
    let published = published(root, &packages);
    for file in &files {
        let path = root.join(file);
        // Files that are not text are skipped.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let found = [
            width::findings(file, &text),
            tunnels::findings(file, &packages, &text),
            directions::findings(file, &text),
            links::findings(file, &published, &text),
        ];
        for Finding { line, what } in found.into_iter().flatten() {
            broken.push(format!("{}:{line}: {what}", file.display()));
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(format!(
        "rules of this repository are broken:\n  {}",
        broken.join("\n  ")
    )
    .into())
}

/// All files of the checkout that people write, as sorted relative paths.
fn files(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let failed = |error| format!("can't list {}: {error}", root.join(&folder).display());
        for entry in root.join(&folder).read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
            let hidden = name.to_string_lossy().starts_with('.');
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && !hidden && name != "target" && name != "__pycache__" {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The folders of all packages.
fn packages(files: &[PathBuf]) -> Vec<PathBuf> {
    let manifests = files.iter().filter(|file| file.ends_with("Cargo.toml"));
    manifests
        .filter_map(|file| Some(file.parent()?.to_owned()))
        .collect()
}

/// The packages that are published on crates.io.
fn published(root: &Path, packages: &[PathBuf]) -> Vec<PathBuf> {
    let is_published = |package: &&PathBuf| {
        let manifest = fs::read_to_string(root.join(package).join("Cargo.toml"));
        manifest.is_ok_and(|text| !text.lines().any(|line| line.trim() == "publish = false"))
    };
    packages.iter().filter(is_published).cloned().collect()
}

/// The folder of the innermost package that contains a path.
fn package_of<'a>(packages: &'a [PathBuf], path: &Path) -> Option<&'a Path> {
    let above = packages.iter().filter(|package| path.starts_with(package));
    let nearest = above.max_by_key(|package| package.components().count());
    nearest.map(PathBuf::as_path)
}

/// Whether a path is a folder or inside it.
fn is_below(file: &Path, folder: &str) -> bool {
    file.starts_with(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_the_nearest_package() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let packages = packages(&files(&root).unwrap());
        let package = |path: &str| package_of(&packages, Path::new(path));
        assert_eq!(package("xtask/src/lint/mod.rs"), Some(Path::new("xtask")));
        assert_eq!(package("src/plan/mod.rs"), Some(Path::new("")));
        assert_eq!(
            package("crates/ptx-emulator/src/lib.rs"),
            Some(Path::new("crates/ptx-emulator"))
        );
    }

    #[test]
    fn what_people_write_is_listed_and_what_is_built_is_not() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let files = files(&root).unwrap();
        assert!(files.contains(&PathBuf::from("xtask/src/lint/mod.rs")));
        assert!(
            !files
                .iter()
                .any(|file| is_below(file, "target") || is_below(file, ".git"))
        );
    }
}
