//! JSON files that are changed in place: their other fields keep their order and form.

use std::fmt;
use std::ops::Range;

use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::source::Source;
use crate::failure::Failure;

/// How deep fields are looked for. Configs of models have three levels.
const DEPTH: usize = 4;

/// The text of a JSON object.
#[derive(Debug, Clone)]
pub struct Document(String);

/// A field, by the keys that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub path: Vec<String>,
    pub value: Value,
}

impl Document {
    /// Reads a file of at most `limit` bytes.
    pub fn read(source: &Source, limit: u64) -> Result<Self, Failure> {
        let text = source.read_text(limit)?;
        Self::parse(text).map_err(|reason| {
            Failure::Refused(format!("can't use {}: {reason}", source.path.display()))
        })
    }

    pub fn parse(text: String) -> Result<Self, String> {
        match fields(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(format!("it is no JSON object ({error})")),
        }
    }

    pub fn into_text(self) -> String {
        self.0
    }

    /// The value of a field, or `None` if it is missing.
    pub fn get(&self, path: &[&str]) -> Option<Value> {
        serde_json::from_str(&self.0[self.locate(path)?]).ok()
    }

    /// The fields whose own key is `key`, in objects at most four levels deep.
    pub fn fields_called(&self, key: &str) -> Vec<Field> {
        let mut found = Vec::new();
        collect(&self.0, key, &mut Vec::new(), &mut found);
        found
    }

    /// Sets a field, or adds it to its object. Returns whether its object is there.
    pub fn set(&mut self, path: &[&str], value: &Value) -> bool {
        if let Some(range) = self.locate(path) {
            self.0.replace_range(range, &value.to_string());
            return true;
        }
        match path.split_last() {
            Some((key, object)) => self.append(object, [(*key, value.clone())]),
            None => false,
        }
    }

    /// Adds fields behind those of an object, indented as these are. Returns whether the object is
    /// there.
    pub fn append<'a>(
        &mut self,
        object: &[&str],
        new: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> bool {
        let Some(place) = self.locate(object) else {
            return false;
        };
        let text = &self.0[place.clone()];
        let Ok(existing) = fields(text) else {
            return false;
        };
        let before_first = text
            .strip_prefix('{')
            .map(|rest| &rest[..rest.len() - rest.trim_start().len()])
            .unwrap_or_default();
        let (mut at, between) = match existing.last() {
            Some((_, last)) => (place.start + last.end, before_first.to_owned()),
            None => (place.start + 1, String::new()),
        };
        let mut is_first = existing.is_empty();
        let mut added = String::new();
        for (key, value) in new {
            if !std::mem::take(&mut is_first) {
                added.push(',');
                // A compact object has no space in front of its first key.
                added.push_str(if between.is_empty() { " " } else { &between });
            }
            added.push_str(&format!("{}: {value}", Value::from(key)));
        }
        if existing.is_empty() {
            at = at.min(self.0.len());
        }
        self.0.insert_str(at, &added);
        true
    }

    /// Where the value of a field lies in the text. The last of equal keys counts, as in Python.
    fn locate(&self, path: &[&str]) -> Option<Range<usize>> {
        let start = self.0.len() - self.0.trim_start().len();
        let mut range = start..self.0.trim_end().len();
        for key in path {
            let all = fields(&self.0[range.clone()]).ok()?;
            let (_, inner) = all.into_iter().rfind(|(name, _)| name == key)?;
            range = range.start + inner.start..range.start + inner.end;
        }
        Some(range)
    }
}

fn collect(text: &str, key: &str, path: &mut Vec<String>, found: &mut Vec<Field>) {
    for (name, range) in fields(text).unwrap_or_default() {
        let value = &text[range];
        path.push(name);
        if path.last().is_some_and(|name| name == key)
            && let Ok(value) = serde_json::from_str(value)
        {
            found.push(Field {
                path: path.clone(),
                value,
            });
        } else if value.starts_with('{') && path.len() < DEPTH {
            collect(value, key, path, found);
        }
        path.pop();
    }
}

/// The keys of an object, and where their values lie in its text.
fn fields(text: &str) -> serde_json::Result<Vec<(String, Range<usize>)>> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let pairs = reader.deserialize_map(Pairs)?;
    reader.end()?;
    let place = |value: &RawValue| {
        // The value's text is a part of `text`.
        let start = value.get().as_ptr() as usize - text.as_ptr() as usize;
        start..start + value.get().len()
    };
    Ok({ pairs }
        .into_iter()
        .map(|(key, value)| (key, place(value)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(text: &str) -> Document {
        Document::parse(text.to_owned()).unwrap()
    }

    #[test]
    fn a_field_is_changed_and_the_rest_keeps_its_form() {
        let text = "\u{20}{\n    \"z\": 1.0e5,\n    \"text_config\": {\"vocab_size\" : 32},\n    \
                    \"a\": [ ]\n}\n";
        let mut config = document(text);
        assert!(config.set(&["text_config", "vocab_size"], &json!(34)));
        assert!(config.set(&["a"], &json!(true)));
        assert_eq!(
            config.0,
            text.replace(": 32}", ": 34}").replace("[ ]", "true")
        );
        // The last of equal keys is the one that readers take.
        let mut twice = document(r#"{"v": 1, "v": 2}"#);
        twice.set(&["v"], &json!(3));
        assert_eq!(twice.0, r#"{"v": 1, "v": 3}"#);
    }

    #[test]
    fn a_missing_field_is_added_behind_the_others() {
        for (text, expected) in [
            ("{}", r#"{"new": 1}"#),
            ("{ }", r#"{"new": 1 }"#),
            (r#"{"a":1}"#, r#"{"a":1, "new": 1}"#),
            ("{\n  \"a\": {}\n}\n", "{\n  \"a\": {},\n  \"new\": 1\n}\n"),
        ] {
            let mut config = document(text);
            assert!(config.set(&["new"], &json!(1)));
            assert_eq!(config.0, expected);
            assert_eq!(document(&config.0).get(&["new"]), Some(json!(1)));
        }
        let mut config = document("{\"a\": {}}");
        assert!(config.append(&["a"], [("x.\"y", json!("s")), ("z", json!(2))]));
        assert_eq!(config.0, r#"{"a": {"x.\"y": "s", "z": 2}}"#);
        assert!(!config.set(&["b", "c"], &json!(1)));
    }

    #[test]
    fn fields_are_found_below_and_what_is_no_object_is_refused() {
        let config = document(r#"{"v": 1, "b": {"c": {"v": 2}, "v": null}, "l": [{"v": 3}]}"#);
        let found = config.fields_called("v");
        let values: Vec<(String, Value)> = { found }
            .into_iter()
            .map(|field| (field.path.join("."), field.value))
            .collect();
        let expected = [("v", json!(1)), ("b.c.v", json!(2)), ("b.v", json!(null))];
        assert_eq!(values, expected.map(|(path, value)| (path.into(), value)));
        for wrong in ["", "[]", "1", "{", "{} {}", r#"{"a": NaN}"#] {
            assert!(Document::parse(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
