//! Tensors that an adapter holds whole: trained (`modules_to_save`, `bias`), or the base's own that
//! PEFT saves beside an adapted embedding or head.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use lora_kernels_adapters::{Error, Saved, Tensor};

use super::{Finder, Selected, Source, Target, names, refuse, vocabulary};
use crate::failure::Failure;
use crate::merge::Direction;
use crate::merge::change::Added;
use crate::merge::numbers::{differing_rows, is_float, part, same_within_types};
use crate::show::few;
use crate::steps::step;

impl<'a> Finder<'a, '_> {
    /// Collects the whole tensors of an adapter.
    pub(super) fn whole(&mut self, source: &Source<'a, '_>) -> Result<(), Failure> {
        for saved in &source.selected.saved {
            self.saved(source, saved)?;
        }
        let all = All::of(source.selected);
        for weight in &source.selected.base_weights {
            self.base_weight(source, &all, weight)?;
        }
        Ok(())
    }

    fn saved(&mut self, source: &Source<'a, '_>, saved: &Saved<'a>) -> Result<(), Failure> {
        let Some(target) = self.look_up(source, saved.component, saved.name)? else {
            return self.added(source, saved);
        };
        let (new, old) = (saved.tensor, self.original(&target));
        let name = target.name();
        // A quantised weight has any shape.
        if !is_float(old.dtype)
            && is_float(new.dtype)
            && let Some(failure) = self.quantised(name)
        {
            return Err(failure);
        }
        if new.shape != old.shape && !vocabulary::is_resized(name, new.shape, old.shape) {
            return refuse(format!(
                "the adapter has {name} whole, with shape {:?}, and the base's has {:?}: is this \
                 its base model?",
                new.shape, old.shape
            ));
        }
        if new.dtype != old.dtype && !(is_float(new.dtype) && is_float(old.dtype)) {
            return refuse(format!(
                "the adapter has {name} whole, in {:?}, and the base's is {:?}",
                new.dtype, old.dtype
            ));
        }
        if new.shape != old.shape || !same_within_types(&new, &old)? {
            self.effects.insert(source.number);
            self.trains(source, &target);
        }
        self.replace(source, &target, new)
    }

    fn replace(
        &mut self,
        source: &Source<'a, '_>,
        target: &Target<'a>,
        new: Tensor<'a>,
    ) -> Result<(), Failure> {
        let name = target.name();
        if self.replaced_by.contains_key(name) {
            return refuse(format!(
                "more than one of the adapters has {name} whole: only one of them can be put in \
                 its place (--skip leaves it out of all)"
            ));
        }
        self.replaced_by.insert(name.to_owned(), source.number);
        self.change(target).replaced = Some(new);
        Ok(())
    }

    /// A tensor that the base lacks, such as a classifier's head.
    fn added(&mut self, source: &Source<'a, '_>, saved: &Saved<'a>) -> Result<(), Failure> {
        let path = source.selected.path.display();
        let elsewhere = source.resolver.elsewhere(saved.component, saved.name);
        if !elsewhere.is_empty() {
            return refuse(format!(
                "{path} has {} whole, and the base has it under another name, if at all: {} (--map \
                 FROM=TO says which is meant, --skip {} leaves it out)",
                saved.name,
                few(elsewhere),
                saved.name
            ));
        }
        let config = source.selected.adapter.config_of(saved.component);
        let named = config.and_then(|config| config.saved_module(saved.name));
        // PEFT saves both of these if it is asked to, or if the vocabulary was resized.
        let vocabulary = ["embed_tokens", "lm_head"].iter();
        let of_vocabulary = { vocabulary.filter_map(|module| lies_in(saved.name, module)) }
            .find(|(_, tensor)| config.is_some() && ["weight", "bias"].contains(tensor));
        let Some((module, tensor)) = named.or(of_vocabulary) else {
            let candidates = match source.resolver.resolve(saved.component, saved.name) {
                Err(Error::Unresolved { candidates, .. }) => candidates,
                _ => Vec::new(),
            };
            let near = match &candidates[..] {
                [] => String::new(),
                near => format!(
                    "; the closest there are {}",
                    few(near.iter().map(String::as_str))
                ),
            };
            return refuse(format!(
                "{path} has {} whole, which the base lacks, and no config names it as trained \
                 (modules_to_save){near} (--map FROM=TO says where it belongs, --skip {} leaves it \
                 out)",
                saved.name, saved.name
            ));
        };
        let others = || match tensor {
            "bias" => Vec::new(),
            _ => source.resolver.below(saved.component, module),
        };
        let reason = if is_of_an_adapter(saved.name) {
            Some("its name has a part that is an adapter's".to_owned())
        } else if tensor.split('.').rev().skip(1).any(is_parameter) {
            Some("its name goes on behind a weight or a bias".to_owned())
        } else {
            Some(others())
                .filter(|others| !others.is_empty())
                .map(|others| format!("the base has {module}, but with {} only", few(others)))
        };
        if let Some(reason) = reason {
            return refuse(format!(
                "{path} has {} whole, which the base lacks, and it is no tensor of a new module: \
                 {reason} (--map FROM=TO says where it belongs, --skip {} leaves it out)",
                saved.name, saved.name
            ));
        }
        if let Some(other) = self.rival(saved.name) {
            return refuse(format!(
                "{path} has {} whole, which the base lacks under that name, and it has {other}: is \
                 this its base model? (--map FROM=TO says where it belongs, --skip {} leaves it out)",
                saved.name, saved.name
            ));
        }
        let name = added_name(source, saved);
        if self.places_of_added.contains_key(&name) {
            return refuse(format!(
                "more than one of the adapters has {name} whole: only one of them can be added \
                 (--skip leaves it out of all)"
            ));
        }
        self.effects.insert(source.number);
        self.replaced_by.insert(name.clone(), source.number);
        self.add(Added::whole(name, saved.tensor));
        Ok(())
    }

    /// The base's embedding or head, if `added` is the matrix of such. A model has one vocabulary:
    /// a second one is the base's under another name.
    fn rival(&self, added: &str) -> Option<&'a str> {
        let [embedding, head] = *self.vocabulary.get_or_init(|| {
            let first = |is: fn(&str) -> bool| {
                let mut matrices = { names(self.base) }.filter(|name| name.ends_with(".weight"));
                matrices.find(|name| is(name))
            };
            [vocabulary::is_embedding, vocabulary::is_head].map(first)
        });
        let of = |is: fn(&str) -> bool, rival: Option<&'a str>| rival.filter(|_| is(added));
        let rival = of(vocabulary::is_embedding, embedding).or(of(vocabulary::is_head, head));
        rival.filter(|_| added.ends_with(".weight"))
    }

    /// The base's weight as the adapter has it. It is what the adapter was trained on, so it
    /// replaces the base's where tokens were added or their rows set before training.
    fn base_weight(
        &mut self,
        source: &Source<'a, '_>,
        all: &All<'a, '_>,
        weight: &Saved<'a>,
    ) -> Result<(), Failure> {
        let trained = all.trained.get(&(weight.component, weight.name)).copied();
        let target = match (self.look_up(source, weight.component, weight.name), trained) {
            (Ok(Some(target)), _) => target,
            // The original of a head that the adapter adds.
            (Ok(None) | Err(Failure::Files(Error::Unresolved { .. })), Some(_)) => return Ok(()),
            (Ok(None), None) => return Err(self.missing(source, weight.component, weight.name)),
            (Err(error), _) => return Err(error),
        };
        let name = target.name();
        let (new, old) = (weight.tensor, self.original(&target));
        if let Some(failure) = self.quantised(name).filter(|_| is_float(new.dtype)) {
            return Err(failure);
        }
        let same_shape = new.shape == old.shape;
        // The weight of a merged model contains the adapter.
        if same_shape
            && (self.choices.direction == Direction::Unmerge || same_within_types(&new, &old)?)
        {
            if let Target::Base { name, .. } = target {
                self.trained_on.insert(name);
            }
            return Ok(());
        }
        if let Some(trained) = trained {
            if new.shape != trained.tensor.shape || same_shape {
                self.warn(format!(
                    "{} has the original of {name} beside the trained one, and this base's is \
                     another: is this its base model?",
                    source.selected.path.display()
                ));
            }
            return Ok(());
        }
        if let Some(other) = self.current_replacement(&target) {
            return match other.shape == new.shape && same_within_types(&other, &new)? {
                true => Ok(()),
                false => refuse(format!(
                    "the adapters were trained on different weights of {name}: merge them one \
                     after the other"
                )),
            };
        }
        let another = |what: String| {
            refuse(format!(
                "the adapter has the weight of its base that it was trained on for {name}, and \
                 this base's is another ({what}): a model with resized embeddings, or another base"
            ))
        };
        let fits = same_shape || vocabulary::is_resized(name, new.shape, old.shape);
        if !fits
            || self.choices.direction == Direction::Unmerge
            || !is_float(new.dtype)
            || !is_float(old.dtype)
        {
            return another(match same_shape {
                true => "their values differ".into(),
                false => format!("its shape is {:?}, not {:?}", old.shape, new.shape),
            });
        }
        let (differing, common) = differing_common_rows(&new, &old)?;
        // A whole resized vocabulary leaves nothing of the base's to guess.
        if 2 * differing > common && (same_shape || !all.has_whole_vocabulary(new.shape)) {
            return another(format!("the values of {differing} of {common} rows differ"));
        }
        if differing > 0 {
            self.warn(format!(
                "{} brings its base's {name}, and {differing} of {common} rows are others than this \
                 base's: the adapter's are taken, because it was trained on them",
                source.selected.path.display()
            ));
        }
        self.effects.insert(source.number);
        self.replace(source, &target, new)
    }

    fn current_replacement(&self, target: &Target<'a>) -> Option<Tensor<'a>> {
        { self.replaced_by.get(target.name()) }.map(|_| self.current(target))
    }
}

