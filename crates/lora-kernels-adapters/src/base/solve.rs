//! Finds the replacements under which an adapter's names lie in a base model.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::mapping::{Mapping, Replacement, joined};
use super::nodes::{
    Level, Nodes, common_front, ends_with, has_number, is_sensible, last, split, stripped,
};
use super::towers::{renames_trunk, same_list, same_part};
use super::wanted::Wanted;

/// Names compared at most, so that made-up files can't keep the search busy.
const MOST_COMPARISONS: usize = 2_000_000;
/// A model's parts with names of their own; found mappings have no more replacements.
const MOST_REPLACEMENTS: usize = 64;

/// Something wanted, under the name that it is looked for by.
#[derive(Debug)]
pub(super) struct Item<'w> {
    pub node: &'w str,
    /// Empty for a module.
    pub child: &'w str,
    pub wanted: &'w Wanted,
}

/// The replacements that were found.
#[derive(Debug, Default)]
pub(super) struct Solution {
    pub mapping: Mapping,
    /// The replacements between which can't be decided, by the index of each item that needs one.
    pub undecided: HashMap<usize, Vec<Replacement>>,
    /// Replacements that would fit, and that are too unlikely to be taken unasked.
    pub unlikely: HashMap<usize, Vec<Replacement>>,
}

/// Finds the mapping. `cautious` takes only replacements that are usual ones.
pub(super) fn solve(nodes: &Nodes<'_>, items: &[Item<'_>], cautious: bool) -> Solution {
    let required = |item: &&Item<'_>| item.wanted.required;
    let any_required = items.iter().any(|item| required(&item));
    let drives = |item: &Item<'_>| item.wanted.required || !any_required;
    let mut search = Search {
        nodes,
        items,
        cautious,
        comparisons: 0,
        exact: false,
        pairs: Vec::new(),
        solution: Solution::default(),
    };
    let driving: Vec<usize> = (0..items.len()).filter(|&at| drives(&items[at])).collect();
    let is_there = |&at: &usize| search.level(at, None) > Level::Absent;
    if driving.iter().all(is_there) {
        search.exact = !driving.is_empty();
    } else if let Some(replacement) = search.one_prefix(&driving) {
        let mapping = Mapping::new([replacement]).unwrap_or_default();
        if mapping.replacements().iter().any(has_numbers) {
            search.solution.mapping = mapping;
            return search.solution;
        }
        let heads: BTreeSet<&str> = driving.iter().map(|&at| split(items[at].node).0).collect();
        let pairs = heads
            .into_iter()
            .map(|head| Pair::head(head, &mapping.apply(head)));
        search.pairs.extend(pairs);
    } else {
        search.groups(&driving, false);
    }
    search.follow(&driving);
    search.finish()
}

struct Search<'s, 'a> {
    nodes: &'s Nodes<'a>,
    items: &'s [Item<'s>],
    cautious: bool,
    comparisons: usize,
    /// Whether all items that drive the search have their own names.
    exact: bool,
    /// What the heads, and the nodes without a number, are in the base model.
    pairs: Vec<Pair>,
    solution: Solution,
}

/// Items whose nodes have one head.
struct Group<'s> {
    head: &'s str,
    items: Vec<usize>,
}

impl<'s, 'a> Search<'s, 'a> {
    /// How well an item is there with its head, or a node without a number, replaced.
    fn level(&self, at: usize, head: Option<&str>) -> Level {
        let item = &self.items[at];
        match head {
            None => self.nodes.level(item.node, item.child, &item.wanted.fits),
            Some(head) => {
                let (_, tail) = split(item.node);
                self.nodes
                    .level(&joined(head, tail), item.child, &item.wanted.fits)
            }
        }
    }

