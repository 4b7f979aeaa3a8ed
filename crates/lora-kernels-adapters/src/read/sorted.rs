//! The tensors of a file, sorted by what their names say.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::chosen::Entry;
use super::keys::{Meaning, Part, joined, nameless, parse};
use super::modules::Reader;
use super::names::{Placed, Unwrapped, placed, unwrapped, wrapper_inside};
use super::shapes::EMPTY_HINT;
use crate::adapter::UnknownPart;
use crate::shown::{shape, shown};
use crate::tensor::Tensor;
use crate::{Format, Kind, Result};

/// The tensors of a module.
#[derive(Default)]
pub(super) struct Found<'a> {
    pub a: Option<(Kind, Tensor<'a>)>,
    pub b: Option<(Kind, Tensor<'a>)>,
    pub bias: Option<Tensor<'a>>,
    pub magnitude: Option<Tensor<'a>>,
    pub alpha: Option<Tensor<'a>>,
    /// [`super::names::Unwrapped::inner`], which all of them share.
    pub inner: &'a str,
}

impl<'a> Found<'a> {
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'a>> {
        let (a, b) = (self.a.map(|(_, a)| a), self.b.map(|(_, b)| b));
        let tensors = [a, b, self.bias, self.magnitude, self.alpha];
        tensors.into_iter().flatten()
    }

    /// All tensors, as unknown ones. `why` is the end of a sentence.
    pub fn refused(&self, why: &str) -> Vec<UnknownPart> {
        let part = |tensor: Tensor<'_>| UnknownPart {
            name: tensor.name.to_owned(),
            reason: format!("is of a module that can't be read: {why}"),
        };
        self.tensors().map(part).collect()
    }
}

/// What tells modules apart. The order is that of paths; of the wrappers of one module, the inner
/// ones come first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id<'a> {
    pub path: String,
    pub component: Option<&'a str>,
    pub flattened: bool,
    pub depth: Reverse<usize>,
}

/// Tensors of the base model: its component and name there, and its name in the file.
pub(super) type Names<'a> = BTreeMap<(Option<&'a str>, String), &'a str>;

/// A tensor without which B·A isn't a module's change, and why it isn't understood.
pub(super) struct Foreign<'a> {
    pub name: &'a str,
    pub reason: String,
}

/// Rows of an embedding.
pub(super) struct Rows<'a> {
    pub component: Option<&'a str>,
    pub path: String,
    /// [`super::names::Unwrapped::inner`].
    pub inner: &'a str,
    pub tensor: Tensor<'a>,
}

/// What the tensors' names say.
#[derive(Default)]
pub(super) struct Sorted<'a> {
    pub modules: BTreeMap<Id<'a>, Found<'a>>,
    pub saved: Names<'a>,
    /// The base's own, inside of adapted modules.
    pub base_layers: Names<'a>,
    /// The base's own, beside copies that were trained whole.
    pub originals: Names<'a>,
    pub tokens: Vec<Rows<'a>>,
    /// Modules whose change isn't B·A alone, each with a tensor that says so.
    pub foreign: BTreeMap<(Option<&'a str>, String), Foreign<'a>>,
    pub unknown: Vec<UnknownPart>,
    pub left_out: Vec<UnknownPart>,
}