/// The whole tensors of an adapter, to be looked up.
struct All<'a, 's> {
    selected: &'s Selected<'a>,
    /// Those that were trained, by component and name.
    trained: BTreeMap<(Option<&'a str>, &'a str), &'s Saved<'a>>,
    /// The shapes of the matrices of embeddings and of heads.
    shapes: OnceCell<[BTreeSet<&'a [usize]>; 2]>,
}

impl<'a, 's> All<'a, 's> {
    fn of(selected: &'s Selected<'a>) -> Self {
        let trained = selected.saved.iter().inspect(|_| step());
        let trained = trained.map(|saved| ((saved.component, saved.name), saved));
        Self {
            selected,
            trained: trained.collect(),
            shapes: OnceCell::new(),
        }
    }

    /// Whether the adapter has all rows of both the embedding and the head, as many as this shape
    /// has.
    fn has_whole_vocabulary(&self, shape: &[usize]) -> bool {
        let shapes = self.shapes.get_or_init(|| {
            let matrices = {
                self.selected
                    .base_weights
                    .iter()
                    .chain(&self.selected.saved)
            }
            .inspect(|_| step())
            .filter(|weight| weight.name.ends_with(".weight"));
            [vocabulary::is_embedding, vocabulary::is_head].map(|is| {
                let of_kind = matrices.clone().filter(|weight| is(weight.name));
                of_kind.map(|weight| weight.tensor.shape).collect()
            })
        });
        shapes.iter().all(|shapes| shapes.contains(shape))
    }
}

/// The name of a tensor that the base lacks. What the names of a model's trunk begin with
/// (`bert.encoder` for `encoder`) doesn't count for a head, but a language model in another model
/// has its head with it.
fn added_name(source: &Source<'_, '_>, saved: &Saved<'_>) -> String {
    const WITH_HEADS: [&str; 5] = ["language_model", "llm", "text_model", "thinker", "lm"];
    let named = source.resolver.named(saved.component, saved.name);
    let prefix = { named.strip_suffix(saved.name) }.and_then(|prefix| prefix.strip_suffix('.'));
    let is_trunk = |prefix: &str| {
        let last = prefix.rsplit('.').next();
        !prefix.is_empty() && !WITH_HEADS.iter().any(|name| last == Some(name))
    };
    match prefix {
        Some(prefix) if is_trunk(prefix) && saved.component != Some(prefix) => {
            saved.name.to_owned()
        }
        _ => named,
    }
}

/// The path of a tensor's module and the tensor's name in it, if `module` names the module as PEFT
/// matches `modules_to_save`: by whole parts of its path.
fn lies_in<'n>(name: &'n str, module: &str) -> Option<(&'n str, &'n str)> {
    let mut starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
    starts.find_map(|start| {
        let tensor = name[start..].strip_prefix(module)?.strip_prefix('.')?;
        Some((&name[..start + module.len()], tensor))
    })
}

fn is_parameter(segment: &str) -> bool {
    ["weight", "bias"].contains(&segment)
}

/// Whether a segment is a part's name in an adapter. No module is called so.
fn is_of_an_adapter(name: &str) -> bool {
    const WORDS: [&str; 8] = [
        "alpha",
        "base_layer",
        "dora_scale",
        "modules_to_save",
        "original_module",
        "token_adapter",
        "trainable_tokens_delta",
        "trainable_tokens_original",
    ];
    { name.split('.') }.any(|segment| segment.starts_with("lora_") || WORDS.contains(&segment))
}

/// How many rows differ among those that both tensors have, and how many these are.
fn differing_common_rows(a: &Tensor<'_>, b: &Tensor<'_>) -> Result<(usize, usize), Failure> {
    let rows = |tensor: &Tensor<'_>| tensor.shape.first().copied().unwrap_or(1);
    let common = rows(a).min(rows(b));
    let columns: usize = a.shape.iter().skip(1).product();
    let (a, b) = (part(a, 0..common * columns)?, part(b, 0..common * columns)?);
    Ok((differing_rows(&a, &b, columns)?, common))
}
