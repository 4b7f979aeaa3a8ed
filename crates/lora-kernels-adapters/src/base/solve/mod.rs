//! Finds the replacements under which an adapter's names lie in a base model.

mod plain;
mod prefix;
mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::mapping::{Mapping, Replacement, joined};
use super::nodes::{Level, Nodes, ends_with, has_number, is_sensible, split, stripped};
use super::resolve::LISTED;
use super::towers::{is_rival, renames_trunk, same_list, same_part, tells_apart};
use super::wanted::Wanted;
use crate::steps::step;
use rules::{Pair, rules};

/// Names compared at most, so that made-up files can't keep the search busy.
const MOST_COMPARISONS: usize = 1_000_000;

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
    /// The items whose heads are another head's, too.
    pub twins: HashMap<usize, Twin>,
    /// Replacements that would fit, and that are too unlikely to be taken unasked.
    pub unlikely: HashMap<usize, Vec<Replacement>>,
}

/// Two heads of the adapter that would be one in the base model.
#[derive(Debug, Clone)]
pub(super) struct Twin {
    pub head: String,
    pub ours: String,
    pub other: String,
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
        any_renamed: false,
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
        for head in heads {
            search.pair(Pair::head(head, &mapping.apply(head)));
        }
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
    /// Whether any of them has another name there.
    any_renamed: bool,
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

    /// Whether the base model has another tree than the adapter, by what was found so far. Where it
    /// has the same, a name that isn't there is another module's.
    fn is_renamed(&self) -> bool {
        !self.exact && (self.pairs.is_empty() || self.any_renamed)
    }

    fn pair(&mut self, pair: Pair) {
        self.any_renamed |= pair.from != pair.to;
        self.pairs.push(pair);
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
                Decision::Head(found) => self.pair(Pair::head(head, found)),
                Decision::Among(options) => ambiguous.push((group, options)),
                Decision::Nothing if late => {}
                Decision::Nothing => {
                    if let Some(found) = self.most(&group) {
                        self.pair(Pair::head(head, found));
                    }
                }
            }
        }
        // What was found for other heads may decide.
        let mapping = rules(&self.pairs).unwrap_or_default();
        for (group, options) in ambiguous {
            let ruled = mapping.apply(group.head);
            if options.contains(&ruled.as_str()) && ruled != group.head {
                self.pair(Pair::head(group.head, &ruled));
                continue;
            }
            let replacements: Vec<Replacement> = options
                .iter()
                .take(LISTED)
                .map(|option| {
                    let (from, to, _) = stripped(group.head, option, usize::MAX);
                    Replacement::new(from, to)
                })
                .collect();
            for at in group.items {
                self.solution.undecided.insert(at, replacements.clone());
            }
        }
        let mapping = rules(&self.pairs).unwrap_or_default();
        for at in plain {
            self.plain(at, &mapping);
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
                if self.level(at, Some(option)) > Level::Absent {
                    *counts.entry(option).or_default() += 1;
                }
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
        options.retain(|&(level, option)| {
            // This takes the longest, and is asked last.
            let in_part =
                || same_part(head, option) || (pure(option) && self.nodes.only_part(head, option));
            let usual = match late && !self.is_renamed() {
                true => option == head,
                false => pure(option) || renames_trunk(head, option),
            };
            let is_list =
                || !self.cautious && !late && same_list(head, option) && !tells_apart(head, option);
            let likely = (usual || is_list()) && in_part();
            if !likely {
                unlikely.push((level, option));
            }
            likely
        });
        for &(_, option) in unlikely.iter().take(LISTED) {
            let (from, to, _) = stripped(head, option, usize::MAX);
            self.unlikely(&group.items, Replacement::new(from, to));
        }
        if let Some(&(_, same)) = options.iter().find(|(_, option)| *option == head) {
            return Decision::Head(same);
        }
        let Some(most) = options.iter().map(|&(level, _)| level).max() else {
            return Decision::Nothing;
        };
        let best: Vec<&str> = options
            .into_iter()
            .filter(|&(level, _)| level == most)
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
        let is_rival = |option: &str, other: &str| {
            let is_other = same_list(head, other) && tells_apart(head, other);
            let is_usual = pure(option) || renames_trunk(head, option);
            is_rival(head, option, other) || (is_other && same_part(head, other) && !is_usual)
        };
        match decided {
            Some(option) => {
                let rivals = unlikely.iter().filter(|(level, _)| *level >= most);
                let rivals = rivals.filter(|(_, other)| is_rival(option, other));
                let rivals: Vec<&str> = rivals.map(|&(_, other)| other).take(LISTED).collect();
                if rivals.is_empty() {
                    return Decision::Head(option);
                }
                Decision::Among([vec![option], rivals].concat())
            }
            None => Decision::Among(best),
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
        let found: HashSet<(bool, String)> = self
            .pairs
            .iter()
            .map(|pair| (pair.is_head, pair.from.clone()))
            .collect();
        for (is_head, from) in there {
            if found.contains(&(is_head, from.to_owned())) {
                continue;
            }
            self.pair(Pair {
                from: from.to_owned(),
                to: rules.apply(from),
                is_head,
            });
        }
        self.groups(&rest, true);
    }

    fn finish(mut self) -> Solution {
        self.refuse_twins();
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

impl Search<'_, '_> {
    /// Two heads of the adapter can't be one in the base model, also where their items differ.
    fn refuse_twins(&mut self) {
        let mut owners: HashMap<&str, Vec<&Pair>> = HashMap::new();
        let mut seen = HashSet::new();
        for pair in self.pairs.iter().filter(|pair| pair.is_head) {
            step();
            // A head is there once for what drives the search and once for what follows.
            if seen.insert((&pair.to, &pair.from)) {
                owners.entry(&pair.to).or_default().push(pair);
            }
        }
        let mut twins: HashMap<&str, Twin> = HashMap::new();
        for pairs in owners.values() {
            let [first, second, ..] = pairs[..] else {
                continue;
            };
            for pair in pairs {
                let twin = Twin {
                    head: first.to.clone(),
                    ours: pair.from.clone(),
                    other: match pair.from == first.from {
                        true => second.from.clone(),
                        false => first.from.clone(),
                    },
                };
                twins.insert(&pair.from, twin);
            }
        }
        for (at, item) in self.items.iter().enumerate() {
            let (head, tail) = split(item.node);
            if let Some(twin) = twins.get(head).filter(|_| !tail.is_empty()) {
                self.solution.twins.insert(at, twin.clone());
            }
        }
    }
}

enum Decision<'a> {
    Head(&'a str),
    Among(Vec<&'a str>),
    Nothing,
}

fn has_numbers(replacement: &Replacement) -> bool {
    has_number(replacement.from()) || has_number(replacement.to())
}
