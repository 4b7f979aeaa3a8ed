//! The search for what one adapter wants, component by component.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use super::BaseModel;
use super::flattened;
use super::mapping::{Mapping, Replacement, joined};
use super::nodes::Nodes;
use super::resolve::{Fit, LISTED};
use super::solve::{self, Item, Solution};
use super::wanted::{Fits, Wanted};
use crate::steps::step;

/// What belongs to one component.
#[derive(Debug, Default)]
pub(super) struct Part<'a> {
    /// The component's name, where the names in the base model begin with it.
    pub front: String,
    pub mapping: Mapping,
    pub outcomes: BTreeMap<String, Outcome<'a>>,
    pub fit: Fit,
    pub left_out: bool,
}

impl<'a> Part<'a> {
    /// The tensors that were found.
    pub fn tensors(&self) -> impl Iterator<Item = &'a str> {
        self.outcomes.values().filter_map(|outcome| match outcome {
            Outcome::Found(name) => Some(*name),
            _ => None,
        })
    }
}

/// What became of one name.
#[derive(Debug, Clone)]
pub(super) enum Outcome<'a> {
    Found(&'a str),
    /// Replacements that would fit, if any.
    Absent(Vec<Replacement>),
    Ambiguous(Vec<Replacement>),
    /// Several names with underscores are the same.
    Several(Vec<&'a str>),
    /// Another name, or one that begins like another, is the same in the base model.
    Clash {
        there: String,
        ours: String,
        other: String,
    },
}

/// The name by the stated replacements, which may begin with the component, and the index of the
/// one that counts.
pub(super) fn renamed(
    stated: &Mapping,
    component: Option<&str>,
    front: &str,
    name: &str,
) -> Option<(usize, String)> {
    let whole = component.map(|component| joined(component, name));
    let whole = whole.and_then(|whole| stated.find(&whole));
    whole.or_else(|| stated.find(&joined(front, name)))
}

/// The search of one resolver.
pub(super) struct Search<'s, 'a> {
    pub base: &'a BaseModel,
    pub nodes: OnceLock<Nodes<'a>>,
    pub stated: &'s Mapping,
    /// Which of the stated replacements counted for a name.
    pub used: BTreeSet<usize>,
    /// Whether only usual replacements are found.
    pub cautious: bool,
}

impl<'a> Search<'_, 'a> {
    /// What is found of one component: its names as they are, or with the component in front.
    pub fn part(&mut self, component: Option<&str>, wanted: &[&Wanted]) -> Part<'a> {
        let plain = self.read("", component, wanted);
        let Some(name) = component else {
            return plain;
        };
        let with_front = self.read(name, component, wanted);
        let rank = |part: &Part<'_>| (part.fit.fitting, part.fit.found, part.mapping.is_empty());
        if rank(&with_front) > rank(&plain) {
            with_front
        } else {
            plain
        }
    }

    fn read(&mut self, front: &str, component: Option<&str>, wanted: &[&Wanted]) -> Part<'a> {
        // One name may be wanted twice: as a module's weight, and as the base's that came with it.
        let mut unique: BTreeMap<&str, &Wanted> = BTreeMap::new();
        for wanted in wanted {
            let entry = unique.entry(&wanted.name).or_insert(wanted);
            if wanted.required && !entry.required {
                *entry = wanted;
            }
        }
        let mut part = Part {
            front: front.to_owned(),
            ..Part::default()
        };
        let mut searched = Vec::new();
        let mut flattened = Vec::new();
        for wanted in unique.into_values() {
            if wanted.flattened {
                flattened.push(wanted);
                continue;
            }
            match renamed(self.stated, component, front, &wanted.name) {
                None => searched.push((joined(front, &wanted.name), wanted)),
                Some((at, name)) => {
                    self.used.insert(at);
                    let outcome = self.exact(&name, wanted);
                    part.outcomes.insert(wanted.name.clone(), outcome);
                }
            }
        }
        self.searched(&searched, &mut part);
        self.flattened(&flattened, &mut part);
        self.clashes(&mut part);
        let any_required = wanted.iter().any(|wanted| wanted.required);
        for wanted in wanted.iter().filter(|w| w.required || !any_required) {
            part.fit.required += 1;
            match part.outcomes.get(&wanted.name) {
                Some(Outcome::Found(name)) => {
                    part.fit.found += 1;
                    let tensor = self.base.tensor(name);
                    part.fit.fitting +=
                        usize::from(tensor.is_none_or(|(_, it)| wanted.fits.fits(it.shape)));
                }
                _ if part.fit.missing.len() < LISTED => {
                    part.fit.missing.push(wanted.name.clone());
                }
                _ => {}
            }
        }
        part
    }

    /// A name as it is.
    fn exact(&self, name: &str, wanted: &Wanted) -> Outcome<'a> {
        if wanted.fits == Fits::Module {
            let front = format!("{name}.");
            let next = self.base.homes.range(front.clone()..).next();
            return match next.filter(|(found, _)| found.starts_with(&front)) {
                Some((found, _)) => Outcome::Found(&found[..name.len()]),
                None => Outcome::Absent(Vec::new()),
            };
        }
        match self.base.homes.get_key_value(name) {
            Some((found, _)) => Outcome::Found(found),
            None => Outcome::Absent(Vec::new()),
        }
    }

    fn searched(&mut self, searched: &[(String, &Wanted)], part: &mut Part<'a>) {
        let is_found = |outcome: &Outcome<'_>| matches!(outcome, Outcome::Found(_));
        let mut solution = Solution::default();
        if !searched
            .iter()
            .all(|(name, wanted)| is_found(&self.exact(name, wanted)))
        {
            let items: Vec<Item<'_>> = searched
                .iter()
                .map(|(name, wanted)| item(name, wanted))
                .collect();
            let nodes = self.nodes.get_or_init(|| Nodes::new(self.base));
            solution = solve::solve(nodes, &items, self.cautious);
        }
        for (at, (name, wanted)) in searched.iter().enumerate() {
            let twin = solution.twins.remove(&at);
            let outcome = match (twin, solution.undecided.remove(&at)) {
                (Some(twin), _) => Outcome::Clash {
                    there: twin.head,
                    ours: twin.ours,
                    other: twin.other,
                },
                (None, Some(replacements)) => Outcome::Ambiguous(replacements),
                (None, None) => match self.exact(&solution.mapping.apply(name), wanted) {
                    Outcome::Absent(_) => {
                        Outcome::Absent(solution.unlikely.remove(&at).unwrap_or_default())
                    }
                    found => found,
                },
            };
            part.outcomes.insert(wanted.name.clone(), outcome);
        }
        part.mapping = solution.mapping;
    }

    fn flattened(&mut self, wanted: &[&Wanted], part: &mut Part<'a>) {
        if wanted.is_empty() {
            return;
        }
        let component = wanted
            .first()
            .and_then(|wanted| wanted.component.as_deref());
        let stated = Flat::new(self.stated, component);
        let mut names = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            match stated.apply(&wanted.name) {
                None => names.push(wanted.name.clone()),
                Some((at, name)) => {
                    self.used.insert(at);
                    names.push(name);
                }
            }
        }
        let items: Vec<(usize, Item<'_>)> = names
            .iter()
            .zip(wanted)
            .map(|(name, wanted)| item(name, wanted))
            .enumerate()
            .collect();
        let mut found = flattened::solve(self.base, &items);
        for (at, item) in &items {
            let outcome = match found.nodes.remove(at).as_deref() {
                Some([node]) => self.exact(&joined(node, item.child), item.wanted),
                None | Some([]) => Outcome::Absent(Vec::new()),
                Some(several) => Outcome::Several(several.to_vec()),
            };
            part.outcomes.insert(item.wanted.name.clone(), outcome);
        }
        if part.mapping.is_empty() {
            part.mapping = found.mapping;
        }
    }

    /// Where two names are one tensor, neither is found.
    fn clashes(&self, part: &mut Part<'a>) {
        let mut owners: HashMap<&'a str, &str> = HashMap::new();
        let mut clashes = Vec::new();
        for (name, outcome) in &part.outcomes {
            let Outcome::Found(tensor) = outcome else {
                continue;
            };
            if let Some(other) = owners.insert(tensor, name) {
                clashes.push((name.clone(), other.to_owned(), *tensor));
                clashes.push((other.to_owned(), name.clone(), *tensor));
            }
        }
        for (name, other, tensor) in clashes {
            let clash = Outcome::Clash {
                there: tensor.to_owned(),
                ours: name.clone(),
                other,
            };
            part.outcomes.insert(name, clash);
        }
    }
}

