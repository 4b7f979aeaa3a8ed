//! What of an adapter takes part in a merge, and whether it can.

use std::collections::BTreeSet;
use std::path::Path;

use lora_kernels_adapters::base::{Resolver, Wanted};
use lora_kernels_adapters::{Adapter, Kind, Module, PeftConfig, Saved, Tokens, Unknown};

use super::module::inside;
use super::refuse;
use super::vocabulary::is_head;
use crate::failure::Failure;
use crate::merge::Direction;
use crate::show::{count, few};

/// An adapter without what `--skip` leaves out.
pub struct Selected<'a> {
    pub adapter: &'a Adapter,
    /// As the user named it.
    pub path: &'a Path,
    /// Its weight among several.
    pub weight: f64,
    pub modules: Vec<Module<'a>>,
    pub saved: Vec<Saved<'a>>,
    pub base_weights: Vec<Saved<'a>>,
    pub tokens: Vec<Tokens<'a>>,
    pub unknown: Vec<Unknown<'a>>,
}

impl<'a> Selected<'a> {
    /// The configs of its modules' components.
    fn configs(&self) -> Vec<&'a PeftConfig> {
        let adapter: &'a Adapter = self.adapter;
        let components: BTreeSet<_> = { self.modules.iter() }
            .map(|module| module.component)
            .collect();
        { components.into_iter() }
            .filter_map(|component| adapter.config_of(component))
            .collect()
    }

    /// What the config of a module says of DoRA, if it has one.
    fn uses_dora(&self, module: &Module<'_>) -> Option<bool> {
        let config = self.adapter.config_of(module.component)?;
        Some(config.use_dora())
    }

    /// The parts of the components that are in the base.
    pub fn taken(&self, resolver: &Resolver<'_>) -> Self {
        let whole = |all: &[Saved<'a>]| -> Vec<Saved<'a>> {
            let taken = all.iter().filter(|part| resolver.takes(part.component));
            taken.copied().collect()
        };
        Self {
            modules: { self.modules.iter() }
                .filter(|part| resolver.takes(part.component))
                .copied()
                .collect(),
            saved: whole(&self.saved),
            base_weights: whole(&self.base_weights),
            tokens: { self.tokens.iter() }
                .filter(|part| resolver.takes(part.component))
                .copied()
                .collect(),
            unknown: self.unknown.clone(),
            ..*self
        }
    }

    /// Everything that is looked for in a base model. A head may be tied to the embedding, so that
    /// the base lacks it.
    pub fn wanted(&self) -> Vec<Wanted> {
        let mut names = BTreeSet::new();
        for module in &self.modules {
            names.insert((module.component, module.path.to_owned()));
            names.insert((module.component, inside(module.path, "weight")));
            names.insert((module.component, inside(module.path, "bias")));
            if let (Kind::Stacked, Some((parent, _))) = (module.kind, module.path.rsplit_once('.'))
            {
                names.insert((module.component, parent.to_owned()));
            }
        }
        for saved in self.saved.iter().chain(&self.base_weights) {
            names.insert((saved.component, saved.name.to_owned()));
        }
        for tokens in &self.tokens {
            names.insert((tokens.component, inside(tokens.path, "weight")));
        }
        let mut wanted = self.adapter.wanted();
        wanted.retain(|wanted| names.contains(&(wanted.component.as_deref(), wanted.name.clone())));
        for wanted in &mut wanted {
            wanted.required &= !is_head(&wanted.name);
        }
        wanted
    }

    fn paths(&self, holds: impl Fn(&Module<'a>) -> bool) -> Vec<&'a str> {
        { self.modules.iter().filter(|module| holds(module)) }
            .map(|module| module.path)
            .collect()
    }
}

/// Refuses an adapter that can't be merged, and names the reason.
pub fn check(selected: &Selected<'_>, direction: Direction) -> Result<(), Failure> {
    let merged = |what: String| {
        refuse(format!(
            "{} can't be merged: {what}",
            selected.path.display()
        ))
    };
    let variants: BTreeSet<String> = { selected.configs().into_iter() }
        .flat_map(|config| config.variants())
        .collect();
    if !variants.is_empty() {
        return merged(format!(
            "its config has {}, which makes it more than B·A added to a weight of the original \
             model",
            few(variants.iter().map(String::as_str))
        ));
    }
    if let [first, others @ ..] = &selected.unknown[..] {
        let more = match others.len() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        return merged(format!(
            "{}{more}: {}; --skip leaves tensors out by name",
            first.tensor.name, first.reason
        ));
    }
    check_dora(selected, direction)?;
    check_whole(selected, direction)
}

/// DoRA replaces a weight by the magnitudes times its normalised rows, so nothing can be scaled or
/// taken out.
fn check_dora(selected: &Selected<'_>, direction: Direction) -> Result<(), Failure> {
    let path = selected.path.display();
    let with = selected.paths(|module| module.magnitude.is_some());
    let without = selected
        .paths(|module| module.magnitude.is_none() && selected.uses_dora(module) == Some(true));
    if !without.is_empty() {
        return refuse(format!(
            "{path} can't be merged: its config says use_dora, and {} without a \
             lora_magnitude_vector: {}",
            count(without.len(), "module"),
            few(without)
        ));
    }
    if with.is_empty() {
        return Ok(());
    }
    let unstated = selected
        .paths(|module| module.magnitude.is_some() && selected.uses_dora(module) == Some(false));
    if !unstated.is_empty() {
        return refuse(format!(
            "{path} can't be merged: it has DoRA's magnitude vectors ({}), and its config doesn't \
             say use_dora: set it to true if the adapter was trained so",
            few(unstated)
        ));
    }
    let odd = selected.paths(|module| {
        module.magnitude.is_some()
            && (module.bias.is_some() || matches!(module.kind, Kind::Parameter | Kind::Stacked))
    });
    if !odd.is_empty() {
        return refuse(format!(
            "{path} can't be merged: DoRA has no meaning for fused experts nor beside a bias of \
             lora_B: {}",
            few(odd)
        ));
    }
    if direction == Direction::Unmerge {
        return refuse(format!(
            "{path} can't be unmerged: it is DoRA's, which normalises the weights' rows, and only \
             the base has their lengths ({})",
            few(with)
        ));
    }
    if selected.weight != 1.0 {
        return refuse(format!(
            "{path} can't be merged: it is DoRA's, whose magnitudes a weight of {} can't be \
             applied to ({})",
            selected.weight,
            few(with)
        ));
    }
    Ok(())
}

/// Tensors and rows that were trained whole can't be scaled or taken out.
fn check_whole(selected: &Selected<'_>, direction: Direction) -> Result<(), Failure> {
    let path = selected.path.display();
    let saved = selected.saved.iter().map(|saved| saved.name);
    let whole: Vec<&str> = saved
        .chain(selected.tokens.iter().map(|tokens| tokens.path))
        .collect();
    if whole.is_empty() {
        return Ok(());
    }
    if direction == Direction::Unmerge {
        return refuse(format!(
            "{path} can't be unmerged: {} were put in place of the base's, which only the base has \
             ({})",
            count(whole.len(), "tensor"),
            few(whole)
        ));
    }
    if selected.weight != 1.0 {
        return refuse(format!(
            "{path} can't be merged: it has {} trained whole, which a weight of {} can't be applied \
             to ({})",
            count(whole.len(), "tensor"),
            selected.weight,
            few(whole)
        ));
    }
    Ok(())
}
