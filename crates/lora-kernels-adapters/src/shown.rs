//! Text from files, from names of files and from arguments, as messages show it. It may be long,
//! and hold what a terminal obeys instead of showing it.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

const LONGEST: usize = 120;

/// Whether a terminal shows this character as itself, in its place. Control characters, marks that
/// turn the direction of text, separators of lines, and characters that can't be seen are not.
/// Accents, which join the character before them, are.
pub fn is_plain(c: char) -> bool {
    match c {
        ' '..='~' => true,
        // What Unicode lets displays ignore, of the kinds that `escape_debug` leaves, and a blank.
        '\u{34f}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{ffa0}'
        | '\u{e0100}'..='\u{e01ef}' => false,
        c => {
            // At the beginning of a text, `escape_debug` would escape accents too.
            let mut text = [b'x'; 5];
            let length = 1 + c.encode_utf8(&mut text[1..]).len();
            let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
            text.escape_debug().nth(1) == Some(c)
        }
    }
}

/// The text with every character escaped, as Rust writes it, that [`is_plain`] doesn't allow.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return text.into();
    }
    let mut escaped = String::with_capacity(2 * text.len());
    for c in text.chars() {
        match is_plain(c) {
            true => escaped.push(c),
            false => escaped.extend(c.escape_default()),
        }
    }
    escaped.into()
}

/// Displays a path escaped.
pub(crate) struct EscapedPath<'a>(pub &'a Path);

impl fmt::Display for EscapedPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.0.to_string_lossy()))
    }
}

/// Displays text escaped, a backslash too, with the middle of a long text left out.
pub(crate) struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |f: &mut fmt::Formatter<'_>, text: &str| {
            text.chars().try_for_each(|c| match c {
                '\\' => f.write_str("\\\\"),
                c if is_plain(c) => write!(f, "{c}"),
                other => write!(f, "{}", other.escape_default()),
            })
        };
        if self.0.len() <= LONGEST {
            return escaped(f, self.0);
        }
        let half = LONGEST / 2;
        let head = (0..=half)
            .rev()
            .find(|&at| self.0.is_char_boundary(at))
            .unwrap_or(0);
        let tail = self.0.len() - half;
        let tail = (tail..=self.0.len())
            .find(|&at| self.0.is_char_boundary(at))
            .unwrap_or(self.0.len());
        escaped(f, &self.0[..head])?;
        f.write_str("...")?;
        escaped(f, &self.0[tail..])
    }
}

/// The text of [`Shown`].
pub(crate) fn shown(text: &str) -> String {
    Shown(text).to_string()
}

/// A shape as messages show it, shortened if a file gives it many dimensions.
pub(crate) fn shape(shape: &[usize]) -> String {
    shown(&format!("{:?}", &shape[..shape.len().min(16)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_or_hides_is_escaped() {
        let obeyed = [
            '\0',
            '\t',
            '\n',
            '\r',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{a0}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{2800}',
            '\u{3000}',
            '\u{3164}',
            '\u{e000}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{10ffff}',
        ];
        for c in obeyed {
            let text = format!("a{c}b");
            let expected = format!("a{}b", c.escape_default());
            assert_eq!(escaped(&text), expected);
            assert_eq!(shown(&text), expected);
        }
    }

    #[test]
    fn names_in_any_script_stay_readable() {
        for text in [
            "it's \"model\"/layers.0",
            "modèle",
            "mode\u{300}le",
            "模型",
            "मॉडल",
            "דגם",
            "🦀",
        ] {
            assert_eq!(escaped(text), text);
            assert_eq!(shown(text), text);
        }
        assert_eq!(escaped("a\\b"), "a\\b");
        assert_eq!(shown("a\\b"), "a\\\\b");
    }
}
