//! Finds an adapter's names in a base model.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use super::BaseModel;
use super::closest::Closest;
use super::elsewhere::Elsewhere;
use super::mapping::{Mapping, Replacement, joined};
use super::nodes::has_number;
use super::search::{Outcome, Part, Search, renamed};
use super::wanted::Wanted;
use crate::shown::shown;
use crate::{Error, Result};

/// The number of candidates that an error lists.
pub(super) const LISTED: usize = 6;

/// Finds the tensors of a base model that an adapter wants. All names are looked at together: a
/// replacement of leading segments counts for all of them that begin so.
///
/// A name is found as it is; else with the replacements that are stated; else with the only
/// consistent set of replacements under which all required names lie in the base model.
/// Replacements that are found hold no number, so that no layer becomes another, and lead from no
/// tower of a model to another.
#[derive(Debug)]
pub struct Resolver<'a> {
    base: &'a BaseModel,
    /// By component.
    parts: BTreeMap<Option<String>, Part<'a>>,
    stated: Mapping,
    /// Which of the stated replacements counted for a name.
    used: BTreeSet<usize>,
    /// A component of which can't be told whether it is the base model, and why.
    doubt: Option<(String, String)>,
    closest: OnceLock<Closest<'a>>,
    elsewhere: OnceLock<Elsewhere<'a>>,
}

/// A tensor of the base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// Its name in the base model.
    pub name: &'a str,
    /// The index of its shard.
    pub shard: usize,
}

/// How much of what an adapter requires is in a base model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fit {
    /// How many names are required. If none is, every name counts.
    pub required: usize,
    /// How many of them were found.
    pub found: usize,
    /// How many of those have shapes that fit.
    pub fitting: usize,
    /// Names that were not found, a few of them.
    pub missing: Vec<String>,
}

impl Fit {
    /// Whether everything was found.
    pub fn is_full(&self) -> bool {
        self.found == self.required
    }

    fn add(&mut self, other: &Self) {
        self.required += other.required;
        self.found += other.found;
        self.fitting += other.fitting;
        self.missing.extend(other.missing.iter().cloned());
        self.missing.truncate(LISTED);
    }
}

impl<'a> Resolver<'a> {
    /// Looks for all that is wanted. What isn't found is told by [`Resolver::resolve`], and
    /// [`Resolver::fit`] sums it up.
    ///
    /// `stated` replacements count before any that are found. `components` are those whose names
    /// are looked for: all if it is empty. A component of which nothing is in the base model is
    /// left out if there are others.
    pub fn new(
        base: &'a BaseModel,
        wanted: &[Wanted],
        stated: &Mapping,
        components: &[String],
    ) -> Self {
        let mut by_component: BTreeMap<Option<String>, Vec<&Wanted>> = BTreeMap::new();
        for wanted in wanted {
            let component = wanted.component.clone();
            by_component.entry(component).or_default().push(wanted);
        }
        let mut search = Search {
            base,
            nodes: OnceLock::new(),
            stated,
            used: BTreeSet::new(),
            cautious: by_component.len() > 1,
        };
        let mut parts: BTreeMap<Option<String>, Part<'a>> = by_component
            .into_iter()
            .map(|(component, wanted)| {
                let is_chosen = components.is_empty()
                    || component
                        .as_ref()
                        .is_some_and(|name| components.contains(name));
                let part = match is_chosen {
                    true => search.part(component.as_deref(), &wanted),
                    false => Part {
                        left_out: true,
                        ..Part::default()
                    },
                };
                (component, part)
            })
            .collect();
        if parts.values().any(|part| part.fit.fitting > 0) {
            for component in absent(base, &parts) {
                if let Some(part) = parts.get_mut(&component) {
                    part.left_out = true;
                }
            }
        }
        let mut resolver = Self {
            base,
            parts,
            stated: stated.clone(),
            used: search.used,
            doubt: None,
            closest: OnceLock::new(),
            elsewhere: OnceLock::new(),
        };
        resolver.settle_rivals();
        if resolver.doubt.is_none() && resolver.parts.len() > 1 {
            resolver.doubt = resolver
                .torn()
                .or_else(|| components.is_empty().then(|| resolver.hidden()).flatten());
        }
        resolver
    }

