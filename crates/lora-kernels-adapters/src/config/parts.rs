//! Names by which a config means modules: a path ends with one, or holds one, at its dots.

use std::collections::HashMap;

use crate::steps::step;

/// The most segments of a name. A path is compared with names of up to as many.
const MOST_SEGMENTS: usize = 64;

/// Names, and for each the places of the entries that have it. They are looked up by the parts of a
/// path, so that the path's length counts and not their number.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    entries: HashMap<String, Vec<usize>>,
    /// The most segments of any name, and the most bytes.
    segments: usize,
    bytes: usize,
}

impl Parts {
    pub fn new<'n>(names: impl IntoIterator<Item = (&'n str, usize)>) -> Self {
        let mut parts = Self::default();
        for (name, entry) in names {
            let segments = name.split('.').count();
            parts.segments = parts.segments.max(segments.min(MOST_SEGMENTS));
            parts.bytes = parts.bytes.max(name.len());
            let entries = parts.entries.entry(name.to_owned()).or_default();
            entries.push(entry);
        }
        parts
    }

    fn get(&self, name: &str) -> Option<&[usize]> {
        step();
        if name.len() > self.bytes {
            return None;
        }
        self.entries.get(name).map(Vec::as_slice)
    }

    /// The entries whose names `path` is, or ends with after a dot.
    pub fn ending(&self, path: &str) -> impl Iterator<Item = usize> {
        let ends = ends(path).take(self.segments);
        ends.filter_map(|end| self.get(end)).flatten().copied()
    }

    /// Where the first of the names ends that `path` holds at its dots. `to_the_end` is whether the
    /// path's own end counts, too.
    pub fn first_end(&self, path: &str, to_the_end: bool) -> Option<usize> {
        // Where each of the last segments begins, the latest first.
        let mut starts = std::collections::VecDeque::from([0]);
        let dots = path.match_indices('.').map(|(at, _)| at);
        for end in dots.chain(to_the_end.then_some(path.len())) {
            starts.truncate(self.segments);
            if { starts.iter() }.any(|&start| self.get(&path[start..end]).is_some()) {
                return Some(end);
            }
            starts.push_front(end + 1);
        }
        None
    }
}

/// The path from each of its last segments on, the shortest first, and the whole path.
pub(crate) fn ends(path: &str) -> impl Iterator<Item = &str> {
    let after_dots = path.rmatch_indices('.').map(|(at, _)| &path[at + 1..]);
    after_dots.take(MOST_SEGMENTS).chain([path])
}

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels_fuzz::assert_linear;

    fn parts(names: &[&str]) -> Parts {
        Parts::new(names.iter().enumerate().map(|(at, name)| (*name, at)))
    }

    #[test]
    fn paths_end_with_names_and_hold_them_at_dots() {
        let parts = parts(&["q", "attn.q", "0.attn.q", "q", "score", "a.a", "n.v"]);
        let ending = |path: &str| parts.ending(path).collect::<Vec<_>>();
        assert_eq!(ending("layers.0.attn.q"), [0, 3, 1, 2]);
        assert_eq!(ending("q"), [0, 3]);
        assert!(ending("layers.0.attn.xq").is_empty());
        for (path, to_the_end, expected) in [
            ("m.score.dense.weight", false, Some("m.score")),
            ("m.score", false, None),
            ("m.score", true, Some("m.score")),
            ("m.scores.weight", true, None),
            ("my_score.weight", true, None),
            ("xa.a.a.w", false, Some("xa.a.a")),
            ("score.q.w", false, Some("score")),
            ("n.n.v.q.w", false, Some("n.n.v")),
        ] {
            let end = parts.first_end(path, to_the_end);
            assert_eq!(end.map(|end| &path[..end]), expected, "{path}");
        }
        assert_eq!(self::parts(&[""]).first_end("a..b", false), Some(2));
        assert_eq!(self::parts(&[]).first_end("a.b", true), None);
    }

    #[test]
    fn names_and_paths_take_steps_by_their_sum() {
        assert_linear(1000, |count| {
            let names: Vec<String> = (0..count).map(|i| format!("head.m{i}")).collect();
            let parts = Parts::new(names.iter().enumerate().map(|(at, n)| (n.as_str(), at)));
            for (at, name) in names.iter().enumerate() {
                assert!(parts.ending(&format!("model.{name}")).eq([at]));
                assert!(
                    parts
                        .first_end(&format!("model.{name}.weight"), false)
                        .is_some()
                );
            }
        });
    }
}
