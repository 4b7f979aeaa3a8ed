//! Finds names whose dots became underscores, as kohya's files have them.

use std::collections::{HashMap, HashSet};

use super::BaseModel;
use super::mapping::{Mapping, Replacement, joined};
use super::nodes::{has_number, is_sensible};
use super::solve::Item;
use super::towers::same_part;

/// Prefixes compared at most, so that made-up files can't keep the search busy.
const MOST_COMPARISONS: usize = 4_000_000;

/// What was found for each item, by its index, and the prefix that the base model's names have.
#[derive(Debug, Default)]
pub(super) struct Found<'a> {
    pub nodes: HashMap<usize, Vec<&'a str>>,
    pub mapping: Mapping,
}

/// A node of the base model from one of its segments on.
struct End<'a> {
    node: &'a str,
    /// The segments in front.
    front: &'a str,
}

/// Finds the items' nodes: those whose names are the items' with underscores, and where there are
/// none, those that all have one more prefix. Several nodes for an item are ambiguous.
pub(super) fn solve<'a>(base: &'a BaseModel, items: &[(usize, Item<'_>)]) -> Found<'a> {
    let wanted: HashSet<&str> = items.iter().map(|(_, item)| item.node).collect();
    let longest = wanted.iter().map(|node| node.len()).max().unwrap_or(0);
    let mut ends: HashMap<String, Vec<End<'a>>> = HashMap::new();
    let mut seen = HashSet::new();
    for name in base.names().filter(|name| is_sensible(name)) {
        let Some((node, _)) = name.rsplit_once('.') else {
            continue;
        };
        // Names of a module's own modules may lie between those of its tensors.
        if !seen.insert(node) {
            continue;
        }
        let flat = node.replace('.', "_");
        let starts = node.match_indices('.').map(|(at, _)| at + 1);
        for start in std::iter::once(0).chain(starts) {
            let end = &flat[start..];
            if end.len() <= longest && wanted.contains(end) {
                let front = node[..start].trim_end_matches('.');
                ends.entry(end.to_owned())
                    .or_default()
                    .push(End { node, front });
            }
        }
    }
    let fronts = |item: &Item<'_>, front: &str| -> Vec<&'a str> {
        let all = ends.get(item.node).map_or(&[][..], Vec::as_slice);
        let nodes = all.iter().filter(|end| end.front == front);
        best(base, item, nodes.map(|end| end.node).collect())
    };
    let mut chosen = "";
    let driving = || items.iter().filter(|(_, item)| item.wanted.required);
    if !driving().all(|(_, item)| !fronts(item, "").is_empty()) {
        let rarest = driving()
            .map(|(_, item)| ends.get(item.node).map_or(&[][..], Vec::as_slice))
            .min_by_key(|ends| ends.len())
            .unwrap_or_default();
        // A prefix with a number may be a layer's, and one with another part's name that part's.
        let usual = |front: &&str| !has_number(front) && same_part("", front);
        let fronts_there = rarest.iter().map(|end| end.front);
        let candidates: HashSet<&str> = fronts_there.filter(usual).collect();
        let comparisons: usize = driving()
            .map(|(_, item)| ends.get(item.node).map_or(0, Vec::len))
            .sum();
        if comparisons.saturating_mul(candidates.len()) <= MOST_COMPARISONS {
            let fits = |front: &&str| driving().all(|(_, item)| !fronts(item, front).is_empty());
            let fitting: Vec<&str> = candidates.into_iter().filter(fits).collect();
            if let [front] = fitting[..] {
                chosen = front;
            }
        }
    }
    let nodes = items
        .iter()
        .map(|(at, item)| (*at, fronts(item, chosen)))
        .filter(|(_, nodes)| !nodes.is_empty());
    let replacement = (!chosen.is_empty()).then(|| Replacement::new("", chosen));
    Found {
        nodes: nodes.collect(),
        mapping: Mapping::new(replacement).unwrap_or_default(),
    }
}

/// The nodes that fit best.
fn best<'a>(base: &'a BaseModel, item: &Item<'_>, mut nodes: Vec<&'a str>) -> Vec<&'a str> {
    if nodes.len() < 2 {
        return nodes;
    }
    let fits = |node: &&str| {
        let tensor = base.tensor(&joined(node, item.child));
        tensor.is_some_and(|(_, tensor)| item.wanted.fits.fits(tensor.shape))
    };
    if nodes.iter().any(&fits) {
        nodes.retain(&fits);
    }
    nodes
}
