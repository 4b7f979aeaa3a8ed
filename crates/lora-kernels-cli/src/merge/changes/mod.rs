//! The changes that a merge makes to a model, collected and checked before anything is written.

mod adapter;
mod experts;
mod fitting;
mod head;
mod module;
mod remarks;
mod saved;
mod skip;
mod stacked;
#[cfg(test)]
mod tests;
mod tied;
mod tokens;
mod vocabulary;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use lora_kernels::WeightLayout;
use lora_kernels_adapters::base::{Quantisation, Resolver};
use lora_kernels_adapters::{Adapter, BaseModel, Tensor};

use super::change::{Added, Change, Changes};
use super::{Direction, layout};
use crate::failure::Failure;
use crate::steps::step;

pub use adapter::Selected;
pub use skip::{Skip, select};
pub use vocabulary::{is_embedding, is_head};

/// An adapter and its weight among several.
pub struct Weighted<'a> {
    pub adapter: &'a Adapter,
    pub path: &'a Path,
    pub weight: f64,
}

/// What the user decides.
pub struct Choices {
    pub direction: Direction,
    /// Whether square weights are stored transposed, where the adapters can't tell.
    pub fan_in_fan_out: Option<bool>,
    /// Whether square weights of fused experts are, where nothing tells.
    pub experts_transposed: Option<bool>,
    /// Whether a tied head is written apart, as it was.
    pub untie: bool,
}

/// Collects the changes that adapters make. Each has its resolver.
pub fn collect<'a>(
    base: &'a BaseModel,
    adapters: &[Selected<'a>],
    resolvers: &[Resolver<'a>],
    choices: &Choices,
) -> Result<Changes<'a>, Failure> {
    let mut finder = Finder {
        base,
        tie: tied::Tie::of(base),
        choices,
        replaced_by: BTreeMap::new(),
        trained: BTreeMap::new(),
        trained_on: BTreeSet::new(),
        effects: BTreeSet::new(),
        vocabulary: OnceCell::new(),
        places_of_added: HashMap::new(),
        changes: Changes::default(),
    };
    let mut sources = Vec::with_capacity(adapters.len());
    let adapters: Vec<Selected<'a>> = { adapters.iter().zip(resolvers) }
        .map(|(selected, resolver)| selected.taken(resolver))
        .collect();
    for (number, (selected, resolver)) in adapters.iter().zip(resolvers).enumerate() {
        adapter::check(selected, choices.direction)?;
        sources.push(Source {
            number,
            selected,
            resolver,
            square: layout::of_squares(base, resolver, selected, choices.fan_in_fan_out)?,
        });
    }
    // Whole tensors come first, because LoRA is added to them: they may have other rows than the
    // base's.
    for source in &sources {
        finder.whole(source)?;
    }
    for source in &sources {
        finder.modules(source)?;
        finder.tokens(source)?;
    }
    for source in &sources {
        finder.rows_alone(source)?;
    }
    finder.tied(&sources)?;
    finder.each_name_once()?;
    finder.vocabulary()?;
    remarks::twice(&sources, &mut finder.changes.remarks.warnings)?;
    for source in &sources {
        finder.remark_on(source)?;
    }
    Ok(finder.changes)
}

/// An adapter, and how its names lie in the base.
struct Source<'a, 's> {
    /// Among the adapters.
    number: usize,
    selected: &'s Selected<'a>,
    resolver: &'s Resolver<'a>,
    /// The layout of square weights.
    square: WeightLayout,
}

/// Where a change goes.
#[derive(Clone)]
enum Target<'a> {
    Base {
        shard: usize,
        name: &'a str,
        tensor: Tensor<'a>,
    },
    /// A tensor that the base lacks, by its index among the added.
    Added { name: String, at: usize },
}

impl Target<'_> {
    fn name(&self) -> &str {
        match self {
            Target::Base { name, .. } => name,
            Target::Added { name, .. } => name,
        }
    }
}

