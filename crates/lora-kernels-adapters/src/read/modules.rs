//! Assembling modules from their tensors, and checking them.

use std::collections::BTreeMap;

use super::chosen::choose;
use super::keys::joined;
use super::scalings;
use super::shapes::EMPTY_HINT;
use super::sorted::{Found, Id, Names, Rows, Sorted};
use super::tokens;
use super::{ReadOptions, Scaling};
use crate::adapter::{Parts, SavedPart, ScalingSource, TokenParts, UnknownPart, config_in_header};
use crate::shown::{shape, shown};
use crate::tensor::Tensor;
use crate::tensor_file::TensorFile;
use crate::{Adapter, Bias, Error, Format, PeftConfig, Result};

/// The configs of an adapter.
pub(super) struct Configs {
    pub file: Option<PeftConfig>,
    pub header: Vec<(Option<String>, PeftConfig)>,
    /// The scaling in mistral-finetune's params.json.
    pub params: Option<f64>,
}

impl Configs {
    pub fn of(&self, component: Option<&str>) -> Option<(&PeftConfig, ScalingSource)> {
        match &self.file {
            Some(config) => Some((config, ScalingSource::Config)),
            None => config_in_header(&self.header, component)
                .map(|config| (config, ScalingSource::Header)),
        }
    }
}

pub(super) fn adapter(
    file: TensorFile,
    format: Format,
    configs: Configs,
    options: &ReadOptions,
) -> Result<Adapter> {
    let reader = Reader {
        file: &file,
        format,
        configs: &configs,
        scaling: options.scaling,
        partial: options.partial,
    };
    let mut entries = reader.entries()?;
    let name = choose(&mut entries, options.adapter.as_deref(), file.path())?;
    let mut sorted = reader.sorted(entries, name)?;
    let modules = reader.modules(&mut sorted)?;
    let (tokens, refused) = reader.tokens(&sorted.tokens)?;
    sorted.unknown.extend(refused);
    let is_pair = |found: &Found<'_>| found.a.is_some() || found.b.is_some();
    if modules.is_empty() && tokens.is_empty() && !sorted.modules.values().any(is_pair) {
        let hint = match sorted.unknown.first() {
            Some(part) => format!("; {} {}", shown(&part.name), part.reason),
            None => String::new(),
        };
        return Err(Error::NoAdapter {
            path: file.path().into(),
            reason: format!("no tensor has a name as {format} gives it to lora_A and lora_B{hint}"),
        });
    }
    let (saved, base_weights) = reader.whole(&mut sorted)?;
    sorted
        .unknown
        .sort_by(|one, other| one.name.cmp(&other.name));
    let (name, unknown, left_out) = (name.map(str::to_owned), sorted.unknown, sorted.left_out);
    Ok(Adapter {
        format,
        name,
        followed: None,
        modules,
        saved,
        base_weights,
        tokens,
        unknown,
        left_out,
        config: configs.file,
        header: configs.header,
        file,
    })
}

