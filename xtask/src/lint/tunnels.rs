//! Checks that no path leaves its package. Packages share code by a crate.

use std::path::{Component, Path, PathBuf};

use super::{Finding, package_of};

const INCLUDES: [&str; 3] = ["include!(", "include_str!(", "include_bytes!("];

/// The lines that include modules or files from outside of the package.
pub fn findings(file: &Path, packages: &[PathBuf], text: &str) -> Vec<Finding> {
    if file.extension().is_none_or(|extension| extension != "rs") {
        return Vec::new();
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let package = package_of(packages, file).unwrap_or(Path::new(""));
    let modules = paths_of_modules(text).map(|(at, path)| (at, folder.join(path)));
    let includes = included(text).map(|(at, included)| match included {
        Included::FromFile(path) => (at, folder.join(path)),
        Included::FromPackage(path) => (at, package.join(path.trim_start_matches('/'))),
    });
    let mut found = Vec::new();
    for (at, path) in modules.chain(includes) {
        let inside = normal(&path).is_some_and(|path| package_of(packages, &path) == Some(package));
        if !inside && !is_in_comment(text, at) {
            found.push(Finding {
                line: text[..at].lines().count().max(1),
                what: format!(
                    "{} is outside of the package {}: share it by a crate",
                    path.display(),
                    package.join("Cargo.toml").display()
                ),
            });
        }
    }
    found
}

/// The literals of `#[path = "..."]`, also within cfg_attr.
fn paths_of_modules(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices("path").filter_map(|(at, name)| {
        let before = text[..at].trim_end();
        if !before.ends_with(['[', ',', '(']) {
            return None;
        }
        let value = text[at + name.len()..].trim_start().strip_prefix('=')?;
        // The line must contain the attribute's bracket.
        let line = before.rfind('\n').map_or(0, |end| end + 1);
        let is_attribute = text[line..at].contains("#[") || text[line..at].contains("#![");
        Some((at, literal(value)?)).filter(|_| is_attribute)
    })
}

enum Included<'a> {
    /// Relative to the file's folder.
    FromFile(&'a str),
    /// Relative to the package, like `concat!(env!("CARGO_MANIFEST_DIR"), "/...")`.
    FromPackage(&'a str),
}

fn included(text: &str) -> impl Iterator<Item = (usize, Included<'_>)> {
    let calls = INCLUDES.iter().flat_map(|name| text.match_indices(name));
    calls.filter_map(|(at, name)| {
        let argument = &text[at + name.len()..];
        if let Some(path) = literal(argument) {
            return Some((at, Included::FromFile(path)));
        }
        let parts = argument.trim_start().strip_prefix("concat!(")?.trim_start();
        let path = parts.strip_prefix("env!(\"CARGO_MANIFEST_DIR\")")?;
        let path = literal(path.trim_start().strip_prefix(',')?)?;
        Some((at, Included::FromPackage(path)))
    })
}

/// The string that a text begins with.
fn literal(text: &str) -> Option<&str> {
    let (path, _) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    Some(path)
}

/// The path without `.` and `..`; `None` if it leaves the checkout.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if !normal.pop() => return None,
            Component::ParentDir | Component::CurDir => {}
            other => normal.push(other),
        }
    }
    Some(normal)
}

fn is_in_comment(text: &str, at: usize) -> bool {
    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
    text[line..at].trim_start().starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    /// The lines with findings.
    fn lines(file: &str, text: &str) -> Vec<usize> {
        let packages = ["", "crates/a", "crates/b"].map(PathBuf::from);
        let found = findings(Path::new(file), &packages, text);
        found.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn modules_of_other_packages_are_found() {
        let outside = "//! A file.\n\n#[path = \"../../b/src/case.rs\"]\nmod case;\n";
        assert_eq!(lines("crates/a/src/lib.rs", outside), [3]);
        let far = "#[cfg_attr(test, path = \"../../../tests/common.rs\")]\nmod common;";
        assert_eq!(lines("crates/a/src/lib.rs", far), [1]);
        let beyond = "#[path = \"../../../../elsewhere.rs\"]\nmod elsewhere;";
        assert_eq!(lines("crates/a/src/lib.rs", beyond), [1]);
    }

    #[test]
    fn files_of_other_packages_are_found() {
        for call in [
            "include!(\"../../b/list.rs\")",
            "include_str!(\"../../../README.md\")",
            "include_bytes!(\n    \"../../b/image\")",
            "include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/../b/list\"))",
        ] {
            let text = format!("const A: &str =\n    {call};\n");
            assert_eq!(lines("crates/a/src/lib.rs", &text), [2], "{call}");
        }
        let documentation = "#![doc = include_str!(\"../../b/README.md\")]";
        assert_eq!(lines("crates/a/src/lib.rs", documentation), [1]);
    }

    #[test]
    fn the_packages_in_a_packages_folder_are_others() {
        let inner = "#[path = \"../crates/a/src/case.rs\"]\nmod case;";
        assert_eq!(lines("tests/peft.rs", inner), [1]);
    }

    #[test]
    fn what_stays_in_the_package_is_allowed() {
        for text in [
            "#[path = \"../common/mod.rs\"]\nmod common;",
            "#![doc = include_str!(\"../README.md\")]",
            "include!(concat!(env!(\"OUT_DIR\"), \"/images.rs\"));",
            "include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/tests/list\"))",
            "// include_str!(\"../../b/list\")",
            "let path = \"../../b/list\";",
        ] {
            assert_eq!(lines("crates/a/src/lib.rs", text), NONE, "{text}");
        }
        let documentation = "#![doc = include_str!(\"../docs/linking.md\")]";
        assert_eq!(lines("src/lib.rs", documentation), NONE);
    }
}
