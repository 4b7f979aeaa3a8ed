//! JSON that is read from a file piece by piece.

use crate::{Error, Result};

/// Bytes of the file that are in memory at a time.
const PIECE: usize = 1 << 16;
/// The most arrays and objects in each other.
const DEEPEST: usize = 128;

/// Why reading stopped.
pub(super) enum Fault {
    Unread(Error),
    /// A sentence about the header that begins with "it" or "its".
    Invalid(String),
}

pub(super) type Step<T> = std::result::Result<T, Fault>;

/// JSON in a range of a file.
pub(super) struct Json<R> {
    /// Fills a buffer from an offset of the file on.
    read: R,
    buffer: Vec<u8>,
    /// The place of the next byte in the buffer.
    next: usize,
    /// The offset of the buffer's end in the file.
    at: usize,
    begin: usize,
    end: usize,
}

impl<R: Fn(&mut [u8], usize) -> Result<()>> Json<R> {
    pub fn new(read: R, bytes: std::ops::Range<usize>) -> Self {
        Self {
            read,
            buffer: Vec::with_capacity(PIECE.min(bytes.len())),
            next: 0,
            at: bytes.start,
            begin: bytes.start,
            end: bytes.end,
        }
    }

    /// An error that names the place of the next byte.
    pub fn wrong<T>(&self, what: impl std::fmt::Display) -> Step<T> {
        let at = self.at - (self.buffer.len() - self.next) - self.begin;
        Err(Fault::Invalid(format!(
            "its header is not the JSON it should be: {what} at byte {at}"
        )))
    }

    /// The bytes that are in memory, which are none at the end only.
    fn rest(&mut self) -> Step<&[u8]> {
        if self.next == self.buffer.len() {
            self.next = 0;
            self.buffer.resize(PIECE.min(self.end - self.at), 0);
            (self.read)(&mut self.buffer, self.at).map_err(Fault::Unread)?;
            self.at += self.buffer.len();
        }
        Ok(&self.buffer[self.next..])
    }

    fn peek(&mut self) -> Step<Option<u8>> {
        Ok(self.rest()?.first().copied())
    }

    fn take(&mut self) -> Step<Option<u8>> {
        let byte = self.peek()?;
        self.next += usize::from(byte.is_some());
        Ok(byte)
    }

    /// The next byte that isn't white space, which stays.
    fn token(&mut self) -> Step<Option<u8>> {
        loop {
            match self.peek()? {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.next += 1,
                byte => return Ok(byte),
            }
        }
    }

    /// Takes this token if it comes next.
    fn takes(&mut self, token: u8) -> Step<bool> {
        let comes = self.token()? == Some(token);
        self.next += usize::from(comes);
        Ok(comes)
    }

    fn expect(&mut self, token: u8) -> Step<()> {
        match self.takes(token)? {
            true => Ok(()),
            false => self.wrong(format_args!("{} is missing", char::from(token))),
        }
    }

    /// Checks that nothing follows.
    pub fn finish(&mut self) -> Step<()> {
        match self.token()? {
            None => Ok(()),
            Some(_) => self.wrong("more than one value"),
        }
    }

    /// Reads `null` if it comes next.
    pub fn is_null(&mut self) -> Step<bool> {
        match self.token()? {
            Some(b'n') => self.word("null").map(|()| true),
            _ => Ok(false),
        }
    }

    /// Reads an object. `entry` reads each key, a colon by [`Json::colon`], and the value.
    pub fn object(&mut self, entry: impl FnMut(&mut Self) -> Step<()>) -> Step<()> {
        self.list(b'{', b'}', entry)
    }

    pub fn colon(&mut self) -> Step<()> {
        self.expect(b':')
    }

    /// Reads an array. `element` reads each of its values.
    pub fn array(&mut self, element: impl FnMut(&mut Self) -> Step<()>) -> Step<()> {
        self.list(b'[', b']', element)
    }

