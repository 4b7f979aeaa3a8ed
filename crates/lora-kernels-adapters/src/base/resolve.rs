//! Finds an adapter's paths in a base model, where one of the two may lack a prefix such as `bert.`
//! or `model.`.

use std::cell::RefCell;
use std::collections::HashMap;

use super::BaseModel;
use crate::shown::shown;
use crate::{Error, Result};

/// The number of candidates that an error lists.
const LISTED: usize = 6;

/// Finds tensors of a base model by the paths of an adapter.
#[derive(Debug)]
pub struct Resolver<'a> {
    base: &'a BaseModel,
    /// Tensors keyed by the last two parts of their names.
    by_end: HashMap<&'a str, Vec<&'a str>>,
    /// The prefix by which paths differ, with the pair of names that it was found from.
    prefix: RefCell<Option<(Prefix, String, String)>>,
}

/// A tensor of the base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// Its name in the base model.
    pub name: &'a str,
    /// The index of its shard.
    pub shard: usize,
}

/// How a path of the adapter becomes a name in the base model.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Prefix {
    /// The two are equal.
    None,
    Added(String),
    Removed(String),
}

impl<'a> Resolver<'a> {
    pub(super) fn new(base: &'a BaseModel) -> Self {
        let mut by_end: HashMap<&str, Vec<&str>> = HashMap::new();
        for name in base.names() {
            by_end.entry(end(name)).or_default().push(name);
        }
        Self {
            base,
            by_end,
            prefix: RefCell::new(None),
        }
    }

    /// Finds the tensor `wanted`, such as `encoder.layer.0.attention.self.query.weight`: the one
    /// with exactly this name, else the only one whose name has a longer prefix (`bert.encoder...`)
    /// or a shorter one. All tensors of an adapter must differ by the same prefix, or none may
    /// differ.
    ///
    /// # Errors
    /// [`Error::Unresolved`] if no tensor or more than one fits, [`Error::Prefixes`] if the tensor
    /// differs by another prefix than an earlier one did.
    pub fn resolve(&self, wanted: &str) -> Result<Resolved<'a>> {
        if let Some((name, &shard)) = self.base.homes.get_key_value(wanted) {
            self.same_prefix(wanted, name)?;
            return Ok(Resolved { name, shard });
        }
        let same_end = self.by_end.get(end(wanted)).map_or(&[][..], Vec::as_slice);
        let fits = |name: &&&str| prefix(wanted, name).is_some();
        let fitting: Vec<&str> = same_end.iter().filter(fits).copied().collect();
        let unresolved = |ambiguous, candidates: &[&str]| {
            let mut candidates: Vec<String> = candidates
                .iter()
                .take(LISTED)
                .map(|name| shown(name))
                .collect();
            candidates.sort();
            Error::Unresolved {
                wanted: shown(wanted),
                ambiguous,
                candidates,
            }
        };
        let [name] = fitting[..] else {
            return Err(match fitting.len() {
                0 => unresolved(false, &closest(wanted, same_end)),
                _ => unresolved(true, &fitting),
            });
        };
        self.same_prefix(wanted, name)?;
        let shard = self
            .base
            .homes
            .get(name)
            .copied()
            .ok_or_else(|| unresolved(false, &[]))?;
        Ok(Resolved { name, shard })
    }

    /// Whether the base model has a tensor with exactly this name, or one that differs by a prefix.
    /// Once a prefix was found, only that one counts.
    pub fn contains(&self, wanted: &str) -> bool {
        let earlier = self.prefix.borrow();
        let same_as_earlier = |found| earlier.as_ref().is_none_or(|(prefix, ..)| *prefix == found);
        let same_end = self.by_end.get(end(wanted)).map_or(&[][..], Vec::as_slice);
        same_end
            .iter()
            .any(|name| *name == wanted || prefix(wanted, name).is_some_and(same_as_earlier))
    }

    fn same_prefix(&self, wanted: &str, name: &str) -> Result<()> {
        let Some(found) = prefix(wanted, name) else {
            return Ok(());
        };
        match &mut *self.prefix.borrow_mut() {
            empty @ None => {
                *empty = Some((found, wanted.to_owned(), name.to_owned()));
                Ok(())
            }
            Some((earlier, ..)) if *earlier == found => Ok(()),
            Some((_, first, first_tensor)) => Err(Error::Prefixes {
                first: shown(first),
                first_tensor: shown(first_tensor),
                second: shown(wanted),
                second_tensor: shown(name),
            }),
        }
    }
}

/// The last two parts of a name: `query.weight`.
fn end(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
    match (dots.next(), dots.next()) {
        (Some(_), Some(second)) => &name[second + 1..],
        _ => name,
    }
}

/// The prefix, ending at a dot, by which the two names differ; `None` if neither name ends with the
/// other.
fn prefix(wanted: &str, name: &str) -> Option<Prefix> {
    if wanted == name {
        return Some(Prefix::None);
    }
    let in_front = |long: &str, short: &str| {
        let before = long.strip_suffix(short)?;
        before.ends_with('.').then(|| before.to_owned())
    };
    in_front(name, wanted)
        .map(Prefix::Added)
        .or_else(|| in_front(wanted, name).map(Prefix::Removed))
}

/// The names that share the longest suffix with `wanted`.
fn closest<'a>(wanted: &str, names: &[&'a str]) -> Vec<&'a str> {
    let common = |name: &str| {
        let parts = wanted.rsplit('.').zip(name.rsplit('.'));
        parts.take_while(|(ours, theirs)| ours == theirs).count()
    };
    let mut names: Vec<&str> = names.to_vec();
    names.sort_by_key(|name| std::cmp::Reverse(common(name)));
    names.truncate(LISTED);
    names
}
