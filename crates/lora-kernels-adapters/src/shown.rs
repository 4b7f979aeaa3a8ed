//! Text from files as messages show it. A hostile file's text may be long or hold terminal control
//! sequences.

use std::fmt;

const LONGEST: usize = 120;

/// Displays text escaped, with the middle of a long text left out.
pub(crate) struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |f: &mut fmt::Formatter<'_>, text: &str| {
            // `escape_debug` would escape quotes too; messages show them unescaped.
            text.chars().try_for_each(|c| match c {
                '\'' | '"' => write!(f, "{c}"),
                other => write!(f, "{}", other.escape_debug()),
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
