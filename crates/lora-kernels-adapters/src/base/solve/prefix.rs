//! The one prefix that all names have in front, or lack.

use std::collections::HashSet;

use super::{MOST_COMPARISONS, Search};
use crate::base::mapping::{Mapping, Replacement};
use crate::base::nodes::{Level, common_front, ends_with, has_number, is_sensible, last, split};
use crate::base::towers::{is_rival, same_part};

impl Search<'_, '_> {
    /// The one prefix that all items have in front of their names in the base model, or lack there.
    pub(super) fn one_prefix(&mut self, driving: &[usize]) -> Option<Replacement> {
        let items = self.items;
        let nodes = || driving.iter().map(|&at| items[at].node);
        if nodes().any(|node| !is_sensible(node)) {
            return None;
        }
        // The node that the fewest of the base model's end like.
        let ends_like = |node: &str| match split(node) {
            (head, "") => self.nodes.plain(last(head)),
            (_, tail) => self.nodes.heads(tail),
        };
        let rarest = nodes().min_by_key(|node| ends_like(node).len())?;
        let (head, tail) = split(rarest);
        let mut candidates = Vec::new();
        for found in ends_like(rarest) {
            let of = if tail.is_empty() { rarest } else { head };
            if ends_with(found, of) && *found != of {
                let front = &found[..found.len() - of.len()];
                candidates.push(Replacement::new("", front.trim_end_matches('.')));
            }
        }
        let shared = nodes().fold(rarest, |shared, node| common_front(shared, node));
        let cuts = shared.match_indices('.').map(|(at, _)| &shared[..at]);
        for prefix in cuts.chain((!shared.is_empty()).then_some(shared)) {
            candidates.push(Replacement::new(prefix, ""));
        }
        // A prefix with a number counts if all of the base model's names have it.
        let front = self.nodes.common_front();
        let cuts = front.match_indices('.').map(|(at, _)| &front[..at]);
        for prefix in cuts.chain([front]).filter(|prefix| has_number(prefix)) {
            candidates.push(Replacement::new("", prefix));
        }
        let mut best: Vec<(Level, Replacement)> = Vec::new();
        let mut others: Vec<(Level, Replacement)> = Vec::new();
        for candidate in candidates {
            let Some(level) = self.level_of_all(driving, &candidate) else {
                continue;
            };
            if self.is_likely(driving, &candidate) {
                best.push((level, candidate));
            } else {
                self.unlikely(driving, candidate.clone());
                others.push((level, candidate));
            }
        }
        let most = best.iter().map(|(level, _)| *level).max()?;
        best.retain(|(level, _)| *level == most);
        match <[_; 1]>::try_from(best) {
            Ok([(_, one)]) => {
                // The groups' search tells between which.
                let is_rival = |other: &Replacement| is_rival(one.from(), one.to(), other.to());
                let mut others = others.iter().filter(|(level, _)| *level >= most);
                if !others.any(|(_, other)| is_rival(other)) {
                    return Some(one);
                }
                self.unlikely(driving, one);
                None
            }
            Err(_) => None,
        }
    }

    /// The worst level among the items with a replacement, or `None` if one of them isn't there.
    fn level_of_all(&mut self, driving: &[usize], replacement: &Replacement) -> Option<Level> {
        let mapping = Mapping::new([replacement.clone()]).ok()?;
        let mut worst = Level::Fits;
        for &at in driving {
            self.comparisons += 1;
            let item = &self.items[at];
            let (_, node) = mapping.find(item.node)?;
            let level = self.nodes.level(&node, item.child, &item.wanted.fits);
            if level == Level::Absent || self.comparisons > MOST_COMPARISONS {
                return None;
            }
            worst = worst.min(level);
        }
        Some(worst)
    }

    /// Whether a prefix, added or taken off, leaves every item in its part of the model.
    fn is_likely(&self, driving: &[usize], replacement: &Replacement) -> bool {
        let from = replacement.from();
        // A number that is taken off is no layer's if another follows.
        let numbers = !has_number(from)
            || driving.iter().all(|&at| {
                let node = self.items[at].node;
                node.strip_prefix(from).is_some_and(has_number)
            });
        let Ok(mapping) = Mapping::new([replacement.clone()]) else {
            return false;
        };
        let heads: HashSet<&str> = driving.iter().map(|&at| self.items[at].node).collect();
        let heads: HashSet<&str> = heads.into_iter().map(|node| split(node).0).collect();
        numbers
            && heads.iter().all(|head| {
                let found = match mapping.find(head) {
                    Some((_, found)) => found,
                    None => return true,
                };
                same_part(head, &found) || self.nodes.only_part(head, &found)
            })
    }
}