fn item<'w>(name: &'w str, wanted: &'w Wanted) -> Item<'w> {
    let (node, child) = match wanted.fits {
        Fits::Module => (name, ""),
        _ => name.rsplit_once('.').unwrap_or(("", name)),
    };
    Item {
        node,
        child,
        wanted,
    }
}

/// The stated replacements for names with underscores, by what they replace.
struct Flat {
    /// With the place of the first that replaces it, and what it puts there.
    replacements: HashMap<String, (usize, String)>,
    /// The most bytes of what is replaced.
    longest: usize,
}

impl Flat {
    /// What is replaced may begin with the component.
    fn new(stated: &Mapping, component: Option<&str>) -> Self {
        let mut flat = Self {
            replacements: HashMap::new(),
            longest: 0,
        };
        for (at, replacement) in stated.replacements().iter().enumerate() {
            let mut from = replacement.from();
            if let Some(rest) = component.and_then(|front| from.strip_prefix(front))
                && (rest.is_empty() || rest.starts_with('.'))
            {
                from = rest.trim_start_matches('.');
            }
            flat.longest = flat.longest.max(from.len());
            let to = replacement.to().replace('.', "_");
            let entry = flat.replacements.entry(from.replace('.', "_"));
            entry.or_insert((at, to));
        }
        flat
    }

    /// The name with the first replacement that counts for it, and the place of that.
    fn apply(&self, name: &str) -> Option<(usize, String)> {
        let (path, child) = name.rsplit_once('.')?;
        let ends = path.match_indices('_').map(|(at, _)| at);
        let begins = ends.take_while(|&end| end <= self.longest);
        let found = begins.filter_map(|end| {
            step();
            let (at, to) = self.replacements.get(&path[..end])?;
            Some((*at, to, &path[end + 1..]))
        });
        let whole = { self.replacements.get("") }.map(|(at, to)| (*at, to, path));
        let (at, to, rest) = found.chain(whole).min_by_key(|(at, ..)| *at)?;
        let name = match to.as_str() {
            "" => format!("{rest}.{child}"),
            to => format!("{to}_{rest}.{child}"),
        };
        Some((at, name))
    }
}
