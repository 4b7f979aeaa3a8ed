//! The shortest replacements that say what was found.

use std::collections::{BTreeMap, HashSet};

use crate::base::mapping::{Mapping, Replacement};
use crate::base::nodes::stripped;

/// A model's parts with names of their own; found mappings have no more replacements.
const MOST_REPLACEMENTS: usize = 64;

/// What a head, or a node without a number, is in the base model.
#[derive(Debug)]
pub(super) struct Pair {
    pub from: String,
    pub to: String,
    pub is_head: bool,
}

impl Pair {
    pub fn head(from: &str, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            is_head: true,
        }
    }
}

/// The shortest replacements that make each pair's first path its second. Those of the heads go
/// first; what they don't make right gets one of its own. `None` if one path would be two in the
/// base model.
pub(super) fn rules(pairs: &[Pair]) -> Option<Mapping> {
    // How many of the segments that both paths end with a replacement leaves out.
    let mut shared: Vec<Option<usize>> = pairs
        .iter()
        .map(|pair| (pair.is_head && pair.from != pair.to).then_some(usize::MAX))
        .collect();
    loop {
        let mut replacements = BTreeMap::new();
        let mut clashes = HashSet::new();
        for (pair, shared) in pairs.iter().zip(&shared) {
            let Some(most) = *shared else { continue };
            let (from, to, _) = stripped(&pair.from, &pair.to, most);
            if *replacements.entry(from).or_insert(to) != to {
                clashes.insert(from);
            }
        }
        if replacements.len() > MOST_REPLACEMENTS {
            return None;
        }
        let replacements = replacements
            .into_iter()
            .filter(|(from, _)| !clashes.contains(from))
            .map(|(from, to)| Replacement::new(from, to));
        let mapping = Mapping::new(replacements).ok()?;
        let mut all_right = true;
        for (pair, shared) in pairs.iter().zip(&mut shared) {
            if mapping.apply(&pair.from) == pair.to {
                continue;
            }
            all_right = false;
            let most = shared.unwrap_or(segments(&pair.from));
            let (_, _, common) = stripped(&pair.from, &pair.to, most);
            *shared = match *shared {
                None if !pair.is_head => Some(0),
                None => Some(common.min(segments(&pair.from).saturating_sub(1))),
                // One more segment tells it from the others.
                Some(_) => Some(common.checked_sub(1)?),
            };
        }
        if all_right {
            return Some(mapping);
        }
    }
}

pub(super) fn segments(path: &str) -> usize {
    if path.is_empty() {
        0
    } else {
        path.split('.').count()
    }
}
