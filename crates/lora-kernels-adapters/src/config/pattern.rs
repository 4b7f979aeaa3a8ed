//! `rank_pattern` and `alpha_pattern`: values for modules whose paths match a key.

use regex::{Regex, RegexBuilder};

use crate::steps::step;

/// The largest number of keys. No real adapter has as many.
const MOST: usize = 10_000;

/// The largest number of keys that are regular expressions: a compiled one may take a megabyte, and
/// every path is compared with each. Real adapters have a handful.
const MOST_EXPRESSIONS: usize = 128;

/// Values keyed by regular expression. The first match counts.
///
/// PEFT matches with `re.match(rf"(.*\.)?({key})$", path)`.
#[derive(Debug, Clone)]
pub(super) struct Patterns<T> {
    values: Vec<T>,
    names: Names,
    /// The places of keys that are more than names, in their order.
    expressions: Vec<(usize, Regex)>,
}

/// Keys that are modules' names, in which a dot matches any character. A path is compared with all
/// of them at once, from its end on, so that its length counts and not their number.
#[derive(Debug, Clone, Default)]
struct Names {
    /// Each key with its characters in reverse, and its place among all keys; sorted. Keys that end
    /// alike lie together.
    reversed: Vec<(String, usize)>,
}

/// Keys that match the end of a path so far.
#[derive(Clone, Copy)]
struct Matching {
    first: usize,
    end: usize,
    /// Bytes that the match takes in each of them.
    bytes: usize,
}

impl Names {
    fn new(mut reversed: Vec<(String, usize)>) -> Self {
        reversed.sort_unstable();
        Self { reversed }
    }

    /// The first key that matches.
    fn first(&self, path: &str) -> Option<usize> {
        // A dot of Python's and of this crate's expressions matches no line break.
        if self.reversed.is_empty() || path.contains('\n') {
            return None;
        }
        let mut found: Option<usize> = None;
        let mut all = vec![Matching {
            first: 0,
            end: self.reversed.len(),
            bytes: 0,
        }];
        let mut characters = path.chars().rev();
        loop {
            let next = characters.next();
            if next.is_none_or(|before| before == '.') {
                let whole = all.iter().filter_map(|matching| self.whole(matching));
                found = found.into_iter().chain(whole).min();
            }
            let Some(next) = next else {
                return found;
            };
            let mut longer = Vec::with_capacity(all.len());
            for matching in all {
                longer.extend(self.with(matching, next));
                if next != '.' {
                    longer.extend(self.with(matching, '.'));
                }
            }
            if longer.is_empty() {
                return found;
            }
            all = longer;
        }
    }

    /// The key that ends where the match does, which is sorted before those that go on.
    fn whole(&self, matching: &Matching) -> Option<usize> {
        let (key, at) = self.reversed.get(matching.first)?;
        (key.len() == matching.bytes).then_some(*at)
    }

    /// Those of the keys that have this character next.
    fn with(&self, matching: Matching, wanted: char) -> Option<Matching> {
        let Matching { first, end, bytes } = matching;
        let next = |(key, _): &(String, usize)| {
            step();
            key.get(bytes..).and_then(|rest| rest.chars().next())
        };
        let keys = self.reversed.get(first..end)?;
        let bytes = bytes + wanted.len_utf8();
        let [one, .., last] = keys else {
            return (next(keys.first()?) == Some(wanted)).then_some(Matching { first, end, bytes });
        };
        let is_next = |key| next(key) == Some(wanted);
        let (before, through) = match (is_next(one), is_next(last)) {
            (true, true) => (0, keys.len()),
            _ => (
                keys.partition_point(|key| next(key) < Some(wanted)),
                keys.partition_point(|key| next(key) <= Some(wanted)),
            ),
        };
        (before < through).then_some(Matching {
            first: first + before,
            end: first + through,
            bytes,
        })
    }
}

fn is_name(key: &str) -> bool {
    key.chars()
        .all(|c| c.is_alphanumeric() || "_-.".contains(c))
}

fn expression(key: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{key})$"))
        .size_limit(1 << 20)
        .dfa_size_limit(1 << 18)
        .build()
}

