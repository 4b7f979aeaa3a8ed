//! Whether a name that a base model lacks could be one that it has in another tree.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use super::BaseModel;
use super::nodes::{ends_with, is_sensible, last, split};
use super::resolve::LISTED;
use super::towers::{list_key, renames_trunk, same_list, trunk_key};
use crate::steps::step;

/// The names of a base model by what of them lies in any tree.
#[derive(Debug)]
pub(super) struct Elsewhere<'a>(HashMap<Inner<'a>, Alike<'a>>);

/// Names with the same inner part.
#[derive(Debug, Default)]
struct Alike<'a> {
    names: Vec<Other<'a>>,
    /// What tells that none of many is like a head, made where it is asked for.
    likes: OnceLock<Likes<'a>>,
}

/// From a name's first number on; of a name without one, the last two segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Inner<'a> {
    /// Whether the node has a number.
    is_tail: bool,
    end: &'a str,
}

#[derive(Debug, Clone, Copy)]
struct Other<'a> {
    /// The node in front of its first number; all of one without.
    head: &'a str,
    name: &'a str,
}

/// What heads are like others, by [`is_like`].
#[derive(Debug, Default)]
struct Likes<'a> {
    heads: HashSet<&'a str>,
    /// What heads end with.
    ends: HashSet<&'a str>,
    trunks: HashSet<String>,
    /// The last segments, as [`same_list`] compares them.
    lists: HashSet<&'a str>,
}

impl<'a> Elsewhere<'a> {
    pub fn new(base: &'a BaseModel) -> Self {
        let mut alike: HashMap<Inner<'a>, Alike<'a>> = HashMap::new();
        for name in base.names().filter(|name| is_sensible(name)) {
            if let Some((inner, head)) = taken_apart(name) {
                let alike = alike.entry(inner).or_default();
                alike.names.push(Other { head, name });
            }
        }
        Self(alike)
    }

    /// A few of the names that could be `wanted`: one of the two names has further leading
    /// segments, or another name for the model's trunk.
    pub fn of(&self, wanted: &str) -> Vec<&'a str> {
        let Some((inner, head)) = taken_apart(wanted) else {
            return Vec::new();
        };
        let Some(Alike { names, likes }) = self.0.get(&inner) else {
            return Vec::new();
        };
        let likes = || likes.get_or_init(|| Likes::new(names.iter().map(|other| other.head)));
        if names.len() > LISTED && !likes().may_have(head, inner.is_tail) {
            return Vec::new();
        }
        let like = names.iter().filter(|other| {
            step();
            is_like(head, other.head, inner.is_tail)
        });
        like.map(|other| other.name).take(LISTED).collect()
    }
}

impl<'a> Likes<'a> {
    fn new(heads: impl Iterator<Item = &'a str>) -> Self {
        let mut likes = Self::default();
        for head in heads {
            step();
            likes.heads.insert(head);
            likes.ends.extend(ends(head));
            likes.trunks.insert(trunk_key(head));
            likes.lists.insert(list_key(head));
        }
        likes
    }

    /// Whether any of the heads may be like this one; if not, none is.
    fn may_have(&self, head: &str, is_tail: bool) -> bool {
        step();
        self.ends.contains(head)
            || ends(head).any(|end| self.heads.contains(end))
            || self.trunks.contains(&trunk_key(head))
            || (is_tail && self.lists.contains(list_key(head)))
    }
}

/// A name's part that lies in any tree, and the head in front of it.
fn taken_apart(name: &str) -> Option<(Inner<'_>, &str)> {
    let (node, child) = name.rsplit_once('.')?;
    let (head, tail) = split(node);
    let end = match tail {
        "" => &name[name.len() - child.len() - 1 - last(node).len()..],
        _ => &name[name.len() - child.len() - 1 - tail.len()..],
    };
    let is_tail = !tail.is_empty();
    Some((Inner { is_tail, end }, head))
}

/// Whether a tree under `head` could be that under `other`.
fn is_like(head: &str, other: &str, is_tail: bool) -> bool {
    other != head
        && (ends_with(other, head)
            || ends_with(head, other)
            || renames_trunk(head, other)
            || (is_tail && same_list(head, other)))
}

/// What a path ends with: itself, its last segments, nothing.
fn ends(path: &str) -> impl Iterator<Item = &str> {
    let after_dots = path.match_indices('.').map(|(at, _)| &path[at + 1..]);
    [path, ""].into_iter().chain(after_dots)
}
