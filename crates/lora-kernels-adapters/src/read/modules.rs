//! Assembling modules from their tensors, and checking them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

use super::chosen::{Entry, choose};
use super::keys::{Meaning, Part, joined, parse};
use super::names::{Placed, placed, unwrapped, wrapper_inside};
use super::parameters::{Wrapped, is_wrapped, wrapped};
use super::scalings::{self, agrees, checked};
use super::shapes::{EMPTY_HINT, Sizes, magnitude, sizes};
use super::tokens;
use super::{ReadOptions, Scaling};
use crate::adapter::{Parts, SavedPart, ScalingSource, TokenParts, UnknownPart};
use crate::mapped::{MappedFile, Tensor};
use crate::shown::{shape, shown};
use crate::{Adapter, Bias, Error, Format, Kind, PeftConfig, Result};

/// The tensors of a module.
#[derive(Default)]
struct Found<'a> {
    a: Option<(Kind, Tensor<'a>)>,
    b: Option<(Kind, Tensor<'a>)>,
    bias: Option<Tensor<'a>>,
    magnitude: Option<Tensor<'a>>,
    alpha: Option<Tensor<'a>>,
}

/// What tells modules apart. The order is that of paths; of the wrappers of one module, the inner
/// ones come first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Id<'a> {
    path: String,
    component: Option<&'a str>,
    flattened: bool,
    depth: Reverse<usize>,
}

/// Tensors of the base model: its component and name there, and its name in the file.
type Names<'a> = BTreeMap<(Option<&'a str>, String), &'a str>;

/// What the tensors' names say.
#[derive(Default)]
struct Sorted<'a> {
    modules: BTreeMap<Id<'a>, Found<'a>>,
    saved: Names<'a>,
    /// The base's own, inside of adapted modules.
    base_layers: Names<'a>,
    /// The base's own, beside copies that were trained whole.
    originals: Names<'a>,
    tokens: Vec<(Option<&'a str>, String, Tensor<'a>)>,
    unknown: Vec<UnknownPart>,
    left_out: Vec<UnknownPart>,
}

/// The configs of an adapter.
pub(super) struct Configs {
    pub file: Option<PeftConfig>,
    pub header: Vec<(Option<String>, PeftConfig)>,
    /// The scaling in mistral-finetune's params.json.
    pub params: Option<f64>,
}

impl Configs {
    fn of(&self, component: Option<&str>) -> Option<(&PeftConfig, ScalingSource)> {
        if let Some(config) = &self.file {
            return Some((config, ScalingSource::Config));
        }
        let named = |wanted: Option<&str>| {
            let found = self
                .header
                .iter()
                .find(|(name, _)| name.as_deref() == wanted)?;
            Some((&found.1, ScalingSource::Header))
        };
        named(component).or_else(|| named(None))
    }
}