/// A key that can't be used, and what is allowed.
pub(super) struct Refused {
    pub key: String,
    pub allowed: &'static str,
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            names: Names::default(),
            expressions: Vec::new(),
        }
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
        let (mut names, mut expressions) = (Vec::new(), Vec::new());
        for (at, (key, _)) in patterns.iter().enumerate() {
            if is_name(key) {
                names.push((key.chars().rev().collect(), at));
                continue;
            }
            let refused = |allowed| Refused {
                key: (*key).to_owned(),
                allowed,
            };
            let compiled = expression(key).map_err(|_| {
                refused(
                    "a regular expression of moderate size without look-around and back-references",
                )
            })?;
            if expressions.len() == MOST_EXPRESSIONS {
                return Err(refused(
                    "one of at most 128 regular expressions; names of modules may be 10000",
                ));
            }
            expressions.push((at, compiled));
        }
        Ok(Self {
            values: patterns.iter().map(|(_, value)| *value).collect(),
            names: Names::new(names),
            expressions,
        })
    }

    pub fn get(&self, path: &str) -> Option<T> {
        let name = self.names.first(path);
        let earlier = { self.expressions.iter() }
            .take_while(|(at, _)| name.is_none_or(|name| *at < name))
            .find(|(_, expression)| expression.is_match(path));
        let first = earlier.map(|(at, _)| *at).or(name)?;
        self.values.get(first).copied()
    }

    pub fn map<U: Copy>(self, f: impl Fn(T) -> U) -> Patterns<U> {
        Patterns {
            values: self.values.into_iter().map(f).collect(),
            names: self.names,
            expressions: self.expressions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels_fuzz::assert_linear;

    const NAMES: [&str; 14] = [
        "q",
        "a.q",
        "layers.0.q",
        ".q",
        "",
        "ü.q",
        "..",
        "q.",
        "a..q",
        "x",
        "s.0.q",
        "layers.10.q",
        "ers.0.q",
        "ü",
    ];
    const PATHS: [&str; 18] = [
        "q",
        "a.q",
        "xa.q",
        "b.a.q",
        "aq",
        "layers.0.q",
        "m.layersx0.q",
        "m.layers.0xq",
        "m.layersx10xq",
        "x.q",
        "xq",
        "",
        "ü.q",
        "a.ü",
        "a\n.a.q",
        "a.q\n",
        "a.b..q",
        "q..",
    ];

    #[test]
    fn names_match_as_their_expressions_do() {
        for name in NAMES {
            let expression = expression(name).unwrap();
            let names = Patterns::new(&[(name, ())]).ok().unwrap();
            for path in PATHS {
                assert_eq!(
                    names.get(path).is_some(),
                    expression.is_match(path),
                    "{name:?} {path:?}"
                );
            }
        }
    }

    /// Of several keys, names and expressions mixed, the first in the config counts.
    #[test]
    fn the_first_match_counts() {
        for turn in 0..NAMES.len() {
            let mut keys: Vec<String> = NAMES.map(str::to_owned).to_vec();
            keys.rotate_left(turn);
            for key in keys.iter_mut().step_by(4) {
                *key = format!("({key})");
            }
            let patterns: Vec<(&str, usize)> = { keys.iter().enumerate() }
                .map(|(at, key)| (key.as_str(), at))
                .collect();
            let all = Patterns::new(&patterns).ok().unwrap();
            for path in PATHS {
                let first = { keys.iter() }.position(|key| expression(key).unwrap().is_match(path));
                assert_eq!(all.get(path), first, "{turn} {path:?}");
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

    /// As many modules as keys: each module is compared with a few of them.
    #[test]
    fn keys_and_modules_take_steps_by_their_sum() {
        type Made = fn(usize) -> String;
        let layers: Made = |i| format!("layers.{i}.self_attn.q_proj");
        let tails: Made = |i| format!("blocks.module_{i}");
        let experts: Made = |i| format!("layers.{}.experts.{}.up_proj", i / 64, i % 64);
        for made in [layers, tails, experts] {
            assert_linear(2000, |count| {
                let keys: Vec<String> = (0..count).map(made).collect();
                let keys: Vec<(&str, usize)> = { keys.iter().enumerate() }
                    .map(|(at, key)| (key.as_str(), at))
                    .collect();
                let patterns = Patterns::new(&keys).ok().unwrap();
                for (key, at) in &keys {
                    assert_eq!(patterns.get(&format!("model.{key}")), Some(*at));
                    assert_eq!(patterns.get(&format!("model.{key}_a")), None);
                }
            });
        }
    }
}
