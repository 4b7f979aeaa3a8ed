//! The fields of a TOML table, read with errors that name line, entry, field and what is allowed.

use std::fmt::Display;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::table::{Block, PATH};

/// The fields of one entry.
pub(crate) struct Fields<'t> {
    text: &'t str,
    entry: &'t str,
    table: &'t DeTable<'t>,
    span: Range<usize>,
}

impl<'t> Fields<'t> {
    /// The fields of `value`. Only those in `allowed` may be present.
    pub fn of(
        text: &'t str,
        entry: &'t str,
        value: &'t Spanned<DeValue<'t>>,
        allowed: &[&str],
    ) -> Result<Self, String> {
        let span = value.span();
        match value.get_ref() {
            DeValue::Table(table) => Self::of_table(text, entry, table, span, allowed),
            _ => Err(fail(text, &span, entry, "it", "must be a table of fields")),
        }
    }

    /// Like [`Fields::of`], for a table itself.
    pub fn of_table(
        text: &'t str,
        entry: &'t str,
        table: &'t DeTable<'t>,
        span: Range<usize>,
        allowed: &[&str],
    ) -> Result<Self, String> {
        for (key, value) in table {
            if !allowed.contains(&key.get_ref().as_ref()) {
                let reason = format!("is not a field; the fields are {}", allowed.join(", "));
                return Err(fail(text, &value.span(), entry, key.get_ref(), reason));
            }
        }
        Ok(Self {
            text,
            entry,
            table,
            span,
        })
    }

    pub fn optional(&self, field: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        let mut all = self.table.iter();
        all.find(|(key, _)| key.get_ref() == field)
            .map(|(_, value)| value)
    }

    pub fn required(&self, field: &str, allowed: &str) -> Result<&'t Spanned<DeValue<'t>>, String> {
        self.optional(field)
            .ok_or_else(|| self.missing(field, allowed))
    }

    pub fn span_of(&self, field: &str) -> Range<usize> {
        self.optional(field)
            .map_or(self.span.clone(), Spanned::span)
    }

    pub fn missing(&self, field: &str, allowed: &str) -> String {
        let reason = format!("is missing; it must have {allowed}");
        fail(self.text, &self.span, self.entry, field, reason)
    }

    pub fn wrong(
        &self,
        span: &Range<usize>,
        field: &str,
        given: impl Display,
        reason: impl Display,
    ) -> String {
        fail(
            self.text,
            span,
            self.entry,
            field,
            format!("`{given}` {reason}"),
        )
    }

    pub fn string(&self, field: &str) -> Result<(&'t str, Range<usize>), String> {
        let value = self.required(field, "a quoted string")?;
        match value.get_ref() {
            DeValue::String(string) if !string.is_empty() => Ok((string, value.span())),
            _ => Err(fail(
                self.text,
                &value.span(),
                self.entry,
                field,
                "must be a quoted string",
            )),
        }
    }

    pub fn one_of(&self, field: &str, allowed: &[&str]) -> Result<usize, String> {
        let (given, span) = self.string(field)?;
        let position = allowed.iter().position(|name| *name == given);
        position.ok_or_else(|| self.wrong(&span, field, given, one_of(allowed)))
    }

    pub fn some_of(&self, field: &str, allowed: &[&str]) -> Result<Vec<usize>, String> {
        let value = self.required(field, "a list")?;
        let list = match value.get_ref() {
            DeValue::Array(list) if !list.is_empty() => list,
            _ => {
                let reason = format!("must be a list of at least one of {}", allowed.join(", "));
                return Err(fail(self.text, &value.span(), self.entry, field, reason));
            }
        };
        let mut found = Vec::new();
        for item in list {
            let given = item
                .get_ref()
                .as_str()
                .unwrap_or("a value that is no string");
            let position = allowed.iter().position(|name| *name == given);
            match position {
                Some(position) if !found.contains(&position) => found.push(position),
                Some(_) => return Err(self.wrong(&item.span(), field, given, "is listed twice")),
                None => return Err(self.wrong(&item.span(), field, given, one_of(allowed))),
            }
        }
        Ok(found)
    }

