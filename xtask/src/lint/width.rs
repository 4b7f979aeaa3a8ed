//! Checks that comments and Markdown are wrapped at 100 columns, like code.

use std::path::Path;

use super::{Finding, is_below};

const COLUMNS: usize = 100;

/// Files that programs write.
const GENERATED: [&str; 2] = [
    "docs/report.md",
    "crates/lora-kernels-capi/include/lora_kernels.h",
];

/// The comment markers of this kind of file. There are none for Markdown, which is all text.
fn markers(file: &Path) -> Option<&'static [&'static str]> {
    let extension = file.extension()?.to_str()?;
    Some(match extension {
        "md" => &[],
        "rs" => &["//"],
        "c" | "cpp" | "cu" | "cuh" | "h" => &["//", "/*", "*"],
        "py" | "sh" | "toml" => &["#"],
        _ => return None,
    })
}

/// The lines that are too wide.
pub fn findings(file: &Path, text: &str) -> Vec<Finding> {
    let Some(markers) = markers(file) else {
        return Vec::new();
    };
    if GENERATED.iter().any(|generated| is_below(file, generated)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut in_fence = false;
    for (number, line) in text.lines().enumerate() {
        let words = match markers
            .iter()
            .find(|marker| line.trim_start().starts_with(**marker))
        {
            Some(marker) => line
                .trim_start()
                .trim_start_matches(marker.chars().next().unwrap_or(' ')),
            None if markers.is_empty() => line,
            None => continue,
        };
        let words = words.trim_start_matches(['/', '!', '*', ' ']);
        // Code and its output may have any width.
        if words.starts_with("```") {
            in_fence = !in_fence;
        }
        let columns = line.chars().count();
        if columns > COLUMNS && !in_fence && !is_table(words) && can_be_wrapped(line, words) {
            found.push(Finding {
                line: number + 1,
                what: format!("{columns} columns of a comment or text, wrap it at {COLUMNS}"),
            });
        }
    }
    found
}

fn is_table(words: &str) -> bool {
    words.starts_with('|')
}

/// Whether the line can be broken before the last column. A long link can't.
fn can_be_wrapped(line: &str, words: &str) -> bool {
    let indent = line.chars().count() - words.chars().count();
    let fits = words.chars().take((COLUMNS + 1).saturating_sub(indent));
    let fits: String = fits.collect();
    // A list marker is no place to break after.
    let text = fits.trim_start_matches(['-', ' ']);
    text.contains(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn lines(file: &str, text: &str) -> Vec<usize> {
        let found = findings(Path::new(file), text);
        found.into_iter().map(|finding| finding.line).collect()
    }

    fn wide() -> String {
        "word ".repeat(25)
    }

    #[test]
    fn wide_comments_are_found_in_every_language() {
        for (file, marker) in [
            ("src/lib.rs", "//"),
            ("src/lib.rs", "    /// "),
            ("kernels/gemm.cuh", "// "),
            ("include/a.h", " * "),
            ("python/a.py", "# "),
            ("run.sh", "# "),
            ("Cargo.toml", "# "),
            ("README.md", ""),
            ("README.md", "- "),
        ] {
            let text = format!("{marker}short\n{marker}{}\n", wide());
            assert_eq!(lines(file, &text), [2], "{file} {marker}");
        }
    }

    #[test]
    fn a_hundred_columns_are_allowed_and_columns_are_characters() {
        let hundred = format!("// {} {}", "µ".repeat(48), "µ".repeat(48));
        assert_eq!(hundred.chars().count(), 100);
        assert_eq!(lines("src/lib.rs", &hundred), NONE);
        assert_eq!(lines("src/lib.rs", &format!("{hundred}µ")), [1]);
    }

    #[test]
    fn what_can_not_be_wrapped_may_be_wide() {
        let link = format!("<https://example.org/{}>", "a".repeat(100));
        let table = format!("| {} |", wide());
        assert_eq!(lines("README.md", &link), NONE);
        assert_eq!(lines("README.md", &format!("- {link}")), NONE);
        assert_eq!(lines("README.md", &table), NONE);
        assert_eq!(lines("src/lib.rs", &format!("/// {table}")), NONE);
        assert_eq!(
            lines(
                "README.md",
                &format!("```text\n{}\n```\n{}", wide(), wide())
            ),
            [4]
        );
        assert_eq!(lines("docs/report.md", &wide()), NONE);
    }

    #[test]
    fn code_is_left_to_its_formatter() {
        let code = format!("let text = \"{}\";", wide());
        assert_eq!(lines("src/lib.rs", &code), NONE);
        assert_eq!(lines("tests/a.snap", &wide()), NONE);
    }
}
