//! Checks that a README that crates.io and docs.rs show has no relative links, which lead nowhere
//! there.

use std::path::{Path, PathBuf};

use super::Finding;

/// The lines with links to files, in the README of a published package.
pub fn findings(file: &Path, published: &[PathBuf], text: &str) -> Vec<Finding> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let is_shown = file.file_name().is_some_and(|name| name == "README.md")
        && published.iter().any(|package| package == folder);
    if !is_shown {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for target in targets(line).filter(|target| !works_anywhere(target)) {
            found.push(Finding {
                line: number + 1,
                what: format!(
                    "crates.io and docs.rs can't follow the link to {target}: link to docs.rs, or name it in backticks"
                ),
            });
        }
    }
    found
}

/// The targets of `[text](target)` and `[text]: target`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let inline = line.split("](").skip(1).filter_map(|rest| {
        let (target, _) = rest.split_once(')')?;
        target.split_whitespace().next()
    });
    let definition = line.strip_prefix('[').and_then(|rest| {
        let (_, target) = rest.split_once("]: ")?;
        target.split_whitespace().next()
    });
    inline.chain(definition)
}

/// Whether a target is an address, a place on the page, or an item of the crate, which rustdoc
/// resolves.
fn works_anywhere(target: &str) -> bool {
    target.contains("://") || target.starts_with(['#', '<']) || target.contains("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, text: &str) -> Vec<usize> {
        let found = findings(Path::new(file), &[PathBuf::from("crates/a")], text);
        found.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn links_to_files_are_found() {
        let text = "a [guide](docs/README.md)\n\n[other]: ../b/README.md\nand [c](https://docs.rs/c), [d](d.md)\n";
        assert_eq!(lines("crates/a/README.md", text), [1, 3, 4]);
    }

    #[test]
    fn links_that_work_anywhere_are_left() {
        let text = "[a](https://docs.rs/a) [b](#b) [c](crate::C)\n[d]: http://example.org/d\n";
        assert_eq!(lines("crates/a/README.md", text), [0; 0]);
    }

    #[test]
    fn pages_of_the_repository_may_link_to_files() {
        let text = "a [guide](docs/README.md)\n";
        assert_eq!(lines("docs/README.md", text), [0; 0]);
        assert_eq!(lines("crates/b/README.md", text), [0; 0]);
    }
}