    /// Two components can't be the same tensors. The one whose name the base model has counts.
    fn settle_rivals(&mut self) {
        let mut owners: HashMap<&'a str, &Option<String>> = HashMap::new();
        let mut rivals: BTreeSet<Option<String>> = BTreeSet::new();
        for (component, part) in self.parts.iter().filter(|(_, part)| !part.left_out) {
            for outcome in part.outcomes.values() {
                let Outcome::Found(name) = outcome else {
                    continue;
                };
                if let Some(&other) = owners.get(name)
                    && other != component
                {
                    rivals.insert(other.clone());
                    rivals.insert(component.clone());
                }
                owners.insert(name, component);
            }
        }
        let name = own_name(self.base);
        if name.is_some() && rivals.contains(&name) {
            for rival in rivals.iter().filter(|rival| **rival != name) {
                if let Some(part) = self.parts.get_mut(rival) {
                    part.left_out = true;
                }
            }
            return;
        }
        let named =
            |rival: &Option<String>| rival.as_deref().map_or("(without a name)".into(), shown);
        let rivals: Vec<String> = rivals.iter().map(named).collect();
        if let [first, others @ ..] = &rivals[..] {
            let reason = format!(
                "could be the base model, and so could {}",
                others.join(", ")
            );
            self.doubt = Some((first.clone(), reason));
        }
    }

    /// A component of which a part is in the base model and a part isn't. Where a file has several
    /// components, one that isn't the base model's has nothing in it.
    fn torn(&self) -> Option<(String, String)> {
        self.parts.iter().find_map(|(component, part)| {
            let missing = part.fit.missing.first()?;
            let is_torn = part.fit.fitting > 0 && !part.left_out;
            let reason = format!(
                "is in the base model in part only, which lacks {}; is this its base model?",
                shown(missing)
            );
            is_torn.then_some((shown(component.as_deref()?), reason))
        })
    }

    /// A component that is left out although the base model holds more than those that aren't: one
    /// file may hold all models of a pipeline, some of them under other names.
    fn hidden(&self) -> Option<(String, String)> {
        let (component, _) = { self.parts.iter() }.find(|(_, part)| part.left_out)?;
        let (taken, front) = self.parts.iter().find_map(|(component, part)| {
            let mut replacements = part.mapping.replacements().iter();
            let front = replacements.find(|it| it.from().is_empty() && !it.to().is_empty())?;
            (!part.left_out).then_some((component.as_deref()?, front.to()))
        })?;
        let is_other = |name: &str| {
            let rest = name.strip_prefix(front);
            has_number(name) && !rest.is_some_and(|rest| rest.starts_with('.'))
        };
        let other = self.base.names().find(|name| is_other(name))?;
        let reason = format!(
            "isn't in the base model under its names, and that holds more than {}, such as {}",
            shown(taken),
            shown(other)
        );
        Some((shown(component.as_deref()?), reason))
    }

    /// Whether it can be told which of the adapter's components the base model is.
    ///
    /// # Errors
    /// [`Error::Component`] names one that can't be placed: two could be the base model, or it is
    /// there in part, or it may be there under other names.
    pub fn check(&self) -> Result<()> {
        match self.doubt.clone() {
            None => Ok(()),
            Some((component, reason)) => Err(Error::Component { component, reason }),
        }
    }