impl<'a> Reader<'a> {
    /// Every tensor with the meaning of its name.
    pub(super) fn entries(&self) -> Result<Vec<Entry<'a>>> {
        let has_config = self.configs.file.is_some();
        let has_components =
            !has_config && matches!(self.format, Format::Diffusers | Format::Kohya);
        let header = self.configs.header.iter();
        let components: BTreeSet<String> = header
            .filter_map(|(component, _)| component.clone())
            .collect();
        let names = unwrapped(self.file);
        let mut entries = Vec::with_capacity(names.len());
        for (Unwrapped { name, inner }, tensor) in names.into_iter().zip(self.file.tensors()) {
            if let Some(wrapper) = wrapper_inside(name) {
                let reason = format!(
                    "has a trainer's wrapper inside its name, {wrapper}: save the adapter from the \
                     unwrapped model, or take these segments off its tensors' names"
                );
                if !self.partial {
                    return Err(self.wrong(tensor, reason));
                }
                entries.push(Entry {
                    tensor,
                    component: None,
                    inner: "",
                    flattened: false,
                    key: nameless(Meaning::Unknown(reason)),
                });
                continue;
            }
            let Placed {
                component,
                flattened,
                rest,
            } = match has_components {
                true => placed(name, &components),
                false => Placed {
                    component: None,
                    flattened: false,
                    rest: name,
                },
            };
            let mut key = parse(rest, self.format, component, has_config);
            if flattened && matches!(key.meaning, Meaning::Saved(_) | Meaning::BaseLayer(_)) {
                key = nameless(Meaning::Foreign {
                    path: rest.split('.').next().unwrap_or_default().to_owned(),
                    reason: "isn't a part of a module that kohya's format has for LoRA".into(),
                });
            }
            entries.push(Entry {
                tensor,
                component,
                // A component's config is for what comes after it.
                inner: if component.is_none() { inner } else { "" },
                flattened,
                key,
            });
        }
        Ok(entries)
    }

    /// Sorts the tensors of the adapter of this name, and those without an adapter's name.
    pub(super) fn sorted(
        &self,
        entries: Vec<Entry<'a>>,
        adapter: Option<&str>,
    ) -> Result<Sorted<'a>> {
        let mut sorted = Sorted::default();
        for entry in entries {
            let (tensor, component) = (entry.tensor, entry.component);
            let left_out = |reason: String| UnknownPart {
                name: tensor.name.to_owned(),
                reason,
            };
            if let Some(other) = entry.key.adapter.filter(|name| Some(*name) != adapter) {
                let reason = format!("is of the adapter {}", shown(other));
                sorted.left_out.push(left_out(reason));
                continue;
            }
            let is_empty = tensor.shape.contains(&0);
            let names = match entry.key.meaning {
                Meaning::Part { path, depth, part } => {
                    let id = Id {
                        path,
                        component,
                        flattened: entry.flattened,
                        depth: Reverse(depth),
                    };
                    let found = sorted.modules.entry(id).or_default();
                    let is_first = found.tensors().next().is_none();
                    if !is_first && found.inner != entry.inner {
                        let reason = "has other prefixes than other tensors of the same module";
                        return Err(self.wrong(tensor, reason.into()));
                    }
                    found.inner = entry.inner;
                    self.place(found, part, tensor)?;
                    continue;
                }
                Meaning::LeftOut(reason) => {
                    sorted.left_out.push(left_out(reason.to_owned()));
                    continue;
                }
                Meaning::Unknown(reason) => {
                    sorted.unknown.push(left_out(reason));
                    continue;
                }
                Meaning::Foreign { path, reason } => {
                    sorted.unknown.push(left_out(reason.clone()));
                    let name = tensor.name;
                    let of_module = sorted.foreign.entry((component, path));
                    of_module.or_insert(Foreign { name, reason });
                    continue;
                }
                _ if is_empty => {
                    let reason =
                        format!("is empty, with shape {}{EMPTY_HINT}", shape(tensor.shape));
                    sorted.unknown.push(left_out(reason));
                    continue;
                }
                Meaning::Tokens(path) => {
                    sorted.tokens.push(Rows {
                        component,
                        path,
                        inner: entry.inner,
                        tensor,
                    });
                    continue;
                }
                // `choose` has resolved these.
                Meaning::Copied { module, tail } => (&mut sorted.saved, joined(module, tail)),
                Meaning::Saved(name) => (&mut sorted.saved, name),
                Meaning::BaseLayer(name) => (&mut sorted.base_layers, name),
                Meaning::Original(name) => (&mut sorted.originals, name),
            };
            let (names, name) = names;
            let again = self.once(names, (component, name), tensor)?;
            sorted.left_out.extend(again);
        }
        Ok(sorted)
    }

    /// Adds a tensor under its name in the base model. One that is there already is left out if the
    /// two are equal, and an error otherwise.
    pub(super) fn once(
        &self,
        names: &mut Names<'a>,
        name: (Option<&'a str>, String),
        tensor: Tensor<'a>,
    ) -> Result<Option<UnknownPart>> {
        let Some(other) = names.insert(name, tensor.name) else {
            return Ok(None);
        };
        // PEFT saves a resized embedding that was trained whole with its wrapper's segments and
        // without them.
        let is_same = match self.file.tensor(other) {
            Some(other) => {
                (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
                    && other.has_bytes_of(&tensor)?
            }
            None => false,
        };
        if !is_same {
            return Err(self.same(tensor, other));
        }
        Ok(Some(UnknownPart {
            name: tensor.name.to_owned(),
            reason: format!("is {} once more", shown(other)),
        }))
    }

    fn place(&self, found: &mut Found<'a>, part: Part, tensor: Tensor<'a>) -> Result<()> {
        let taken = match part {
            Part::A(kind) => found.a.replace((kind, tensor)).map(|(_, tensor)| tensor),
            Part::B(kind) => found.b.replace((kind, tensor)).map(|(_, tensor)| tensor),
            Part::Bias => found.bias.replace(tensor),
            Part::Magnitude => found.magnitude.replace(tensor),
            Part::Alpha => found.alpha.replace(tensor),
        };
        match taken {
            None => Ok(()),
            Some(other) => Err(self.wrong(
                tensor,
                format!(
                    "stands beside {}, and a module has one such",
                    shown(other.name)
                ),
            )),
        }
    }
}