    /// The one prefix that all items have in front of their names in the base model, or lack there.
    fn one_prefix(&mut self, driving: &[usize]) -> Option<Replacement> {
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
        for candidate in candidates {
            let Some(level) = self.level_of_all(driving, &candidate) else {
                continue;
            };
            if self.is_likely(driving, &candidate) {
                best.push((level, candidate));
            } else {
                self.unlikely(driving, candidate);
            }
        }
        let most = best.iter().map(|(level, _)| *level).max()?;
        best.retain(|(level, _)| *level == most);
        match <[_; 1]>::try_from(best) {
            Ok([(_, replacement)]) => Some(replacement),
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

    fn unlikely(&mut self, items: &[usize], replacement: Replacement) {
        for &at in items {
            let all = self.solution.unlikely.entry(at).or_default();
            if all.len() < 4 && !all.contains(&replacement) {
                all.push(replacement.clone());
            }
        }
    }

    /// Finds what each head is in the base model. A `late` group's items are there or not: they
    /// follow the replacements that were found for others.
    fn groups(&mut self, among: &[usize], late: bool) {
        let items = self.items;
        let found: HashSet<(bool, String)> = self
            .pairs
            .iter()
            .map(|pair| (pair.is_head, pair.from.clone()))
            .collect();
        let is_found = |is_head, from: &str| found.contains(&(is_head, from.to_owned()));
        let mut heads: BTreeMap<&'s str, Vec<usize>> = BTreeMap::new();
        let mut plain = Vec::new();
        for &at in among {
            match split(items[at].node) {
                _ if !is_sensible(items[at].node) => {}
                (head, tail) if is_found(!tail.is_empty(), head) => {}
                (_, "") => plain.push(at),
                (head, _) => heads.entry(head).or_default().push(at),
            }
        }
        let mut ambiguous = Vec::new();
        for (head, items) in heads {
            let group = Group { head, items };
            let options = self.options(&group);
            match self.decide(&group, options, late) {
                Decision::Head(found) => self.pairs.push(Pair::head(head, found)),
                Decision::Among(options) => ambiguous.push((group, options)),
                Decision::Nothing if late => {}
                Decision::Nothing => {
                    if let Some(found) = self.most(&group) {
                        self.pairs.push(Pair::head(head, found));
                    }
                }
            }
        }
        // What was found for other heads may decide.
        let rules = rules(&self.pairs).unwrap_or_default();
        for (group, options) in ambiguous {
            let ruled = rules.apply(group.head);
            if options.contains(&ruled.as_str()) && ruled != group.head {
                self.pairs.push(Pair::head(group.head, &ruled));
                continue;
            }
            let replacements: Vec<Replacement> = options
                .iter()
                .map(|option| {
                    let (from, to, _) = stripped(group.head, option, usize::MAX);
                    Replacement::new(from, to)
                })
                .collect();
            for at in group.items {
                self.solution.undecided.insert(at, replacements.clone());
            }
        }
        let rules = self::rules(&self.pairs).unwrap_or_default();
        for at in plain {
            self.plain(at, &rules);
        }
    }

    /// The base model's heads under which all items of a group lie, with the worst level of each.
    fn options(&mut self, group: &Group<'s>) -> Vec<(Level, &'a str)> {
        let tail = |at: usize| split(self.items[at].node).1;
        let Some(rarest) =
            { group.items.iter().copied() }.min_by_key(|&at| self.nodes.heads(tail(at)).len())
        else {
            return Vec::new();
        };
        let mut options = Vec::new();
        for &head in self.nodes.heads(tail(rarest)) {
            let mut worst = Level::Fits;
            for &at in &group.items {
                self.comparisons += 1;
                worst = worst.min(self.level(at, Some(head)));
                if worst == Level::Absent || self.comparisons > MOST_COMPARISONS {
                    break;
                }
            }
            if self.comparisons > MOST_COMPARISONS {
                return Vec::new();
            }
            if worst > Level::Absent {
                options.push((worst, head));
            }
        }
        options
    }

    /// The one head under which the most items of a group lie, where not all do: then the error is
    /// about the others.
    fn most(&mut self, group: &Group<'s>) -> Option<&'a str> {
        let head = group.head;
        let mut counts: BTreeMap<&'a str, usize> = BTreeMap::new();
        for &at in &group.items {
            for &option in self.nodes.heads(split(self.items[at].node).1) {
                self.comparisons += 1;
                if self.comparisons > MOST_COMPARISONS {
                    return None;
                }
                *counts.entry(option).or_default() += 1;
            }
        }
        counts.retain(|option, _| {
            let pure = ends_with(option, head) || ends_with(head, option);
            same_part(head, option) && (pure || (!self.cautious && renames_trunk(head, option)))
        });
        if counts.contains_key(head) {
            return None;
        }
        let most = counts.values().copied().max()?;
        let mut best = counts.into_iter().filter(|&(_, count)| count == most);
        match (best.next(), best.next()) {
            (Some((option, _)), None) => Some(option),
            _ => None,
        }
    }

    fn decide(
        &mut self,
        group: &Group<'s>,
        mut options: Vec<(Level, &'a str)>,
        late: bool,
    ) -> Decision<'a> {
        let head = group.head;
        let pure = |option: &str| ends_with(option, head) || ends_with(head, option);
        let mut unlikely = Vec::new();
        options.retain(|&(_, option)| {
            let (from, to, _) = stripped(head, option, usize::MAX);
            let in_part =
                same_part(head, option) || (pure(option) && self.nodes.only_part(head, option));
            let usual = match late && self.exact {
                true => option == head,
                false => pure(option) || renames_trunk(head, option),
            };
            let likely = in_part && (usual || (!self.cautious && !late && same_list(head, option)));
            if !likely {
                unlikely.push(Replacement::new(from, to));
            }
            likely
        });
        for replacement in unlikely {
            self.unlikely(&group.items, replacement);
        }
        if let Some(&(_, same)) = options.iter().find(|(_, option)| *option == head) {
            return Decision::Head(same);
        }
        let Some(best) = options.iter().map(|&(level, _)| level).max() else {
            return Decision::Nothing;
        };
        let best: Vec<&str> = options
            .into_iter()
            .filter(|&(level, _)| level == best)
            .map(|(_, option)| option)
            .collect();
        let one = |options: &[&'a str]| match options {
            [option] => Some(*option),
            _ => None,
        };
        let some = |test: &dyn Fn(&str) -> bool| -> Vec<&'a str> {
            best.iter().copied().filter(|option| test(option)).collect()
        };
        let decided = one(&best)
            .or_else(|| one(&some(&pure)))
            .or_else(|| one(&some(&|option| pure(option) && renames_trunk(head, option))))
            .or_else(|| match some(&pure)[..] {
                [] => one(&some(&|option| renames_trunk(head, option))),
                _ => None,
            });
        match decided {
            Some(option) => Decision::Head(option),
            None => Decision::Among(best),
        }
    }

    /// Finds a node without a number, such as `lm_head`: it follows what was found for the heads,
    /// or has its own name, or is in another trunk where heads are, too.
    fn plain(&mut self, at: usize, rules: &Mapping) {
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
        self.pairs.push(Pair {
            from: node.to_owned(),
            to: chosen,
            is_head: false,
        });
    }

    /// The one node that only has another name for the trunk.
    fn in_another_trunk(&mut self, at: usize) -> Option<&'a str> {
        let node = self.items[at].node;
        let mut found = Vec::new();
        for &other in self.nodes.plain(last(node)) {
            self.comparisons += 1;
            if self.comparisons > MOST_COMPARISONS {
                return None;
            }
            let fits = self.level(at, Some(other)) == Level::Fits;
            if fits && renames_trunk(node, other) && same_part(node, other) {
                found.push(other);
            }
        }
        let replacement = |other: &&str| {
            let (from, to, _) = stripped(node, other, segments(node).saturating_sub(1));
            Replacement::new(from, to)
        };
        // Where the heads have one tree in both, another tree is another module.
        let renamed = !self.exact
            && (self.pairs.is_empty() || self.pairs.iter().any(|pair| pair.from != pair.to));
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

    /// Finds the items that don't drive the search, by what was found for those that do.
    fn follow(&mut self, driving: &[usize]) {
        let rules = rules(&self.pairs).unwrap_or_default();
        let driving: HashSet<usize> = driving.iter().copied().collect();
        let mut rest = Vec::new();
        let mut there: BTreeSet<(bool, &str)> = BTreeSet::new();
        for (at, item) in self.items.iter().enumerate() {
            if driving.contains(&at) {
                continue;
            }
            let node = rules.apply(item.node);
            let level = self.nodes.level(&node, item.child, &item.wanted.fits);
            if level < Level::Named {
                rest.push(at);
                continue;
            }
            match split(item.node) {
                (node, "") => there.insert((false, node)),
                (head, _) => there.insert((true, head)),
            };
        }
        if rest.is_empty() {
            return;
        }
        // What is found for the rest must not change these.
        for (is_head, from) in there {
            self.pairs.push(Pair {
                from: from.to_owned(),
                to: rules.apply(from),
                is_head,
            });
        }
        self.groups(&rest, true);
    }

    fn finish(mut self) -> Solution {
        match rules(&self.pairs) {
            Some(mapping) => self.solution.mapping = mapping,
            None => {
                let replacements: Vec<Replacement> = self
                    .pairs
                    .iter()
                    .filter(|pair| pair.from != pair.to)
                    .take(4)
                    .map(|pair| Replacement::new(&pair.from, &pair.to))
                    .collect();
                for at in 0..self.items.len() {
                    self.solution.undecided.insert(at, replacements.clone());
                }
            }
        }
        self.solution
    }
}

enum Decision<'a> {
    Head(&'a str),
    Among(Vec<&'a str>),
    Nothing,
}

/// What a head, or a node without a number, is in the base model.
#[derive(Debug)]
struct Pair {
    from: String,
    to: String,
    is_head: bool,
}

impl Pair {
    fn head(from: &str, to: &str) -> Self {
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
fn rules(pairs: &[Pair]) -> Option<Mapping> {
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

fn has_numbers(replacement: &Replacement) -> bool {
    has_number(replacement.from()) || has_number(replacement.to())
}

fn segments(path: &str) -> usize {
    if path.is_empty() {
        0
    } else {
        path.split('.').count()
    }
}
