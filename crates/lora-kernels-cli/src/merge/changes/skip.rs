//! `--skip`: parts of the adapters that the user leaves out.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::adapter::Selected;
use super::{Weighted, refuse};
use crate::failure::Failure;
use crate::steps::step;

/// Patterns of names. Each stands for whole parts of a name, wherever they lie in it, and a `*` in
/// it for any characters: `lm_head` matches `lm_head.weight` and `model.lm_head`, but not
/// `lm_head2`.
#[derive(Debug, Clone, Default)]
pub struct Skip {
    patterns: Vec<String>,
    /// The places of those without a `*`. They are looked up, because there may be thousands.
    plain: HashMap<String, usize>,
    /// The most parts of any of these.
    parts: usize,
    /// The places of those with a `*`.
    starred: Vec<usize>,
}

impl Skip {
    pub fn new(patterns: &[String]) -> Self {
        let mut skip = Self {
            patterns: patterns.to_vec(),
            ..Self::default()
        };
        for (at, pattern) in patterns.iter().enumerate() {
            if pattern.contains('*') {
                skip.starred.push(at);
            } else if !pattern.is_empty() {
                skip.parts = skip.parts.max(pattern.split('.').count());
                skip.plain.entry(pattern.clone()).or_insert(at);
            }
        }
        skip
    }

    /// The first pattern that matches.
    fn matching(&self, name: &str) -> Option<usize> {
        let plain = self.plain(name);
        let mut starred =
            { self.starred.iter().copied() }.take_while(|&at| plain.is_none_or(|plain| at < plain));
        starred
            .find(|&at| matches(&self.patterns[at], name))
            .or(plain)
    }

    /// The first of the patterns without a `*` that matches.
    fn plain(&self, name: &str) -> Option<usize> {
        let dots = name.match_indices('.').map(|(at, _)| at);
        // Where each of the last parts begins, the latest first.
        let mut starts = VecDeque::from([0]);
        let mut first: Option<usize> = None;
        for end in dots.chain([name.len()]) {
            starts.truncate(self.parts);
            let found = starts.iter().filter_map(|&start| {
                step();
                self.plain.get(&name[start..end]).copied()
            });
            first = first.into_iter().chain(found).min();
            starts.push_front(end + 1);
        }
        first
    }
}

