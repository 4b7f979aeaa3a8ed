//! Nodes without a number, such as `lm_head`.

use super::rules::{Pair, segments};
use super::{MOST_COMPARISONS, Search};
use crate::base::mapping::{Mapping, Replacement};
use crate::base::nodes::{Level, last, stripped};
use crate::base::towers::{is_rival, renames_trunk, same_part};

impl<'a> Search<'_, 'a> {
    /// Finds a node without a number, such as `lm_head`: it follows what was found for the heads,
    /// or has its own name, or is in another trunk where heads are, too.
    pub(super) fn plain(&mut self, at: usize, rules: &Mapping) {
        let node = self.items[at].node;
        let ruled = rules.apply(node);
        let (by_rules, as_it_is) = (self.level(at, Some(&ruled)), self.level(at, Some(node)));
        let is_there = |level| level >= Level::Named;
        let chosen = match (is_there(by_rules), is_there(as_it_is)) {
            _ if ruled == node && by_rules > Level::Absent => ruled,
            (true, true) if by_rules == as_it_is => {
                let (from, to, _) = stripped(node, &ruled, segments(node).saturating_sub(1));
                let replacements = vec![Replacement::new(from, to), Replacement::new(from, from)];
                self.solution.undecided.insert(at, replacements);
                return;
            }
            (true, true) if as_it_is > by_rules => node.to_owned(),
            (true, _) => ruled,
            (false, true) => node.to_owned(),
            (false, false) => match self.in_another_trunk(at) {
                Some(found) => found.to_owned(),
                None if by_rules > Level::Absent => ruled,
                None => return,
            },
        };
        self.pair(Pair {
            from: node.to_owned(),
            to: chosen,
            is_head: false,
        });
    }

    /// The one node that only has another name for the trunk.
    fn in_another_trunk(&mut self, at: usize) -> Option<&'a str> {
        let node = self.items[at].node;
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for &other in self.nodes.plain(last(node)) {
            self.comparisons += 1;
            if self.comparisons > MOST_COMPARISONS {
                return None;
            }
            let fits = self.level(at, Some(other)) == Level::Fits;
            if fits && renames_trunk(node, other) && same_part(node, other) {
                found.push(other);
            } else if fits {
                others.push(other);
            }
        }
        if let [one] = found[..] {
            found.extend(
                others
                    .into_iter()
                    .filter(|other| is_rival(node, one, other)),
            );
        }
        let replacement = |other: &&str| {
            let (from, to, _) = stripped(node, other, segments(node).saturating_sub(1));
            Replacement::new(from, to)
        };
        let renamed = self.is_renamed();
        match found[..] {
            [one] if renamed => Some(one),
            [one] => {
                self.unlikely(&[at], replacement(&one));
                None
            }
            [] => None,
            _ => {
                let replacements = found.iter().take(4).map(replacement).collect();
                self.solution.undecided.insert(at, replacements);
                None
            }
        }
    }
}