    pub fn number(&self, field: &str, allowed: Range<u32>) -> Result<u32, String> {
        let range = format!(
            "a whole number from {} to {}",
            allowed.start,
            allowed.end - 1
        );
        let value = self.required(field, &range)?;
        let given = match value.get_ref() {
            DeValue::Integer(integer) => {
                u32::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            _ => None,
        };
        given
            .filter(|given| allowed.contains(given))
            .ok_or_else(|| {
                fail(
                    self.text,
                    &value.span(),
                    self.entry,
                    field,
                    format!("must be {range}"),
                )
            })
    }

    pub fn quality(&self) -> Result<Option<f64>, String> {
        let Some(value) = self.optional("quality") else {
            return Ok(None);
        };
        let given = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            _ => None,
        };
        match given {
            Some(quality) if quality > 0.0 && quality <= 1.0 => Ok(Some(quality)),
            _ => {
                let reason = "must be above 0 and at most 1: speed beside the largest tile's";
                Err(fail(
                    self.text,
                    &value.span(),
                    self.entry,
                    "quality",
                    reason,
                ))
            }
        }
    }

    /// Numbers in a table of their own, such as `block = { rows = 64 }`.
    fn numbers(&self, field: &'static str, allowed: &[&'static str]) -> Result<Fields<'t>, String> {
        let value = self.required(field, &format!("some of {}", allowed.join(", ")))?;
        Fields::of(self.text, self.entry, value, allowed)
    }

    pub fn block(&self) -> Result<Block, String> {
        let fields = self.numbers("block", &["rows", "columns", "depth", "ranks"])?;
        let number = |field| match fields.optional(field) {
            Some(_) => fields.number(field, 1..4097),
            None => Ok(0),
        };
        Ok(Block {
            rows: fields.number("rows", 1..4097)?,
            columns: number("columns")?,
            depth: number("depth")?,
            ranks: number("ranks")?,
        })
    }

    pub fn warp(&self) -> Result<Option<(u32, u32)>, String> {
        if self.optional("warp").is_none() {
            return Ok(None);
        }
        let fields = self.numbers("warp", &["rows", "columns"])?;
        Ok(Some((
            fields.number("rows", 16..257)?,
            fields.number("columns", 16..257)?,
        )))
    }

    /// Names and values of a table, in the order of the file.
    pub fn named(&self, field: &str) -> Result<Vec<(&'t str, &'t Spanned<DeValue<'t>>)>, String> {
        let value = self.required(field, "at least one entry")?;
        match value.get_ref() {
            DeValue::Table(table) => Ok(table
                .iter()
                .map(|(key, value)| (key.get_ref().as_ref(), value))
                .collect()),
            _ => Err(fail(
                self.text,
                &value.span(),
                self.entry,
                field,
                "must be a table",
            )),
        }
    }

    /// The entries of an array, in the order of the file.
    pub fn listed(&self, field: &str) -> Result<&'t [Spanned<DeValue<'t>>], String> {
        let value = self.required(field, "at least one entry")?;
        match value.get_ref() {
            DeValue::Array(list) => Ok(list),
            _ => Err(fail(
                self.text,
                &value.span(),
                self.entry,
                field,
                "must be a list",
            )),
        }
    }
}

fn one_of(allowed: &[&str]) -> String {
    format!("is not one of {}", allowed.join(", "))
}

pub(crate) fn fail(
    text: &str,
    span: &Range<usize>,
    entry: &str,
    field: &str,
    reason: impl Display,
) -> String {
    format!("{PATH}:{}: {entry}: {field} {reason}", line_of(text, span))
}

pub(crate) fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.get(..span.start)
        .map_or(1, |before| before.matches('\n').count() + 1)
}
