//! `rank_pattern` and `alpha_pattern`: values for modules whose paths match.

use regex::{Regex, RegexBuilder};

/// More than any adapter has, and few enough to try one after the other.
const MOST: usize = 10_000;

/// Values by regular expression, the first match counts.
#[derive(Debug, Clone)]
pub(super) struct Patterns<T>(Vec<(Regex, T)>);

/// A key that can't be used, and what can.
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
        let compiled = patterns.iter().map(|&(key, value)| {
            // PEFT: re.match(rf"(.*\.)?({key})$", path)
            let pattern = format!(r"^(?:.*\.)?(?:{key})$");
            match RegexBuilder::new(&pattern).size_limit(1 << 20).build() {
                Ok(regex) => Ok((regex, value)),
                Err(_) => Err(Refused {
                    key: key.to_owned(),
                    allowed: "a regular expression without look-around and back-references",
                }),
            }
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    pub fn get(&self, path: &str) -> Option<T> {
        let (_, value) = self.0.iter().find(|(regex, _)| regex.is_match(path))?;
        Some(*value)
    }

    pub fn map<U: Copy>(self, f: impl Fn(T) -> U) -> Patterns<U> {
        Patterns(self.0.into_iter().map(|(regex, value)| (regex, f(value))).collect())
    }
}