pub(super) struct Reader<'a> {
    pub file: &'a TensorFile,
    pub format: Format,
    pub configs: &'a Configs,
    pub scaling: Option<Scaling>,
    /// [`ReadOptions::partial`].
    pub partial: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn wrong(&self, tensor: Tensor<'_>, reason: String) -> Error {
        Error::Tensor {
            path: self.file.path().into(),
            name: shown(tensor.name),
            reason,
        }
    }

    pub(super) fn same(&self, tensor: Tensor<'_>, other: &str) -> Error {
        let reason = format!("is the same tensor of the base model as {}", shown(other));
        self.wrong(tensor, reason)
    }

    /// The modules, sorted by path. What isn't one is moved to the other tensors.
    fn modules(&self, sorted: &mut Sorted<'a>) -> Result<Vec<Parts>> {
        let mut wrappers: BTreeMap<(Option<&str>, &str), Vec<&Found<'_>>> = BTreeMap::new();
        for (id, found) in &sorted.modules {
            let of_module = wrappers.entry((id.component, &id.path)).or_default();
            if found.a.is_some() {
                of_module.push(found);
            }
        }
        let mut modules = Vec::with_capacity(sorted.modules.len());
        let mut lone_alphas: Vec<(&Id<'a>, Tensor<'a>)> = Vec::new();
        let mut uses_given = false;
        let mut source = ScalingSource::Default;
        let mut nesting = 0;
        let mut previous: Option<&Id<'_>> = None;
        for (id, found) in &sorted.modules {
            if let (None, None, None, None, Some(alpha)) =
                (found.a, found.b, found.bias, found.magnitude, found.alpha)
            {
                lone_alphas.push((id, alpha));
                continue;
            }
            let is_same = |other: &&Id<'_>| {
                (&other.path, other.component, other.flattened)
                    == (&id.path, id.component, id.flattened)
            };
            nesting = if previous.filter(is_same).is_some() {
                nesting + 1
            } else {
                0
            };
            previous = Some(id);
            if let Some(other) = sorted.foreign.get(&(id.component, id.path.clone())) {
                let why = format!("its {} {}", shown(other.name), other.reason);
                sorted.unknown.extend(found.refused(&why));
                continue;
            }
            let siblings = wrappers
                .get(&(id.component, id.path.as_str()))
                .map_or(&[][..], Vec::as_slice);
            let mut parts = match self.module(id, found, nesting, siblings) {
                Ok(parts) => parts,
                Err(error) if self.partial => {
                    sorted.unknown.extend(found.refused(&error.to_string()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if parts.scaled_by == ScalingSource::Given {
                (parts.scaling, parts.scaled_by) = self.unconfigured(&parts, found, id)?;
            }
            uses_given |= parts.scaled_by == ScalingSource::Given;
            source = parts.scaled_by;
            modules.push(parts);
        }
        if self.scaling.is_some() && !uses_given && !modules.is_empty() {
            return Err(Error::ScalingGiven {
                path: self.file.path().into(),
                holder: scalings::holder(source),
            });
        }
        for (id, alpha) in lone_alphas {
            let is_saved = |(config, _): (&PeftConfig, _)| config.saves_whole(&id.path);
            let is_whole = self.configs.of(id.component).is_some_and(is_saved);
            if alpha.shape.contains(&0) {
                sorted.unknown.push(UnknownPart {
                    name: alpha.name.to_owned(),
                    reason: format!("is empty, with shape {}{EMPTY_HINT}", shape(alpha.shape)),
                });
            } else if id.flattened || scalings::is_scalar(alpha) && !is_whole {
                sorted.unknown.push(UnknownPart {
                    name: alpha.name.to_owned(),
                    reason: "is the alpha of a module without lora_A and lora_B".into(),
                });
            } else {
                // A parameter of the model that is called alpha.
                let name = joined(&id.path, "alpha");
                let again = self.once(&mut sorted.saved, (id.component, name), alpha)?;
                sorted.left_out.extend(again);
            }
        }
        Ok(modules)
    }

    fn tokens(&self, found: &[Rows<'_>]) -> Result<(Vec<TokenParts>, Vec<UnknownPart>)> {
        let (mut understood, mut refused) = (Vec::new(), Vec::new());
        for rows in found {
            let Rows {
                component,
                path,
                inner,
                tensor,
            } = rows;
            let unknown = |reason: String| UnknownPart {
                name: tensor.name.to_owned(),
                reason,
            };
            let config = self.configs.of(*component).map(|(config, _)| config);
            match tokens::indices(config, &joined(inner, path)) {
                Err(reason) => refused.push(unknown(reason)),
                Ok(indices) => {
                    let checked = tokens::check(indices, *tensor)
                        .map_err(|reason| self.wrong(*tensor, reason))
                        .and_then(|()| self.float(*tensor));
                    match checked {
                        Ok(()) => {}
                        Err(error) if self.partial => {
                            refused.push(unknown(format!("can't be read: {error}")));
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                    understood.push(TokenParts {
                        path: path.clone(),
                        component: component.map(str::to_owned),
                        indices: indices.to_vec(),
                        rows: tensor.name.to_owned(),
                    });
                }
            }
        }
        Ok((understood, refused))
    }

    /// Tensors that were trained whole, and the base's own.
    fn whole(&self, sorted: &mut Sorted<'a>) -> Result<(Vec<SavedPart>, Vec<SavedPart>)> {
        let part = |((component, name), key): ((Option<&str>, String), &str)| SavedPart {
            name,
            component: component.map(str::to_owned),
            key: key.to_owned(),
        };
        let mut saved = std::mem::take(&mut sorted.saved);
        let mut base = Names::new();
        for (id, key) in std::mem::take(&mut sorted.base_layers) {
            if let Some(other) = saved.get(&id) {
                let tensor = self.file.tensor(key);
                return Err(match tensor {
                    Some(tensor) => self.same(tensor, other),
                    None => continue,
                });
            }
            // With `bias`, PEFT saves an adapted module's trained bias under this name.
            let is_trained = (id.1 == "bias" || id.1.ends_with(".bias"))
                && self
                    .configs
                    .of(id.0)
                    .is_some_and(|(config, _)| config.bias() != Bias::None);
            match is_trained {
                true => saved.insert(id, key),
                false => base.insert(id, key),
            };
        }
        for (id, key) in std::mem::take(&mut sorted.originals) {
            if !saved.contains_key(&id) {
                sorted.unknown.push(UnknownPart {
                    name: key.to_owned(),
                    reason: "is the base's own copy of a module that was trained whole, and the \
                        trained one (modules_to_save) isn't in the file"
                        .into(),
                });
            } else if let Some(other) = base.insert(id, key) {
                let tensor = self.file.tensor(key);
                if let Some(tensor) = tensor {
                    return Err(self.same(tensor, other));
                }
            }
        }
        Ok((
            saved.into_iter().map(part).collect(),
            base.into_iter().map(part).collect(),
        ))
    }
}
