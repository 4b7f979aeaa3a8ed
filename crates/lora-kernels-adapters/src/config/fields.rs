//! A JSON object that keeps its order, the text of its numbers, and unknown fields.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::shown::shown;
use crate::{Error, Result};

/// Names and the text of the values, in the file's order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// Errors name `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| invalid(path, &error))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.get()))
    }

    /// A copy with the field replaced, or appended if it is new.
    pub fn with(&self, name: &str, json: &str, path: &Path) -> Result<Self> {
        let value =
            RawValue::from_string(json.to_owned()).map_err(|error| invalid(path, &error))?;
        let mut fields = self.clone();
        match fields.0.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => *old = value,
            None => fields.0.push((name.to_owned(), value)),
        }
        Ok(fields)
    }

    /// The object as JSON, one field per line.
    pub fn to_text(&self) -> String {
        Self::text_of(self.iter())
    }

    /// An object of these names and JSON texts as JSON, one field per line.
    pub fn text_of<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        let line =
            |(name, value): (&str, &str)| format!("  {}: {value}", serde_json::Value::from(name));
        let lines: Vec<String> = fields.into_iter().map(line).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}

fn invalid(path: &Path, error: &serde_json::Error) -> Error {
    Error::Json {
        path: path.into(),
        reason: shown(&error.to_string()),
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut entries: A,
            ) -> std::result::Result<Fields, A::Error> {
                let mut fields = Vec::new();
                let mut names = std::collections::HashSet::new();
                while let Some((name, value)) = entries.next_entry::<String, Box<RawValue>>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!(
                            "field {} stands there twice",
                            shown(&name)
                        )));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