    /// The tensor that the adapter calls `name`.
    ///
    /// # Errors
    /// [`Error::Unresolved`] if no tensor or more than one can be meant, [`Error::Clash`] if
    /// another of the adapter's names means the same tensor.
    pub fn resolve(&self, component: Option<&str>, name: &str) -> Result<Resolved<'a>> {
        self.find(component, name)?.ok_or_else(|| {
            let replacements = match self.outcome(component, name) {
                Some(Outcome::Absent(replacements)) => replacements.clone(),
                _ => Vec::new(),
            };
            self.unresolved(component, name, false, replacements)
        })
    }

    /// As [`Resolver::resolve`], but `None` if the base model has no such tensor.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    pub fn find(&self, component: Option<&str>, name: &str) -> Result<Option<Resolved<'a>>> {
        let found = match self.outcome(component, name) {
            Some(Outcome::Found(found)) => found,
            Some(Outcome::Absent(_)) => return Ok(None),
            Some(Outcome::Ambiguous(replacements)) => {
                return Err(self.unresolved(component, name, true, replacements.clone()));
            }
            Some(Outcome::Several(names)) => {
                return Err(Error::Unresolved {
                    wanted: shown(name),
                    mapped: None,
                    ambiguous: true,
                    candidates: listed(names.iter().copied()),
                    replacements: Vec::new(),
                });
            }
            Some(Outcome::Clash { there, ours, other }) => {
                return Err(Error::Clash {
                    first: shown(ours),
                    second: shown(other),
                    there: shown(there),
                });
            }
            // It wasn't among the wanted.
            None => &*self.named(component, name),
        };
        let home = self.base.homes.get_key_value(found);
        Ok(home.map(|(name, &shard)| Resolved { name, shard }))
    }

    fn outcome(&self, component: Option<&str>, name: &str) -> Option<&Outcome<'a>> {
        self.part(component)?.outcomes.get(name)
    }

    fn part(&self, component: Option<&str>) -> Option<&Part<'a>> {
        self.parts.get(&component.map(str::to_owned))
    }

    /// The name that `name` has, or would have, in the base model.
    pub fn named(&self, component: Option<&str>, name: &str) -> String {
        let Some(part) = self.part(component) else {
            return self.stated.apply(name);
        };
        match part.outcomes.get(name) {
            Some(Outcome::Found(found)) => (*found).to_owned(),
            _ => renamed(&self.stated, component, &part.front, name)
                .map(|(_, name)| name)
                .unwrap_or_else(|| part.mapping.apply(&joined(&part.front, name))),
        }
    }

    /// The tensors of a module of the base model and of the modules in it. `path` is the adapter's.
    pub fn below(&self, component: Option<&str>, path: &str) -> Vec<&'a str> {
        self.base.below(&self.named(component, path)).collect()
    }

    /// Tensors of the base model that could be `name` in another tree: one of the two names has
    /// further leading segments, or another name for the model's trunk.
    pub fn elsewhere(&self, component: Option<&str>, name: &str) -> Vec<&'a str> {
        let elsewhere = self.elsewhere.get_or_init(|| Elsewhere::new(self.base));
        elsewhere.of(&self.named(component, name))
    }

    /// Whether tensors of this component are in the base model, rather than left out.
    pub fn takes(&self, component: Option<&str>) -> bool {
        self.part(component).is_none_or(|part| !part.left_out)
    }

    /// The components that are left out.
    pub fn left_out(&self) -> Vec<&str> {
        let left_out = self.parts.iter().filter(|(_, part)| part.left_out);
        left_out
            .filter_map(|(component, _)| component.as_deref())
            .collect()
    }

    /// The replacements that were found, of all components.
    pub fn found(&self) -> Vec<&Replacement> {
        let parts = self.parts.values().filter(|part| !part.left_out);
        let all: BTreeSet<&Replacement> =
            parts.flat_map(|part| part.mapping.replacements()).collect();
        all.into_iter().collect()
    }

    /// The stated replacements that counted for a name, by their indices.
    pub fn used(&self) -> &BTreeSet<usize> {
        &self.used
    }

    /// How much of what is required was found, in the components that aren't left out.
    pub fn fit(&self) -> Fit {
        let mut fit = Fit::default();
        for part in self.parts.values().filter(|part| !part.left_out) {
            fit.add(&part.fit);
        }
        fit
    }

    fn unresolved(
        &self,
        component: Option<&str>,
        name: &str,
        ambiguous: bool,
        replacements: Vec<Replacement>,
    ) -> Error {
        let mapped = self.named(component, name);
        let options: Vec<String> = replacements
            .iter()
            .filter_map(|replacement| replacement.apply(&mapped))
            .filter(|option| self.base.homes.contains_key(option))
            .collect();
        Error::Unresolved {
            candidates: match ambiguous && !options.is_empty() {
                true => listed(options.iter().map(String::as_str)),
                false => self.closest(&mapped),
            },
            wanted: shown(name),
            mapped: (mapped != name).then(|| shown(&mapped)),
            ambiguous,
            replacements,
        }
    }

    /// The names that share the longest end with `wanted`.
    fn closest(&self, wanted: &str) -> Vec<String> {
        let closest = self.closest.get_or_init(|| Closest::new(self.base));
        listed(closest.to(wanted).into_iter())
    }
}

/// The name of a base model's folder, or of its only file.
fn own_name(base: &BaseModel) -> Option<String> {
    let name = match base.folder() {
        Some(folder) => folder.file_name(),
        None => { base.shards().first() }.and_then(|shard| shard.file.path().file_stem()),
    };
    name.map(|name| name.to_string_lossy().into_owned())
}

/// The components that a base model doesn't hold, whatever their shapes. It holds each that has a
/// tensor that fits. Where the base model has a component's name, it holds no others; else it also
/// holds each under whose name it has tensors, and each that is there in full and shares no tensor
/// with one that fits.
fn absent(base: &BaseModel, parts: &BTreeMap<Option<String>, Part<'_>>) -> Vec<Option<String>> {
    let is_named = parts.contains_key(&own_name(base));
    let fitting: BTreeSet<&str> = { parts.values() }
        .filter(|part| part.fit.fitting > 0)
        .flat_map(Part::tensors)
        .collect();
    let is_absent = |(component, part): &(&Option<String>, &Part<'_>)| {
        // Names without a component belong to every model.
        let Some(component) = component else {
            return false;
        };
        let front = format!("{component}.");
        let mut own = base.homes.range(front.clone()..);
        let has_own = own.next().is_some_and(|(name, _)| name.starts_with(&front));
        let is_there = part.fit.is_full() && part.tensors().all(|name| !fitting.contains(name));
        let is_held = !is_named && (has_own || is_there);
        part.fit.fitting == 0 && part.fit.required > 0 && !is_held
    };
    let absent = parts.iter().filter(is_absent);
    absent.map(|(component, _)| component.clone()).collect()
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut names: Vec<String> = names.take(LISTED).map(shown).collect();
    names.sort();
    names
}
