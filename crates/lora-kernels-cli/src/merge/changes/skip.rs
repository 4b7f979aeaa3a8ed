//! `--skip`: parts of the adapters that the user leaves out.

use std::collections::BTreeSet;

use super::adapter::Selected;
use super::{Weighted, refuse};
use crate::failure::Failure;

/// Patterns of names. Each stands for whole parts of a name, wherever they lie in it, and a `*` in
/// it for any characters: `lm_head` matches `lm_head.weight` and `model.lm_head`, but not
/// `lm_head2`.
#[derive(Debug, Clone, Default)]
pub struct Skip {
    patterns: Vec<String>,
}

impl Skip {
    pub fn new(patterns: &[String]) -> Self {
        Self {
            patterns: patterns.to_vec(),
        }
    }

    /// The first pattern that matches.
    fn matching(&self, name: &str) -> Option<usize> {
        { self.patterns.iter() }.position(|pattern| matches(pattern, name))
    }
}

/// Whether the pattern matches parts of the name.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern.is_empty() {
        return false;
    }
    let mut starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
    starts.any(|start| at_start(pattern.as_bytes(), &name.as_bytes()[start..]))
}

/// Whether the pattern matches the name up to its end or a dot. A `*` matches any characters.
fn at_start(pattern: &[u8], name: &[u8]) -> bool {
    // The place of the last star in the pattern, and of what follows it in the name. Only the last
    // star needs to be tried again, so this takes at most pattern · name steps.
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    loop {
        let ended = p == pattern.len() && (n == name.len() || name[n] == b'.');
        if ended {
            return true;
        }
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
            }
            Some(byte) if name.get(n) == Some(byte) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((after, from)) if from < name.len() => {
                    star = Some((after, from + 1));
                    p = after;
                    n = from + 1;
                }
                _ => return false,
            },
        }
    }
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
    use super::matches;

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
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }
}
