//! Which of the adapters in a file is read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::keys::{Key, Meaning, joined};
use crate::shown::shown;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The number of names that an error lists.
const LISTED: usize = 12;

/// A tensor and what its name means.
pub(super) struct Entry<'a> {
    pub tensor: Tensor<'a>,
    pub component: Option<&'a str>,
    /// [`super::names::Unwrapped::inner`].
    pub inner: &'a str,
    pub flattened: bool,
    pub key: Key<'a>,
}

/// Decides which copies of wholly trained modules have an adapter's name, which is then in their
/// key, and finds the one adapter that all entries belong to: the only one, or the one wanted.
pub(super) fn choose<'a>(
    entries: &mut [Entry<'a>],
    wanted: Option<&str>,
    path: &Path,
) -> Result<Option<&'a str>> {
    let names: BTreeSet<&str> = entries
        .iter()
        .filter_map(|entry| entry.key.adapter)
        .collect();
    resolve_copies(entries, &names, wanted);
    let names: BTreeSet<&'a str> = entries
        .iter()
        .filter_map(|entry| entry.key.adapter)
        .collect();
    let listed = || {
        let mut list: Vec<String> = names.iter().take(LISTED).map(|name| shown(name)).collect();
        if names.len() > LISTED {
            list.push("...".into());
        }
        list
    };
    match (wanted, names.len()) {
        (None, 0) => Ok(None),
        (Some(wanted), 0) => Err(Error::NoSuchAdapter {
            path: path.into(),
            wanted: shown(wanted),
            names: vec!["one without a name".into()],
        }),
        (None, 1) => Ok(names.first().copied()),
        (None, _) => Err(Error::Adapters {
            path: path.into(),
            names: listed(),
        }),
        (Some(wanted), _) => match names.get(wanted) {
            Some(name) => Ok(Some(name)),
            None => Err(Error::NoSuchAdapter {
                path: path.into(),
                wanted: shown(wanted),
                names: listed(),
            }),
        },
    }
}

/// Turns every [`Meaning::Copied`] into a saved tensor, or into an unknown one where the first
/// segment of its tail may be an adapter's name or a submodule's.
fn resolve_copies(entries: &mut [Entry<'_>], names: &BTreeSet<&str>, wanted: Option<&str>) {
    let decided: Vec<_> = {
        let copies = Copies::new(entries, names, wanted);
        entries
            .iter()
            .map(|entry| match entry.key.meaning {
                Meaning::Copied { module, tail } => Some(copies.decide(module, tail)),
                _ => None,
            })
            .collect()
    };
    for (entry, decided) in entries.iter_mut().zip(decided) {
        let (Some(decided), Meaning::Copied { module, tail }) = (decided, &entry.key.meaning)
        else {
            continue;
        };
        let (adapter, meaning) = match (decided, tail.split_once('.')) {
            (Tail::Named, Some((first, rest))) => {
                (Some(first), Meaning::Saved(joined(module, rest)))
            }
            (Tail::Named | Tail::Plain, _) => (None, Meaning::Saved(joined(module, tail))),
            (Tail::Either, _) => {
                let first = tail.split('.').next().unwrap_or_default();
                let reason = format!(
                    "may be a tensor of {}'s {first}, or of an adapter of that name \
                     (modules_to_save.{first}): say so if it is the adapter's name (--adapter \
                     {first})",
                    shown(module),
                    first = shown(first)
                );
                (None, Meaning::Unknown(reason))
            }
        };
        (entry.key.adapter, entry.key.meaning) = (adapter, meaning);
    }
}

/// What the first segment of a copy's tail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// An adapter's name.
    Named,
    /// A part of the tensor's name.
    Plain,
    Either,
}

struct Copies<'e> {
    /// Names that LoRA's own tensors have.
    names: &'e BTreeSet<&'e str>,
    wanted: Option<&'e str>,
    originals: BTreeSet<&'e str>,
    /// What each module's tails say alone.
    by_tails: BTreeMap<&'e str, Tail>,
}

impl<'e> Copies<'e> {
    fn new(
        entries: &'e [Entry<'_>],
        names: &'e BTreeSet<&'e str>,
        wanted: Option<&'e str>,
    ) -> Self {
        let mut copies = Self {
            names,
            wanted,
            originals: BTreeSet::new(),
            by_tails: BTreeMap::new(),
        };
        let mut tails: BTreeMap<&str, Vec<(&str, &[usize])>> = BTreeMap::new();
        for entry in entries {
            match &entry.key.meaning {
                Meaning::Original(name) => {
                    copies.originals.insert(name);
                }
                Meaning::Copied { module, tail } => {
                    let of_module = tails.entry(module).or_default();
                    of_module.push((tail, entry.tensor.shape));
                }
                _ => {}
            }
        }
        let tails = tails
            .iter()
            .map(|(module, tails)| (*module, by_tails(tails)));
        copies.by_tails = tails.collect();
        copies
    }

    fn decide(&self, module: &str, tail: &str) -> Tail {
        let Some((first, rest)) = tail.split_once('.') else {
            return Tail::Plain;
        };
        let has_original = |tail: &str| self.originals.contains(joined(module, tail).as_str());
        if self.names.contains(first) || first == "default" || self.wanted == Some(first) {
            return Tail::Named;
        }
        match (has_original(rest), has_original(tail)) {
            (true, false) => return Tail::Named,
            (false, true) => return Tail::Plain,
            _ => {}
        }
        // LoRA's own tensors have names, and this isn't one of them.
        if !self.names.is_empty() {
            return Tail::Plain;
        }
        self.by_tails.get(module).copied().unwrap_or(Tail::Either)
    }
}

/// What the first segments of a module's tails are by the tails alone. Several adapters have the
/// same tensors, and several submodules usually haven't.
fn by_tails(tails: &[(&str, &[usize])]) -> Tail {
    let mut below: BTreeMap<&str, BTreeSet<(&str, &[usize])>> = BTreeMap::new();
    for (tail, shape) in tails {
        match tail.split_once('.') {
            Some((first, rest)) => {
                below.entry(first).or_default().insert((rest, shape));
            }
            None => return Tail::Plain,
        }
    }
    let mut sets = below.values();
    let alike = sets.next().is_none_or(|one| sets.all(|other| other == one));
    if alike { Tail::Either } else { Tail::Plain }
}
