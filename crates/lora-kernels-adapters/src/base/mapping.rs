//! How an adapter's names become a base model's: leading parts of names that are replaced.

use std::fmt;
use std::str::FromStr;

use crate::steps::step;

/// One replacement of the leading segments of a name, such as `model.language_model.` by
/// `language_model.model.`. Either may be empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replacement {
    /// Whole segments without the last dot.
    from: String,
    to: String,
}

impl Replacement {
    pub(super) fn new(from: &str, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
        }
    }

    /// What it replaces, without a dot at the end.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// What it puts there, without a dot at the end.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// The name with this replacement, or `None` if the name doesn't begin with what it replaces.
    pub(super) fn apply(&self, name: &str) -> Option<String> {
        let rest = match self.from.as_str() {
            "" => name,
            from if name == from => "",
            from => name.strip_prefix(from)?.strip_prefix('.')?,
        };
        Some(joined(&self.to, rest))
    }
}

/// As `--map` takes it: `model.language_model.=language_model.model.`
impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = |part: &str| if part.is_empty() { "" } else { "." };
        write!(
            f,
            "{}{}={}{}",
            self.from,
            dot(&self.from),
            self.to,
            dot(&self.to)
        )
    }
}

impl FromStr for Replacement {
    type Err = String;

    /// Reads `FROM=TO`. A dot at the end of either doesn't matter. The same on both sides keeps
    /// names from a replacement with a shorter FROM.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((from, to)) = text.split_once('=') else {
            return Err("it must be FROM=TO, such as model.language_model.=model.".into());
        };
        let part = |part: &str| {
            let part = part.trim();
            let part = part.strip_suffix('.').unwrap_or(part).to_owned();
            match part.split('.').any(str::is_empty) && !part.is_empty() {
                true => Err(format!("{part} has an empty segment between its dots")),
                false => Ok(part),
            }
        };
        let (from, to) = (part(from)?, part(to)?);
        match from.is_empty() && to.is_empty() {
            true => Err("it replaces nothing: FROM and TO are empty".into()),
            false => Ok(Self { from, to }),
        }
    }
}

/// Replacements of which the one with the longest FROM counts for a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The longest FROM first.
    replacements: Vec<Replacement>,
}

impl Mapping {
    /// Collects replacements.
    ///
    /// # Errors
    /// Two of them replace the same part of a name by something else. The text says which.
    pub fn new(replacements: impl IntoIterator<Item = Replacement>) -> Result<Self, String> {
        let mut replacements: Vec<Replacement> = replacements.into_iter().collect();
        replacements
            .sort_by(|a, b| (b.from.len(), &a.from, &a.to).cmp(&(a.from.len(), &b.from, &b.to)));
        replacements.dedup();
        let same_from = replacements
            .windows(2)
            .find(|pair| matches!(pair, [a, b] if a.from == b.from));
        match same_from {
            Some([a, b]) => Err(format!("{a} and {b} replace the same")),
            _ => Ok(Self { replacements }),
        }
    }

    /// The replacements, the longest FROM first.
    pub fn replacements(&self) -> &[Replacement] {
        &self.replacements
    }

    /// Whether no name is changed.
    pub fn is_empty(&self) -> bool {
        self.replacements.is_empty()
    }

    /// The index of the replacement that counts for a name, and the name that it makes of it.
    pub fn find(&self, name: &str) -> Option<(usize, String)> {
        let longest = self.replacements.first()?.from.len();
        // What a name begins with, the longest first: one of them is what is replaced.
        let dots = name.rmatch_indices('.').map(|(at, _)| at);
        let mut begins = std::iter::once(name.len()).chain(dots).chain([0]);
        begins.find_map(|end| {
            if end > longest {
                return None;
            }
            let begin = &name[..end];
            let order = |replacement: &Replacement| {
                step();
                let from = replacement.from.as_str();
                begin.len().cmp(&from.len()).then_with(|| from.cmp(begin))
            };
            let at = self.replacements.binary_search_by(order).ok()?;
            Some((at, self.replacements[at].apply(name)?))
        })
    }

    /// The name with its replacement, or as it is if none counts for it.
    pub fn apply(&self, name: &str) -> String {
        self.find(name)
            .map_or_else(|| name.to_owned(), |(_, name)| name)
    }
}

/// As the options that state it: `model.=backbone.`, separated by commas.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, replacement) in self.replacements.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{replacement}")?;
        }
        Ok(())
    }
}

/// Two parts of a name with a dot between them; either may be empty.
pub(super) fn joined(front: &str, back: &str) -> String {
    match (front, back) {
        ("", _) => back.to_owned(),
        (_, "") => front.to_owned(),
        _ => format!("{front}.{back}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels_fuzz::assert_linear;

    #[test]
    fn the_longest_replacement_counts() {
        let all = ["=x", "a=b", "a.b=c", "a.b.c.d=", "ab=y", "a.c=a.c"].map(|text| text.parse());
        let mapping = Mapping::new(all.map(Result::unwrap)).unwrap();
        for (name, expected) in [
            ("a", "b"),
            ("a.b", "c"),
            ("a.b.c.w", "c.c.w"),
            ("a.b.c.d", ""),
            ("a.b.c.d.e", "e"),
            ("a.c.w", "a.c.w"),
            ("a.bb.w", "b.bb.w"),
            ("ab.w", "y.w"),
            ("w", "x.w"),
            ("", "x"),
            (".w", "x..w"),
        ] {
            let (at, found) = mapping.find(name).unwrap();
            assert_eq!(found, expected, "{name}");
            // The order is by length, so the first that applies is the longest.
            let mut all = mapping.replacements().iter();
            let first = all.position(|replacement| replacement.apply(name).is_some());
            assert_eq!(Some(at), first, "{name}");
        }
    }

    #[test]
    fn replacements_and_names_take_steps_by_their_sum() {
        assert_linear(2000, |count| {
            let all = (0..count).map(|i| Replacement::new(&format!("m.h{i}"), &format!("n.h{i}")));
            let mapping = Mapping::new(all).unwrap();
            for i in 0..count {
                assert_eq!(mapping.apply(&format!("m.h{i}.q")), format!("n.h{i}.q"));
            }
        });
    }
}
