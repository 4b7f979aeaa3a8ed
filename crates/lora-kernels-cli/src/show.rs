//! Printing.

use std::cell::RefCell;
use std::io::Write;

use lora_kernels_adapters::shown::{escaped, is_plain};
use serde::Serialize;

use crate::failure::Failure;

/// Prints a text as one line to stdout. Names from files are in it: what a terminal would obey, or
/// not show, is escaped, newlines too.
pub fn line(text: &str) -> Result<(), Failure> {
    printed(&escaped(text))
}

/// Prints a text of several lines, as [`line`] prints each. Names in it must be escaped where they
/// may hold a newline, as [`table`] does.
pub fn lines(text: &str) -> Result<(), Failure> {
    text.split('\n').try_for_each(line)
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
    let mut stdout = std::io::stdout().lock();
    unless_closed(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// What printing gave: a closed pipe is no error.
pub fn unless_closed(printed: std::io::Result<()>) -> Result<(), Failure> {
    match printed {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Print(error)),
        _ => Ok(()),
    }
}

/// Prints a failure to stderr, as one line. If that can't be, the exit status still tells.
pub fn failure(failure: &Failure) {
    let _ = writeln!(
        std::io::stderr(),
        "error: {}",
        escaped(&failure.to_string())
    );
}

/// Prints a document to stdout as JSON.
pub fn json(document: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(document).map_err(|error| Failure::Print(error.into()))?;
    printed(&plain_json(&text))
}

/// The same document without characters that a terminal would obey or not show. JSON allows
/// escaping them in strings; between tokens, which a raw value keeps as they were, they are blanks.
fn plain_json(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let (mut in_string, mut is_escaped) = (false, false);
    for c in text.chars() {
        match c {
            '\n' if !in_string => plain.push(c),
            c if is_plain(c) => plain.push(c),
            _ if !in_string => plain.push(' '),
            c => {
                let units = c.encode_utf16(&mut [0; 2]).to_vec();
                plain.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
        in_string ^= c == '"' && !is_escaped;
        is_escaped = in_string && c == '\\' && !is_escaped;
    }
    plain
}

/// A table, whose cells are escaped, with columns as wide as their widest cell. The first is
/// aligned left, the others right.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<_>> = { rows.iter() }
        .map(|row| row.iter().map(|cell| escaped(cell)).collect())
        .collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_the_same_document_and_is_plain() {
        let raw = "{\r\n\t\"a\\\\\": \"\\\"\u{202e}\u{7f}\u{e0041}\\\\\",\t\"b\":\t[1,\r2]}";
        let plain = plain_json(raw);
        assert!(plain.chars().all(|c| is_plain(c) || c == '\n'), "{plain:?}");
        assert!(plain.contains("\\u202e\\u007f\\udb40\\udc41"), "{plain}");
        let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parsed(&plain), parsed(raw));
    }

    #[test]
    fn a_cell_is_one_line() {
        let table = table(&[vec!["a\nwarning: b".into(), "\u{1b}[2J".into()]]);
        assert_eq!(table, "a\\nwarning: b  \\u{1b}[2J");
        let ((), kept) = keeping(|| line("a\nb\u{202e}").unwrap());
        assert_eq!(kept, "a\\nb\\u{202e}\n");
    }
}