/// Whether the pattern, which has a `*`, matches parts of the name: from where a part begins up to
/// where one ends.
fn matches(pattern: &str, name: &str) -> bool {
    step();
    let mut pieces = pattern.split('*');
    let (first, last) = (
        pieces.next().unwrap_or(""),
        pieces.next_back().unwrap_or(""),
    );
    // A star goes as far as it has to, so the first place for each piece leaves most to the others.
    let mut starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
    let Some(start) = starts.find(|&start| name[start..].starts_with(first)) else {
        return false;
    };
    let mut rest = &name[start + first.len()..];
    for piece in pieces {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    // A star at the end goes up to the name's.
    if last.is_empty() {
        return true;
    }
    while let Some(at) = rest.find(last) {
        let behind = &rest[at + last.len()..];
        if behind.is_empty() || behind.starts_with('.') {
            return true;
        }
        let next = rest[at..].chars().next().map_or(1, char::len_utf8);
        rest = &rest[at + next..];
    }
    false
}

/// The adapters without what is skipped, and the names of that.
pub fn select<'a>(
    adapters: &[Weighted<'a>],
    skip: &Skip,
) -> Result<(Vec<Selected<'a>>, Vec<String>), Failure> {
    let mut skipped = Vec::new();
    let mut used = vec![false; skip.patterns.len()];
    let mut seen = BTreeSet::new();
    let mut kept = |component: Option<&str>, name: &str| {
        let full = match component {
            Some(component) => format!("{component}.{name}"),
            None => name.to_owned(),
        };
        match skip.matching(&full) {
            None => true,
            Some(at) => {
                used[at] = true;
                // The same module in two adapters is listed once.
                if seen.insert(full.clone()) {
                    skipped.push(full);
                }
                false
            }
        }
    };
    let mut all = Vec::with_capacity(adapters.len());
    for weighted in adapters {
        let Weighted {
            adapter,
            path,
            weight,
        } = *weighted;
        let selected = Selected {
            adapter,
            path,
            weight,
            modules: { adapter.modules() }
                .filter(|module| kept(module.component, module.path))
                .collect(),
            saved: { adapter.saved() }
                .filter(|saved| kept(saved.component, saved.name))
                .collect(),
            base_weights: { adapter.base_weights() }
                .filter(|saved| kept(saved.component, saved.name))
                .collect(),
            tokens: { adapter.tokens() }
                .filter(|tokens| kept(tokens.component, tokens.path))
                .collect(),
            unknown: { adapter.unknown() }
                .filter(|unknown| kept(None, unknown.tensor.name))
                .collect(),
        };
        let nothing = selected.modules.is_empty()
            && selected.saved.is_empty()
            && selected.tokens.is_empty()
            && selected.unknown.is_empty();
        if nothing {
            return refuse(format!(
                "--skip leaves nothing of {}: leave the adapter out instead",
                path.display()
            ));
        }
        all.push(selected);
    }
    if let Some(at) = used.iter().position(|used| !used) {
        let mut names: Vec<&str> = { all.iter() }
            .flat_map(|selected| {
                let modules = selected.modules.iter().map(|module| module.path);
                let saved = selected.saved.iter().map(|saved| saved.name);
                let tokens = selected.tokens.iter().map(|tokens| tokens.path);
                let unknown = { selected.unknown.iter() }.map(|unknown| unknown.tensor.name);
                modules.chain(saved).chain(tokens).chain(unknown)
            })
            .collect();
        names.truncate(3);
        return refuse(format!(
            "--skip {} matches nothing of the adapters; it takes parts of the names of modules and \
             tensors, such as {}",
            skip.patterns[at],
            names.join(", ")
        ));
    }
    Ok((all, skipped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels_fuzz::assert_linear;

    #[test]
    fn patterns_match_whole_parts_of_names() {
        for (pattern, name, expected) in [
            ("lm_head", "lm_head", true),
            ("lm_head", "lm_head.weight", true),
            ("lm_head", "model.lm_head.weight", true),
            ("lm_head", "lm_head2.weight", false),
            ("lm_head", "my_lm_head.weight", false),
            ("head", "lm_head", false),
            ("model.vision", "model.vision.layers.0.q", true),
            ("model.vision", "model.vision_tower.layers.0.q", false),
            ("model.vision*", "model.vision_tower.layers.0.q", true),
            ("layers.*.mlp", "model.layers.3.mlp.up_proj", true),
            ("layers.*.mlp", "model.layers.3.attn.up_proj", false),
            ("layers.1", "model.layers.11.q", false),
            ("*", "anything.at.all", true),
            ("*proj", "layers.0.q_proj", true),
            ("*proj", "layers.0.q_project", false),
            ("", "a", false),
            ("a*b*c", "x.a1b2b3c.y", true),
            ("a*b*c", "x.a1b2b3.y", false),
            ("*", "", true),
            ("a.a", "xa.a.a", true),
            ("a.*", "xa.a.a", true),
            ("a*a", "a.aa.b", true),
            ("a*a", "aab.c", false),
            ("*.w", "a.wx.w", true),
            ("a**", "b.a", true),
            ("a.b", "a.b.c", true),
            ("b.c", "a.b.c", true),
            ("b.c", "a.b.cc", false),
        ] {
            let skip = Skip::new(&[pattern.to_owned()]);
            assert_eq!(
                skip.matching(name).is_some(),
                expected,
                "{pattern} on {name}"
            );
        }
    }

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let patterns = ["b*", "a.b", "*", "b", "a"].map(str::to_owned);
        let skip = Skip::new(&patterns);
        for (name, first) in [("a.b", 0), ("a.c", 2), ("c", 2), ("c.bx", 0)] {
            assert_eq!(skip.matching(name), Some(first), "{name}");
        }
        let skip = Skip::new(&["c", "a", "b", "a"].map(str::to_owned));
        assert_eq!(skip.matching("x.b.a"), Some(1));
    }

    /// As many patterns as modules, and one name of as many parts as the longest header holds.
    #[test]
    fn patterns_and_names_take_steps_by_their_sum() {
        assert_linear(1000, |count| {
            let patterns: Vec<String> = (0..count).map(|i| format!("layers.{i}.mlp")).collect();
            let skip = Skip::new(&patterns);
            for i in 0..count {
                assert_eq!(skip.matching(&format!("model.layers.{i}.mlp.up")), Some(i));
                assert_eq!(skip.matching(&format!("model.layers.{i}.attn.q")), None);
            }
        });
        let long = "a.".repeat(1 << 20);
        assert!(!matches("*x*y", &long) && !matches("a*b", &long));
        assert!(matches("a*a", &long));
    }
}
