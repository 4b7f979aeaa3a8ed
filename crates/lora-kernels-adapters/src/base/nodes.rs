//! A base model's names, as the search for replacements looks at them.
//!
//! A *node* is a module's path: any leading segments of a tensor's name, without the last. It is
//! split in front of its first number: `model.layers.0.self_attn.q_proj` has the head
//! `model.layers` and the tail `0.self_attn.q_proj`. Replacements that are found change heads only,
//! so no layer ever becomes another.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::BaseModel;
use super::mapping::joined;
use super::towers::{Part, lone_parts, parts};
use super::wanted::Fits;
use crate::steps::step;

/// Names with more segments or bytes are found only as they are. No model has such names.
const MOST_SEGMENTS: usize = 32;
const LONGEST: usize = 512;

/// How well a base model's tensor or module is what an adapter looks for. The order is from worst
/// to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// There is nothing under the name.
    Absent,
    /// The module is there, and holds other tensors: its weight is quantised, for one.
    Module,
    /// The tensor is there, in a shape that doesn't fit.
    Named,
    /// The tensor is there and fits.
    Fits,
}

/// The nodes of a base model.
#[derive(Debug)]
pub(super) struct Nodes<'a> {
    base: &'a BaseModel,
    /// Whether a tensor lies directly in each.
    nodes: HashMap<&'a str, bool>,
    /// The heads of the nodes with a number, by their tails.
    heads: HashMap<&'a str, Vec<&'a str>>,
    /// The nodes without a number, by their last segments.
    plain: HashMap<&'a str, Vec<&'a str>>,
    /// The parts that all heads name, if all name the same ones.
    lone: Option<Vec<Part>>,
}

impl<'a> Nodes<'a> {
    pub fn new(base: &'a BaseModel) -> Self {
        let mut names = Self {
            base,
            nodes: HashMap::new(),
            heads: HashMap::new(),
            plain: HashMap::new(),
            lone: None,
        };
        let mut previous = "";
        for name in base.names() {
            if !is_sensible(name) {
                continue;
            }
            for (at, _) in name.match_indices('.') {
                let node = &name[..at];
                // Names are sorted, so most nodes are also the previous name's.
                let is_previous =
                    previous.starts_with(node) && previous.as_bytes().get(at) == Some(&b'.');
                let is_parent = !name[at + 1..].contains('.');
                if is_previous && !is_parent {
                    continue;
                }
                match names.nodes.entry(node) {
                    Entry::Occupied(mut entry) => *entry.get_mut() |= is_parent,
                    Entry::Vacant(entry) => {
                        entry.insert(is_parent);
                        match split(node) {
                            (head, "") => names.plain.entry(last(head)).or_default().push(node),
                            (head, tail) => names.heads.entry(tail).or_default().push(head),
                        }
                    }
                }
            }
            previous = name;
        }
        names.lone = lone_parts(names.heads.values().flatten());
        names
    }

    /// The heads of all nodes with this tail.
    pub fn heads(&self, tail: &str) -> &[&'a str] {
        self.heads.get(tail).map_or(&[], Vec::as_slice)
    }

    /// All nodes without a number that end with this segment.
    pub fn plain(&self, last: &str) -> &[&'a str] {
        self.plain.get(last).map_or(&[], Vec::as_slice)
    }

    /// The segments that all nodes begin with.
    pub fn common_front(&self) -> &'a str {
        let mut names = self.base.names();
        let front = |name: &'a str| name.rsplit_once('.').map_or("", |(front, _)| front);
        // Names are sorted, so what the first and the last share all share.
        match (names.next(), names.next_back()) {
            (Some(first), Some(last)) => common_front(front(first), front(last)),
            (Some(only), None) => front(only),
            _ => "",
        }
    }

    /// Whether `from` names no part beside the trunk, and all layers of the base model are of the
    /// part that `to` names.
    pub fn only_part(&self, from: &str, to: &str) -> bool {
        parts(from).is_empty() && self.lone.as_ref().is_some_and(|lone| *lone == parts(to))
    }

    /// How well `child` of `node` is what `fits` asks for. An empty child asks for the node itself.
    pub fn level(&self, node: &str, child: &str, fits: &Fits) -> Level {
        step();
        if child.is_empty() {
            return match self.nodes.contains_key(node) {
                true => Level::Fits,
                false => Level::Absent,
            };
        }
        match self.base.tensor(&joined(node, child)) {
            Some((_, tensor)) if fits.fits(tensor.shape) => Level::Fits,
            Some(_) => Level::Named,
            None if self.nodes.get(node) == Some(&true) => Level::Module,
            None => Level::Absent,
        }
    }
}

pub(super) fn is_sensible(name: &str) -> bool {
    name.len() <= LONGEST && name.matches('.').count() < MOST_SEGMENTS
}

/// A node in front of its first number, and from there on. A node without a number is all head.
pub(super) fn split(node: &str) -> (&str, &str) {
    let mut start = 0;
    for segment in node.split('.') {
        if is_number(segment) {
            let head = &node[..start.max(1) - 1];
            return (head, &node[start..]);
        }
        start += segment.len() + 1;
    }
    (node, "")
}

fn is_number(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether any segment is a number.
pub(super) fn has_number(path: &str) -> bool {
    path.split('.').any(is_number)
}

/// The last segment.
pub(super) fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

/// Whether `path` ends with all segments of `end`.
pub(super) fn ends_with(path: &str, end: &str) -> bool {
    match path.strip_suffix(end) {
        Some("") => true,
        Some(front) => end.is_empty() || front.ends_with('.'),
        None => false,
    }
}

/// Two paths without the last segments that they share, `most` of them at most, and how many
/// those are.
pub(super) fn stripped<'p>(from: &'p str, to: &'p str, most: usize) -> (&'p str, &'p str, usize) {
    let (mut from, mut to, mut count) = (from, to, 0);
    while count < most && !from.is_empty() && last(from) == last(to) {
        let without = |path: &'p str| path.rsplit_once('.').map_or("", |(front, _)| front);
        (from, to, count) = (without(from), without(to), count + 1);
    }
    (from, to, count)
}

/// The leading segments that two paths share.
pub(super) fn common_front<'p>(one: &'p str, other: &str) -> &'p str {
    let mut end = 0;
    for (ours, theirs) in one.split('.').zip(other.split('.')) {
        if ours != theirs {
            break;
        }
        end += ours.len() + 1;
    }
    &one[..end.saturating_sub(1).min(one.len())]
}
