//! Splits PTX text into tokens, one at a time: nothing is kept, so memory stays bounded by the
//! text.

use super::ParseError;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name, a register, an opcode with its modifiers or one directive: `tile`, `%r1`,
    /// `ld.global.v4.f32`, `.reg`.
    Word,
    /// A literal that starts with a digit.
    Number,
    /// A quoted string; the token's text excludes the quotes.
    Text,
    /// A single punctuation byte.
    Mark(u8),
    /// The text is over.
    End,
}

/// A token, borrowed from the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub line: u32,
}

impl Token<'_> {
    /// How an error message names the token.
    pub fn describe(&self) -> String {
        const LONGEST: usize = 60;
        match self.kind {
            Kind::End => "the end of the text".to_owned(),
            _ if self.text.chars().count() > LONGEST => {
                let head: String = self.text.chars().take(LONGEST).collect();
                format!("`{head}...`")
            }
            _ => format!("`{}`", self.text),
        }
    }
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            line: 1,
        }
    }

    fn byte(&self, offset: usize) -> u8 {
        self.text
            .as_bytes()
            .get(self.at + offset)
            .copied()
            .unwrap_or(0)
    }

    fn error(&self, found: impl Into<String>, expected: &str) -> ParseError {
        ParseError {
            line: self.line,
            found: found.into(),
            expected: expected.to_owned(),
        }
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (b'\n', _) => {
                    self.line = self.line.saturating_add(1);
                    self.at += 1;
                }
                (b' ' | b'\t' | b'\r', _) => self.at += 1,
                (b'/', b'/') => {
                    let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
                    self.at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                }
                (b'/', b'*') => {
                    let rest = self.text.get(self.at + 2..).unwrap_or_default();
                    let Some(end) = rest.find("*/") else {
                        return Err(self.error("`/*`", "a closing `*/`"));
                    };
                    let lines = rest.bytes().take(end).filter(|&b| b == b'\n').count();
                    self.line = self
                        .line
                        .saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
                    self.at += end + 4;
                }
                _ => return Ok(()),
            }
        }
    }

    fn word_length(&self) -> usize {
        let directive = self.byte(0) == b'.';
        let mut length = 1;
        loop {
            match self.byte(length) {
                // `.reg.b32` is two directives: blanks between them are optional.
                b'.' if directive => return length,
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'$' | b'.' => length += 1,
                // `shared::cta` is one modifier; a single colon ends a label.
                b':' if self.byte(length + 1) == b':' => length += 2,
                _ => return length,
            }
        }
    }

    fn number_length(&self) -> usize {
        let hexadecimal = matches!(self.byte(1), b'x' | b'X' | b'f' | b'F' | b'd' | b'D');
        let mut length = 1;
        loop {
            match self.byte(length) {
                b'+' | b'-' if !hexadecimal && matches!(self.byte(length - 1), b'e' | b'E') => {
                    length += 1;
                }
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' => length += 1,
                _ => return length,
            }
        }
    }

    /// The next token; [`Kind::End`] for ever once the text is over.
    pub fn next(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_blanks()?;
        let line = self.line;
        let start = self.at;
        let (kind, length) = match self.byte(0) {
            0 if start >= self.text.len() => (Kind::End, 0),
            b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'$' | b'%' | b'.' => {
                (Kind::Word, self.word_length())
            }
            b'0'..=b'9' => (Kind::Number, self.number_length()),
            b'"' => {
                let rest = self.text.get(start + 1..).unwrap_or_default();
                let end = rest
                    .bytes()
                    .position(|b| b == b'"' || b == b'\n')
                    .unwrap_or(rest.len());
                if rest.as_bytes().get(end) != Some(&b'"') {
                    return Err(self.error(
                        "a string without an end",
                        "a closing quote on the same line",
                    ));
                }
                self.at = start + end + 2;
                let text = rest.get(..end).unwrap_or_default();
                return Ok(Token {
                    kind: Kind::Text,
                    text,
                    line,
                });
            }
            mark @ (b',' | b';' | b':' | b'{' | b'}' | b'(' | b')' | b'[' | b']' | b'<' | b'>'
            | b'+' | b'-' | b'*' | b'!' | b'~' | b'@' | b'|' | b'=') => (Kind::Mark(mark), 1),
            _ => {
                let found = self.text.get(start..).and_then(|rest| rest.chars().next());
                let found = found.map_or_else(
                    || "a byte inside a character".to_owned(),
                    |c| format!("{c:?}"),
                );
                return Err(self.error(found, "a PTX token"));
            }
        };
        self.at = start + length;
        let text = self.text.get(start..self.at).unwrap_or_default();
        Ok(Token { kind, text, line })
    }
}
