//! `rank_pattern` and `alpha_pattern`: values for modules whose paths match a key.

use regex::{Regex, RegexBuilder};

/// The largest number of keys. No real adapter has as many, and a linear search through them is
/// fast enough.
const MOST: usize = 10_000;

/// The largest number of keys that are regular expressions: a compiled one may take a megabyte.
/// Real adapters have a handful.
const MOST_EXPRESSIONS: usize = 128;

/// Values keyed by regular expression. The first match counts.
#[derive(Debug, Clone)]
pub(super) struct Patterns<T>(Vec<(Key, T)>);

/// PEFT matches with `re.match(rf"(.*\.)?({key})$", path)`
#[derive(Debug, Clone)]
enum Key {
    /// A module's name, in which a dot matches any character.
    Name(String),
    Expression(Regex),
}

impl Key {
    fn new(key: &str) -> Result<Self, regex::Error> {
        if key
            .chars()
            .all(|c| c.is_alphanumeric() || "_-.".contains(c))
        {
            return Ok(Key::Name(key.to_owned()));
        }
        let expression = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{key})$"))
            .size_limit(1 << 20)
            .dfa_size_limit(1 << 18)
            .build()?;
        Ok(Key::Expression(expression))
    }

    fn matches(&self, path: &str) -> bool {
        let name = match self {
            Key::Expression(regex) => return regex.is_match(path),
            Key::Name(name) => name,
        };
        let mut rest = path.chars().rev();
        let ends = name
            .chars()
            .rev()
            .all(|wanted| match (wanted, rest.next()) {
                ('.', Some(found)) => found != '\n',
                (wanted, found) => found == Some(wanted),
            });
        // The unmatched prefix must be empty or end with a dot.
        ends && rest.next().is_none_or(|before| before == '.') && rest.all(|c| c != '\n')
    }
}

/// A key that can't be used, and what is allowed.
pub(super) struct Refused {
    pub key: String,
    pub allowed: &'static str,
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Patterns<T> {
    pub fn new(patterns: &[(&str, T)]) -> Result<Self, Refused> {
        if patterns.len() > MOST {
            return Err(Refused {
                key: format!("one of {}", patterns.len()),
                allowed: "one of at most 10000",
            });
        }
        let mut expressions = 0;
        let compiled = patterns.iter().map(|&(key, value)| {
            let refused = |allowed| Refused {
                key: key.to_owned(),
                allowed,
            };
            let compiled = Key::new(key).map_err(|_| {
                refused(
                    "a regular expression of moderate size without look-around and back-references",
                )
            })?;
            expressions += usize::from(matches!(compiled, Key::Expression(_)));
            if expressions > MOST_EXPRESSIONS {
                return Err(refused(
                    "one of at most 128 regular expressions; names of modules may be 10000",
                ));
            }
            Ok((compiled, value))
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    pub fn get(&self, path: &str) -> Option<T> {
        let (_, value) = self.0.iter().find(|(key, _)| key.matches(path))?;
        Some(*value)
    }

    pub fn map<U: Copy>(self, f: impl Fn(T) -> U) -> Patterns<U> {
        Patterns(
            self.0
                .into_iter()
                .map(|(key, value)| (key, f(value)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_their_expressions_do() {
        for name in ["q", "a.q", "layers.0.q", ".q", "", "ü.q"] {
            let expression = Regex::new(&format!(r"^(?:.*\.)?(?:{name})$")).unwrap();
            for path in [
                "q",
                "a.q",
                "xa.q",
                "b.a.q",
                "aq",
                "layers.0.q",
                "m.layersx0.q",
                "x.q",
                "xq",
                "",
                "ü.q",
                "a\n.a.q",
            ] {
                assert_eq!(
                    Key::new(name).unwrap().matches(path),
                    expression.is_match(path),
                    "{name:?} {path:?}"
                );
            }
        }
    }

    #[test]
    fn expressions_are_few_and_names_many() {
        let names: Vec<String> = (0..1000).map(|i| format!("layers.{i}.q")).collect();
        let all: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert_eq!(
            Patterns::new(&all).ok().unwrap().get("m.layers.999.q"),
            Some(1)
        );
        let expressions: Vec<String> = names.iter().map(|name| format!("({name})")).collect();
        let all: Vec<(&str, usize)> = expressions.iter().map(|key| (key.as_str(), 1)).collect();
        assert!(Patterns::new(&all).is_err());
        assert!(Patterns::new(&all[..MOST_EXPRESSIONS]).is_ok());
    }
}
