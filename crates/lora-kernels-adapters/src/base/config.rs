//! A model's config.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::links::Home;
use crate::shown::shown;
use crate::{Error, Result};

/// The largest config of a model that is read, in bytes.
pub const LARGEST_CONFIG: u64 = 16 << 20;

/// Reads a model's `config.json`. Python writes infinities and NaN into it, which JSON lacks
/// (`"time_step_limit": [0.0, Infinity]` of Mamba 2); they become null.
pub(super) fn read(home: &Home, path: &Path) -> Result<Value> {
    let text = home.read_text(path, LARGEST_CONFIG)?;
    serde_json::from_str(&without_infinities(&text)).map_err(|error| Error::Json {
        path: path.into(),
        reason: shown(&error.to_string()),
    })
}

/// JSON with null in place of Python's `NaN`, `Infinity` and `-Infinity`.
fn without_infinities(text: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !WORDS.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let mut result = String::with_capacity(text.len());
    let (mut in_string, mut rest) = (false, text);
    while let Some(next) = rest.chars().next() {
        let word = WORDS.iter().find(|word| rest.starts_with(**word));
        let taken = match word.filter(|_| !in_string) {
            Some(word) => {
                result.push_str("null");
                word.len()
            }
            None => {
                in_string ^= next == '"';
                let characters = if in_string && next == '\\' { 2 } else { 1 };
                let bytes = rest.chars().take(characters).map(char::len_utf8).sum();
                result.push_str(&rest[..bytes]);
                bytes
            }
        };
        rest = &rest[taken..];
    }
    Cow::Owned(result)
}

#[cfg(test)]
mod tests {
    use super::without_infinities;

    #[test]
    fn infinities_outside_of_strings_are_null() {
        let text =
            r#"{"a": [0.0, Infinity], "b": -Infinity, "c": [NaN,NaN], "d": "NaN \" Infinity"}"#;
        let value: serde_json::Value = serde_json::from_str(&without_infinities(text)).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "a": [0.0, null],
                "b": null,
                "c": [null, null],
                "d": "NaN \" Infinity",
            })
        );
    }
}