    /// Reads items with commas between them.
    fn list(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Step<()>,
    ) -> Step<()> {
        self.expect(open)?;
        if self.takes(close)? {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.takes(close)? {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    /// Reads a whole number that is not negative.
    pub fn number(&mut self) -> Step<usize> {
        let mut number = match self.token()? {
            Some(digit @ b'0'..=b'9') => usize::from(digit - b'0'),
            _ => return self.wrong("a whole number from 0 on is missing"),
        };
        self.next += 1;
        while let Some(digit @ b'0'..=b'9') = self.peek()? {
            let more = |number: usize| number.checked_mul(10)?.checked_add((digit - b'0').into());
            number = match more(number) {
                Some(more) if number != 0 => more,
                Some(_) => return self.wrong("a number begins with 0"),
                None => return self.wrong("a number has more than 64 bits"),
            };
            self.next += 1;
        }
        Ok(number)
    }

    /// Reads a string. `part` is given its bytes, without escapes, in parts that may end inside of
    /// a character. The caller checks that they are UTF-8.
    pub fn string(&mut self, mut part: impl FnMut(&[u8])) -> Step<()> {
        if !self.takes(b'"')? {
            return self.wrong("a string is missing");
        }
        loop {
            let rest = self.rest()?;
            let plain = { rest.iter() }.position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            let (bytes, special) = match plain {
                Some(at) => (at, Some(rest[at])),
                None => (rest.len(), None),
            };
            part(&rest[..bytes]);
            let is_end = rest.is_empty();
            self.next += bytes;
            match special {
                Some(b'"') => {
                    self.next += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.next += 1;
                    self.escape(&mut part)?;
                }
                Some(_) => return self.wrong("a string holds a control character"),
                None if is_end => return self.wrong("a string doesn't end"),
                None => {}
            }
        }
    }

    fn escape(&mut self, part: &mut impl FnMut(&[u8])) -> Step<()> {
        let byte = match self.take()? {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let mut units = vec![self.unit()?];
                if (0xd800..0xdc00).contains(&units[0]) {
                    if (self.take()?, self.take()?) != (Some(b'\\'), Some(b'u')) {
                        return self.wrong("a string has half of a surrogate pair");
                    }
                    units.push(self.unit()?);
                }
                return match char::decode_utf16(units).next() {
                    Some(Ok(character)) => {
                        part(character.encode_utf8(&mut [0; 4]).as_bytes());
                        Ok(())
                    }
                    _ => self.wrong("a string has half of a surrogate pair"),
                };
            }
            _ => return self.wrong("a string has an escape that isn't JSON's"),
        };
        part(&[byte]);
        Ok(())
    }

    /// The four hexadecimal digits of an escape.
    fn unit(&mut self) -> Step<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = { self.take()? }.and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return self.wrong("a string has an escape that isn't JSON's");
            };
            unit = unit * 16 + digit as u16;
        }
        Ok(unit)
    }

    /// Reads any value and forgets it.
    pub fn skip(&mut self) -> Step<()> {
        self.skip_within(0)
    }

    fn skip_within(&mut self, depth: usize) -> Step<()> {
        if depth == DEEPEST {
            return self.wrong(format_args!("more than {DEEPEST} values in each other"));
        }
        match self.token()? {
            Some(b'{') => self.object(|json| {
                json.string(|_| {})?;
                json.colon()?;
                json.skip_within(depth + 1)
            }),
            Some(b'[') => self.array(|json| json.skip_within(depth + 1)),
            Some(b'"') => self.string(|_| {}),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(b'-' | b'0'..=b'9') => self.skip_number(),
            _ => self.wrong("a value is missing"),
        }
    }

    fn word(&mut self, word: &str) -> Step<()> {
        for byte in word.bytes() {
            if self.take()? != Some(byte) {
                return self.wrong("a value is missing");
            }
        }
        Ok(())
    }

    fn skip_number(&mut self) -> Step<()> {
        if self.peek()? == Some(b'-') {
            self.next += 1;
        }
        match self.peek()? {
            Some(b'0') => self.next += 1,
            _ => self.digits()?,
        }
        if self.peek()? == Some(b'.') {
            self.next += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek()? {
            self.next += 1;
            if let Some(b'+' | b'-') = self.peek()? {
                self.next += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Step<()> {
        let Some(b'0'..=b'9') = self.peek()? else {
            return self.wrong("a digit is missing");
        };
        while let Some(b'0'..=b'9') = self.peek()? {
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8]) -> Json<impl Fn(&mut [u8], usize) -> Result<()>> {
        let read = |into: &mut [u8], at: usize| {
            into.copy_from_slice(&text[at..at + into.len()]);
            Ok(())
        };
        Json::new(read, 0..text.len())
    }

    /// Random texts of JSON's own characters are accepted where serde_json accepts them.
    #[test]
    fn values_are_json_where_serde_json_says_so() {
        const WORDS: [&str; 28] = [
            "{", "}", "[", "]", ":", ",", "\"", "\"a\"", "\"\\n\"", "\\", "\\u00e9", "\\ud800",
            "\\udc00", "\\x", "1", "0", "-", ".", "e", "+", "true", "false", "null", " ", "\t",
            "\n", "é", "x",
        ];
        let mut state = 7u64;
        let mut accepted = 0;
        for _ in 0..200_000 {
            let mut next = |below: usize| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) as usize % below
            };
            let words = 1 + next(7);
            let text: String = (0..words).map(|_| WORDS[next(WORDS.len())]).collect();
            let mut json = of(text.as_bytes());
            let ours = json.skip().and_then(|()| json.finish()).is_ok();
            // Unlike `IgnoredAny`, `Value` looks at surrogates, and it refuses what f64 can't hold.
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            let is_only_large = theirs
                .as_ref()
                .is_err_and(|error| error.to_string().contains("out of range"));
            assert!(
                ours == (theirs.is_ok() || is_only_large),
                "{text:?}: {theirs:?}"
            );
            accepted += usize::from(ours);
        }
        assert!(accepted > 5_000, "{accepted} texts are JSON");
    }

    #[test]
    fn strings_are_those_of_serde_json() {
        for text in [
            r#""""#,
            r#""plain""#,
            r#""\"\\\/\b\f\n\r\t""#,
            r#""\u00e9 \ud83d\ude00 é 😀""#,
        ] {
            let mut bytes = Vec::new();
            assert!(
                of(text.as_bytes())
                    .string(|part| bytes.extend_from_slice(part))
                    .is_ok()
            );
            let expected: String = serde_json::from_str(text).unwrap();
            assert_eq!(bytes, expected.as_bytes());
        }
    }

    #[test]
    fn what_spans_pieces_is_read_whole() {
        let long = "é".repeat(PIECE);
        let text = format!(
            "{}[\"{long}\", 18446744073709551615]",
            " ".repeat(PIECE - 1)
        );
        let mut json = of(text.as_bytes());
        let (mut bytes, mut number) = (Vec::new(), None);
        let read = json.array(|json| {
            match bytes.is_empty() {
                true => json.string(|part| bytes.extend_from_slice(part))?,
                false => number = Some(json.number()?),
            }
            Ok(())
        });
        assert!(read.is_ok() && json.finish().is_ok());
        assert!(bytes == long.as_bytes() && number == Some(usize::MAX));
    }
}
