//! Printing.

use std::cell::RefCell;
use std::io::Write;

use serde::Serialize;

use crate::failure::Failure;

/// Prints a text and a newline to stdout. Control characters are escaped, because names from files
/// may hold a terminal's control sequences.
pub fn line(text: &str) -> Result<(), Failure> {
    let text = escaped(text, |c| c.is_control() && c != '\n');
    printed(&text)
}

thread_local! {
    /// What this thread prints, if it is kept instead of printed.
    static KEPT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps what `work` prints on this thread, instead of printing it.
pub fn keeping<T>(work: impl FnOnce() -> T) -> (T, String) {
    KEPT.set(Some(String::new()));
    let result = work();
    (result, KEPT.take().unwrap_or_default())
}

/// A reader may close the pipe early. That changes neither the command's result nor its exit
/// status.
fn printed(text: &str) -> Result<(), Failure> {
    let is_kept = KEPT.with_borrow_mut(|kept| {
        kept.as_mut().map(|kept| {
            kept.push_str(text);
            kept.push('\n');
        })
    });
    if is_kept.is_some() {
        return Ok(());
    }
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Print(error)),
        _ => Ok(()),
    }
}

/// The text as one line: every control character is escaped.
pub fn one_line(text: &str) -> String {
    escaped(text, char::is_control)
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let escape = |c: char| {
        if is_escaped(c) {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// Prints a document to stdout as JSON.
pub fn json(document: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(document).map_err(|error| Failure::Print(error.into()))?;
    // serde_json leaves some control characters unescaped; JSON allows escaping them.
    let escape = |c: char| match c {
        c if c.is_control() && c != '\n' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    printed(&text.chars().map(escape).collect::<String>())
}

/// A table with columns as wide as their widest cell. The first is aligned left, the others right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells =
            row.iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `3 tensors`, `1 tensor`.
pub fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// The first few names of a list, and the number of the others.
pub fn few<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match names.len() {
        0..=4 => names.join(", "),
        more => format!("{} and {} more", names[..3].join(", "), more - 3),
    }
}

/// A number of bytes with a unit.
pub fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
