//! The token stream with one token of look-ahead, and the small readers that every grammar rule
//! uses.

use super::ParseError;
use super::lexer::{Kind, Lexer, Token};

/// Labels in the tables of a module's branches, counted for each branch.
const MOST_TARGETS: usize = 1 << 20;

pub(super) struct Cursor<'a> {
    lexer: Lexer<'a>,
    next: Token<'a>,
    /// How many more labels of tables are taken.
    targets: usize,
}

/// A numeric literal.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    /// Two's complement.
    Integer(u64),
    /// `0f` form: f32 bits.
    F32(u32),
    /// `0d` form or a decimal fraction: f64 bits.
    F64(u64),
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Result<Self, ParseError> {
        let mut lexer = Lexer::new(text);
        let next = lexer.next()?;
        Ok(Self {
            lexer,
            next,
            targets: MOST_TARGETS,
        })
    }

    /// Takes the labels of a branch's table. Every branch gets its own, so a small text can stand
    /// for a great many: that is refused.
    pub fn take_targets(&mut self, labels: usize, table: &Token<'_>) -> Result<(), ParseError> {
        self.targets = self.targets.checked_sub(labels).ok_or_else(|| {
            let expected =
                format!("at most {MOST_TARGETS} labels in the tables of a module's branches");
            error_at(table, expected)
        })?;
        Ok(())
    }

    pub fn peek(&self) -> Token<'a> {
        self.next
    }

    pub fn advance(&mut self) -> Result<Token<'a>, ParseError> {
        let following = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, following))
    }

    pub fn unexpected(&self, expected: impl Into<String>) -> ParseError {
        error_at(&self.next, expected)
    }

    pub fn at(&self, mark: u8) -> bool {
        self.next.kind == Kind::Mark(mark)
    }

    pub fn at_word(&self, word: &str) -> bool {
        self.next.kind == Kind::Word && self.next.text == word
    }

    pub fn eat(&mut self, mark: u8) -> Result<bool, ParseError> {
        let found = self.at(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub fn expect(&mut self, mark: u8, after: &str) -> Result<(), ParseError> {
        if self.eat(mark)? {
            return Ok(());
        }
        Err(self.unexpected(format!("`{}` after {after}", char::from(mark))))
    }

    pub fn word(&mut self, what: &str) -> Result<Token<'a>, ParseError> {
        if self.next.kind == Kind::Word {
            self.advance()
        } else {
            Err(self.unexpected(what))
        }
    }

    /// A name that is not a directive.
    pub fn name(&mut self, what: &str) -> Result<Token<'a>, ParseError> {
        if self.next.text.starts_with('.') {
            return Err(self.unexpected(what));
        }
        self.word(what)
    }

    /// A number with an optional minus sign.
    pub fn number(&mut self, what: &str) -> Result<Number, ParseError> {
        let negative = self.eat(b'-')?;
        if self.next.kind != Kind::Number {
            return Err(self.unexpected(what));
        }
        let token = self.advance()?;
        let number = literal(token.text).ok_or_else(|| error_at(&token, what))?;
        Ok(match number {
            _ if !negative => number,
            Number::Integer(value) => Number::Integer(value.wrapping_neg()),
            Number::F32(bits) => Number::F32(bits ^ (1 << 31)),
            Number::F64(bits) => Number::F64(bits ^ (1 << 63)),
        })
    }

    pub fn integer(&mut self, what: &str) -> Result<u64, ParseError> {
        let token = self.next;
        match self.number(what)? {
            Number::Integer(value) => Ok(value),
            _ => Err(error_at(&token, what)),
        }
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, ParseError> {
        let token = self.next;
        let value = self.integer(what)?;
        u32::try_from(value).map_err(|_| error_at(&token, what))
    }

    /// Skips up to and including the next `;`.
    pub fn skip_statement(&mut self) -> Result<(), ParseError> {
        while !self.at(b';') {
            if self.next.kind == Kind::End {
                return Err(self.unexpected("`;`"));
            }
            self.advance()?;
        }
        self.advance()?;
        Ok(())
    }

    /// Skips a brace-enclosed body, nested braces included.
    pub fn skip_braces(&mut self) -> Result<(), ParseError> {
        self.expect(b'{', "the section's name")?;
        let mut depth = 1_u64;
        while depth > 0 {
            match self.next.kind {
                Kind::Mark(b'{') => depth += 1,
                Kind::Mark(b'}') => depth -= 1,
                Kind::End => return Err(self.unexpected("`}`")),
                _ => {}
            }
            self.advance()?;
        }
        Ok(())
    }
}

pub(super) fn error_at(token: &Token<'_>, expected: impl Into<String>) -> ParseError {
    ParseError {
        line: token.line,
        found: token.describe(),
        expected: expected.into(),
    }
}

/// PTX ISA section 4.5: integers in four bases with an optional `U`, floats as hexadecimal bits or
/// decimal.
fn literal(text: &str) -> Option<Number> {
    let lower = text.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0f") {
        let whole = digits.len() == 8;
        return u32::from_str_radix(digits, 16)
            .ok()
            .filter(|_| whole)
            .map(Number::F32);
    }
    if let Some(digits) = lower.strip_prefix("0d") {
        let whole = digits.len() == 16;
        return u64::from_str_radix(digits, 16)
            .ok()
            .filter(|_| whole)
            .map(Number::F64);
    }
    let (radix, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if lower.contains(['.', 'e']) {
        let value: f64 = lower.parse().ok()?;
        return Some(Number::F64(value.to_bits()));
    } else if lower.len() > 1 && lower.starts_with('0') && lower != "0u" {
        (8, lower.get(1..)?)
    } else {
        (10, lower.as_str())
    };
    let digits = digits.strip_suffix('u').unwrap_or(digits);
    u64::from_str_radix(digits, radix).ok().map(Number::Integer)
}