pub(super) fn adapter(
    file: MappedFile,
    format: Format,
    configs: Configs,
    options: &ReadOptions,
) -> Result<Adapter> {
    let reader = Reader {
        file: &file,
        format,
        configs: &configs,
        scaling: options.scaling,
    };
    let mut entries = reader.entries()?;
    let name = choose(&mut entries, options.adapter.as_deref(), file.path())?;
    let mut sorted = reader.sorted(entries, name)?;
    let modules = reader.modules(&mut sorted)?;
    let (tokens, refused) = reader.tokens(&sorted.tokens)?;
    sorted.unknown.extend(refused);
    if modules.is_empty() && tokens.is_empty() {
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

struct Reader<'a> {
    file: &'a MappedFile,
    format: Format,
    configs: &'a Configs,
    scaling: Option<Scaling>,
}

impl<'a> Reader<'a> {
    fn wrong(&self, tensor: Tensor<'_>, reason: String) -> Error {
        Error::Tensor {
            path: self.file.path().into(),
            name: shown(tensor.name),
            reason,
        }
    }

    fn entries(&self) -> Result<Vec<Entry<'a>>> {
        let has_config = self.configs.file.is_some();
        let has_components =
            !has_config && matches!(self.format, Format::Diffusers | Format::Kohya);
        let header = self.configs.header.iter();
        let components: BTreeSet<String> = header
            .filter_map(|(component, _)| component.clone())
            .collect();
        let names = unwrapped(self.file);
        let mut entries = Vec::with_capacity(names.len());
        for (name, tensor) in names.into_iter().zip(self.file.tensors()) {
            if let Some(wrapper) = wrapper_inside(name) {
                let reason = format!(
                    "has a trainer's wrapper inside its name, {wrapper}: save the adapter from the unwrapped model, or take these segments off its tensors' names"
                );
                return Err(self.wrong(tensor, reason));
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
            entries.push(Entry {
                tensor,
                component,
                flattened,
                key: parse(rest, self.format, component, has_config),
            });
        }
        Ok(entries)
    }

    fn sorted(&self, entries: Vec<Entry<'a>>, adapter: Option<&str>) -> Result<Sorted<'a>> {
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
                    self.place(sorted.modules.entry(id).or_default(), part, tensor)?;
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
                _ if is_empty => {
                    let reason =
                        format!("is empty, with shape {}{EMPTY_HINT}", shape(tensor.shape));
                    sorted.unknown.push(left_out(reason));
                    continue;
                }
                Meaning::Tokens(path) => {
                    sorted.tokens.push((component, path, tensor));
                    continue;
                }
                // `choose` has resolved these.
                Meaning::Copied { module, tail } => (&mut sorted.saved, joined(module, tail)),
                Meaning::Saved(name) => (&mut sorted.saved, name),
                Meaning::BaseLayer(name) => (&mut sorted.base_layers, name),
                Meaning::Original(name) => (&mut sorted.originals, name),
            };
            let (names, name) = names;
            if let Some(other) = names.insert((component, name), tensor.name) {
                return Err(self.same(tensor, other));
            }
        }
        Ok(sorted)
    }

    fn same(&self, tensor: Tensor<'_>, other: &str) -> Error {
        let reason = format!("is the same tensor of the base model as {}", shown(other));
        self.wrong(tensor, reason)
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
            let siblings = wrappers
                .get(&(id.component, id.path.as_str()))
                .map_or(&[][..], Vec::as_slice);
            let mut parts = self.module(id, found, nesting, siblings)?;
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
            if scalings::is_scalar(alpha) {
                sorted.unknown.push(UnknownPart {
                    name: alpha.name.to_owned(),
                    reason: "is the alpha of a module without lora_A and lora_B".into(),
                });
            } else {
                // A parameter of the model that is called alpha.
                let name = joined(&id.path, "alpha");
                sorted.saved.insert((id.component, name), alpha.name);
            }
        }
        Ok(modules)
    }

    /// A module whose scaling is the config's; without a config, it is still to be found, and
    /// `scaled_by` is [`ScalingSource::Given`]. `siblings` are all wrappers of the same module.
    fn module(
        &self,
        id: &Id<'_>,
        found: &Found<'a>,
        nesting: usize,
        siblings: &[&Found<'_>],
    ) -> Result<Parts> {
        let ((kind_a, a), (kind_b, b)) = self.pair(id, found)?;
        if kind_a != kind_b {
            return Err(self.wrong(
                b,
                format!("is an adapter of another kind than {}", shown(a.name)),
            ));
        }
        let more = [Some(a), Some(b), found.bias, found.magnitude];
        for tensor in more.into_iter().flatten() {
            self.float(tensor)?;
        }
        let config = self.configs.of(id.component);
        let rank = config.map(|(config, _)| config.rank_of(&id.path));
        if self.format == Format::Loralib {
            self.merged_linear(a, b)?;
        }
        let mut found_sizes =
            sizes(kind_a, a, b, rank).map_err(|(tensor, reason)| self.wrong(tensor, reason))?;
        let mut scaling = (0.0, ScalingSource::Given);
        if let Some((config, source)) = config {
            let rows: Vec<usize> = siblings
                .iter()
                .filter_map(|found| found.a?.1.shape.first().copied())
                .collect();
            let outer = rows.last().copied().unwrap_or_default();
            if found_sizes.kind == Kind::Linear && is_wrapped(config, &id.path, rows.len(), outer) {
                let one = self.wrapper(config, id, &rows, nesting)?;
                found_sizes = Sizes {
                    kind: Kind::Parameter,
                    rank: one.rank,
                    experts: one.experts,
                    ..found_sizes
                };
                scaling = (checked("lora_alpha", 1.0, one.scaling)?, source);
            } else {
                self.not_nested(id, a)?;
                scaling = (self.configured(id, config, found_sizes.rank)?, source);
            }
            if let Some(tensor) = found.alpha {
                let alpha = scalings::alpha(tensor).map_err(|reason| self.wrong(tensor, reason))?;
                let expected = config.lora_alpha_of(&id.path);
                if !agrees(tensor, alpha, expected) {
                    let reason =
                        format!("is {alpha}, and the config's lora_alpha for it is {expected}");
                    return Err(self.wrong(tensor, reason));
                }
            }
        } else {
            self.not_nested(id, a)?;
        }
        let Sizes {
            kind,
            experts,
            rank,
            in_features,
            out_features,
        } = found_sizes;
        if let Some(bias) = found.bias {
            let elements: usize = bias.shape.iter().product();
            if elements != out_features || experts > 1 {
                let reason = format!(
                    "has shape {}; lora_B's bias has an element for each of {out_features} out_features of one matrix",
                    shape(bias.shape)
                );
                return Err(self.wrong(bias, reason));
            }
        }
        if let Some(tensor) = found.magnitude {
            let reason = match experts {
                1 => magnitude(tensor, out_features),
                _ => Some("is a magnitude of several experts at once, which DoRA hasn't".into()),
            };
            if let Some(reason) = reason {
                return Err(self.wrong(tensor, reason));
            }
        }
        let name = |tensor: Tensor<'_>| tensor.name.to_owned();
        Ok(Parts {
            path: id.path.clone(),
            component: id.component.map(str::to_owned),
            flattened: id.flattened,
            kind,
            experts,
            nesting: if kind == Kind::Parameter { nesting } else { 0 },
            rank,
            in_features,
            out_features,
            scaling: scaling.0,
            scaled_by: scaling.1,
            a: name(a),
            b: name(b),
            bias: found.bias.map(name),
            magnitude: found.magnitude.map(name),
        })
    }

    #[allow(clippy::type_complexity)]
    fn pair(
        &self,
        id: &Id<'_>,
        found: &Found<'a>,
    ) -> Result<((Kind, Tensor<'a>), (Kind, Tensor<'a>))> {
        match (found.a, found.b) {
            (Some(a), Some(b)) => Ok((a, b)),
            (Some((_, alone)), None) => Err(self.wrong(alone, "has no lora_B beside it".into())),
            (None, Some((_, alone))) => Err(self.wrong(alone, "has no lora_A beside it".into())),
            (None, None) => {
                let alone = found.bias.or(found.magnitude);
                let name = alone.map_or(id.path.as_str(), |tensor| tensor.name);
                Err(Error::Tensor {
                    path: self.file.path().into(),
                    name: shown(name),
                    reason: "belongs to a module without lora_A and lora_B".into(),
                })
            }
        }
    }

    fn float(&self, tensor: Tensor<'_>) -> Result<()> {
        match tensor.dtype {
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
            other => Err(self.wrong(
                tensor,
                format!("is {other:?}; it must be F64, F32, F16 or BF16"),
            )),
        }
    }

    fn merged_linear(&self, a: Tensor<'_>, b: Tensor<'_>) -> Result<()> {
        let (&[rank, _], &[_, b_rank]) = (a.shape, b.shape) else {
            return Ok(());
        };
        if b_rank == 0 || rank == 0 || rank == b_rank || rank % b_rank != 0 {
            return Ok(());
        }
        let reason = format!(
            "has shape {} and {} has {}: these are {} adapters of a MergedLinear, and which of its slices they adapt (enable_lora) is not in the \
             file; split them into one module for each slice",
            shape(a.shape),
            shown(b.name),
            shape(b.shape),
            rank / b_rank
        );
        Err(self.wrong(a, reason))
    }

    /// Refuses `base_layer` at the end of a path where no parameters are adapted.
    fn not_nested(&self, id: &Id<'_>, a: Tensor<'_>) -> Result<()> {
        if id.depth.0 == 0 {
            return Ok(());
        }
        let reason = "is inside another adapter's base_layer, and the config names no target_parameters that explain it";
        Err(self.wrong(a, reason.into()))
    }

    fn wrapper(
        &self,
        config: &PeftConfig,
        id: &Id<'_>,
        rows: &[usize],
        nesting: usize,
    ) -> Result<Wrapped> {
        let refuse = |reason: String| Error::Module {
            path: self.file.path().into(),
            module: shown(&id.path),
            reason,
        };
        let all = wrapped(config, &id.path, rows).map_err(refuse)?;
        let one = all.get(nesting).copied();
        one.ok_or_else(|| refuse("has a lora_B without lora_A among its parameters".into()))
    }

    /// The scaling of a module that agrees with its config.
    fn configured(&self, id: &Id<'_>, config: &PeftConfig, rank: usize) -> Result<f32> {
        let expected = config.rank_of(&id.path);
        if rank != expected {
            return Err(Error::Rank {
                path: self.file.path().into(),
                module: shown(&id.path),
                given: rank,
                expected,
            });
        }
        checked(
            "lora_alpha",
            config.lora_alpha_of(&id.path),
            config.scaling_of(&id.path),
        )
    }

    /// The scaling of a module without a config.
    fn unconfigured(
        &self,
        parts: &Parts,
        found: &Found<'_>,
        id: &Id<'_>,
    ) -> Result<(f32, ScalingSource)> {
        if let Some(tensor) = found.alpha {
            let alpha = scalings::alpha(tensor).map_err(|reason| self.wrong(tensor, reason))?;
            let scaling = checked("alpha", alpha, (alpha / parts.rank as f64) as f32)?;
            return Ok((scaling, ScalingSource::AlphaTensor));
        }
        if let Some(factor) = self.configs.params {
            let scaling = checked("scaling in params.json", factor, factor as f32)?;
            return Ok((scaling, ScalingSource::Params));
        }
        if let Some(given) = self.scaling {
            return Ok((given.of_rank(parts.rank)?, ScalingSource::Given));
        }
        // sd-scripts takes alpha = rank. A header that says otherwise contradicts the file.
        let header = self.file.metadata().get("ss_network_alpha");
        let header: Option<f64> = header.and_then(|text| text.trim().parse().ok());
        if id.flattened && header.is_none_or(|alpha| alpha == parts.rank as f64) {
            return Ok((1.0, ScalingSource::Default));
        }
        Err(Error::NoScaling {
            path: self.file.path().into(),
            format: self.format,
            module: shown(&id.path),
        })
    }

    #[allow(clippy::type_complexity)]
    fn tokens(
        &self,
        found: &[(Option<&str>, String, Tensor<'_>)],
    ) -> Result<(Vec<TokenParts>, Vec<UnknownPart>)> {
        let (mut understood, mut refused) = (Vec::new(), Vec::new());
        for (component, path, tensor) in found {
            self.float(*tensor)?;
            let config = self.configs.of(*component).map(|(config, _)| config);
            match tokens::indices(config, path) {
                Err(reason) => refused.push(UnknownPart {
                    name: tensor.name.to_owned(),
                    reason,
                }),
                Ok(indices) => {
                    tokens::check(&indices, *tensor)
                        .map_err(|reason| self.wrong(*tensor, reason))?;
                    understood.push(TokenParts {
                        path: path.clone(),
                        component: component.map(str::to_owned),
                        indices,
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
                    reason: "is the base's own copy of a module that was trained whole, and the trained one (modules_to_save) isn't in the file".into(),
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