struct Finder<'a, 'c> {
    base: &'a BaseModel,
    tie: tied::Tie<'a>,
    choices: &'c Choices,
    /// The adapter that has each replaced tensor, by the tensor's name in the base.
    replaced_by: BTreeMap<String, usize>,
    /// The adapters that change all rows of a tensor, whole or by LoRA, by its name in the base.
    trained: BTreeMap<String, BTreeSet<usize>>,
    /// Tensors of the base that are what an adapter says it was trained on.
    trained_on: BTreeSet<&'a str>,
    /// The adapters whose whole tensors or rows differ from the base's.
    effects: BTreeSet<usize>,
    /// The base's embedding and head; see [`Finder::stored_vocabulary`].
    vocabulary: OnceCell<[Option<&'a str>; 2]>,
    /// The places of the added tensors, by their names.
    places_of_added: HashMap<String, usize>,
    changes: Changes<'a>,
}

impl<'a> Finder<'a, '_> {
    /// The base's tensor that the adapter calls `wanted`, or a head that is stored as the embedding
    /// only.
    fn find(
        &mut self,
        source: &Source<'a, '_>,
        component: Option<&str>,
        wanted: &str,
    ) -> Result<Target<'a>, Failure> {
        match self.look_up(source, component, wanted)? {
            Some(target) => Ok(target),
            None => Err(self.missing(source, component, wanted)),
        }
    }

    /// The error of a tensor that [`Finder::look_up`] didn't find.
    fn missing(&self, source: &Source<'a, '_>, component: Option<&str>, wanted: &str) -> Failure {
        match source.resolver.resolve(component, wanted) {
            Err(error) => error.into(),
            Ok(found) => Failure::Refused(format!("{} is not in the base model", found.name)),
        }
    }

    /// As [`Finder::find`], but `None` if the base has no such tensor: many may be looked for in
    /// vain, and an error with the closest names is only made of one that stops the merge.
    fn look_up(
        &mut self,
        source: &Source<'a, '_>,
        component: Option<&str>,
        wanted: &str,
    ) -> Result<Option<Target<'a>>, Failure> {
        if let Some(name) = self.located(source, component, wanted)? {
            return self.in_base(name).map(Some);
        }
        if let Some(head) = self.tied_head(wanted)? {
            return Ok(Some(head));
        }
        let named = source.resolver.named(component, wanted);
        if let Some(failure) = self.quantised(&named) {
            return Err(failure);
        }
        // What a shard lacks may be in another, so nothing is added to it either.
        match (self.base.part_of(), source) {
            (None, _) => Ok(None),
            (Some(folder), Source { resolver, .. }) => match resolver.resolve(component, wanted) {
                Ok(found) => self.in_base(found.name).map(Some),
                Err(error) => refuse(format!(
                    "{error}; BASE is one shard of several by its name: name the whole model ({})",
                    folder.display()
                )),
            },
        }
    }

    /// The name in the base of the tensor that the adapter calls `wanted`.
    fn located(
        &mut self,
        source: &Source<'a, '_>,
        component: Option<&str>,
        wanted: &str,
    ) -> Result<Option<&'a str>, Failure> {
        if let Some(found) = source.resolver.find(component, wanted)? {
            return Ok(Some(found.name));
        }
        let named = source.resolver.named(component, wanted);
        let stored = experts::stored(&named, |name| Some(self.base.tensor(name)?.1.name));
        Ok(stored.map(|(name, renamed)| {
            let mapping = &mut self.changes.remarks.mapping;
            if !mapping.contains(&renamed) {
                mapping.push(renamed);
            }
            name
        }))
    }

    fn in_base(&self, name: &'a str) -> Result<Target<'a>, Failure> {
        match self.base.tensor(name) {
            Some((shard, tensor)) => Ok(Target::Base {
                shard,
                name,
                tensor,
            }),
            None => Err(self
                .quantised(name)
                .unwrap_or_else(|| Failure::Refused(format!("{name} is not in the base model")))),
        }
    }

    /// The error of a weight to which nothing can be added because it is quantised.
    fn quantised(&self, name: &str) -> Option<Failure> {
        let quantisation = self.base.quantised(name)?;
        Some(quantised(name, &quantisation))
    }

    /// The tensor as the base has it: the result has its type.
    fn original(&self, target: &Target<'a>) -> Tensor<'a> {
        match target {
            Target::Base { tensor, .. } => *tensor,
            Target::Added { at, .. } => self.changes.added[*at].from,
        }
    }

    /// The tensor that adapters are added to: the base's, or what replaces it.
    fn current(&self, target: &Target<'a>) -> Tensor<'a> {
        let change = match target {
            Target::Base { shard, name, .. } => self.changes.of(*shard, name),
            Target::Added { at, .. } => self.changes.added.get(*at).map(|added| &added.change),
        };
        change
            .and_then(|change| change.replaced)
            .unwrap_or_else(|| self.original(target))
    }

    fn change(&mut self, target: &Target<'a>) -> &mut Change<'a> {
        match target {
            Target::Base { shard, name, .. } => self
                .changes
                .tensors
                .entry(*shard)
                .or_default()
                .entry(name)
                .or_default(),
            Target::Added { at, .. } => &mut self.changes.added[*at].change,
        }
    }

    fn add(&mut self, added: Added<'a>) -> Target<'a> {
        let (name, at) = (added.name.clone(), self.changes.added.len());
        self.places_of_added.insert(name.clone(), at);
        self.changes.added.push(added);
        Target::Added { name, at }
    }

    /// Remembers that an adapter changes all rows of a tensor.
    fn trains(&mut self, source: &Source<'a, '_>, target: &Target<'a>) {
        let trained = self.trained.entry(target.name().to_owned()).or_default();
        trained.insert(source.number);
    }

    /// Checks that what is added has names of its own.
    fn each_name_once(&self) -> Result<(), Failure> {
        let mut names = BTreeSet::new();
        for added in &self.changes.added {
            let name = added.name.as_str();
            if self.base.tensor(name).is_some() || !names.insert(name) {
                return refuse(format!(
                    "{name} would be added to a model that has it already: is this the adapter's \
                     base model? (--map FROM=TO says where the adapter's tensors belong, --skip \
                     leaves them out)"
                ));
            }
        }
        Ok(())
    }

    fn warn(&mut self, warning: String) {
        self.changes.remarks.warnings.push(warning);
    }
}

/// The names of the base's tensors. Tests count how many are gone through.
fn names(base: &BaseModel) -> impl DoubleEndedIterator<Item = &str> {
    base.names().inspect(|_| step())
}

/// The error of a weight of the base to which nothing can be added.
fn quantised(name: &str, quantisation: &Quantisation) -> Failure {
    Failure::Refused(format!(
        "{name} of the base is quantised, {quantisation}, and adapters are added to F32, F16 and \
         BF16: {}",
        quantisation.way_out()
    ))
}

fn refuse<T>(reason: String) -> Result<T, Failure> {
    Err(Failure::Refused(reason))
}
