//! Assembling modules from their tensors, and checking them.

use std::collections::BTreeMap;

use lora_kernels::Problem;

use super::keys::{Key, Part, module_of_base_weight, parse};
use crate::adapter::{Parts, SavedPart, ScalingSource, UnknownPart};
use crate::mapped::{MappedFile, Tensor};
use crate::shown::{shape, shown};
use crate::{Adapter, Error, Format, Kind, PeftConfig, Result};

/// The tensors of a module.
#[derive(Default)]
struct Found<'a> {
    a: Option<(Kind, Tensor<'a>)>,
    b: Option<(Kind, Tensor<'a>)>,
    bias: Option<Tensor<'a>>,
    magnitude: Option<Tensor<'a>>,
}

/// `scaling_of_rank` is used if there is no config.
pub(super) fn adapter(
    file: MappedFile,
    format: Format,
    config: Option<PeftConfig>,
    scaling_of_rank: impl Fn(usize) -> Result<f32>,
) -> Result<Adapter> {
    let checks = Checks {
        file: &file,
        format,
    };
    let mut found: BTreeMap<&str, Found<'_>> = BTreeMap::new();
    let mut saved: BTreeMap<String, String> = BTreeMap::new();
    let mut unknown = Vec::new();
    for tensor in file.tensors() {
        match parse(tensor.name, format) {
            Key::Part(path, part) => checks.place(found.entry(path).or_default(), part, tensor)?,
            Key::Saved(name) => {
                if let Some(other) = saved.insert(name, tensor.name.to_owned()) {
                    return Err(checks.wrong(
                        tensor,
                        format!("is the same tensor of the base model as {}", shown(&other)),
                    ));
                }
            }
            Key::Unknown => unknown.push(UnknownPart {
                name: tensor.name.to_owned(),
                reason: "it is of another method than LoRA".into(),
            }),
        }
    }
    let mut modules = Vec::with_capacity(found.len());
    for (path, found) in &found {
        let mut parts = checks.module(path, found)?;
        (parts.scaling, parts.scaled_by) = match &config {
            None => (scaling_of_rank(parts.rank)?, ScalingSource::Given),
            Some(config) => (checks.configured(&parts, config)?, ScalingSource::Config),
        };
        modules.push(parts);
    }
    if modules.is_empty() {
        let hint = match unknown.first() {
            Some(part) => format!(
                "; {} looks like a state dict that was not saved by save_pretrained",
                shown(&part.name)
            ),
            None => String::new(),
        };
        return Err(Error::NoAdapter {
            path: file.path().into(),
            reason: format!("no tensor has a name as {format} gives it to lora_A and lora_B{hint}"),
        });
    }
    let saved = saved.into_iter().map(|(name, key)| SavedPart {
        name,
        component: None,
        key,
    });
    let (base_weights, saved) = saved.partition(|part| {
        module_of_base_weight(&part.key).is_some_and(|path| found.contains_key(path))
    });
    Ok(Adapter {
        format,
        name: None,
        config,
        header: Vec::new(),
        modules,
        saved,
        base_weights,
        tokens: Vec::new(),
        unknown,
        left_out: Vec::new(),
        file,
    })
}

struct Checks<'a> {
    file: &'a MappedFile,
    format: Format,
}

impl<'a> Checks<'a> {
    fn wrong(&self, tensor: Tensor<'_>, reason: String) -> Error {
        Error::Tensor {
            path: self.file.path().into(),
            name: shown(tensor.name),
            reason,
        }
    }

    fn place(&self, found: &mut Found<'a>, part: Part, tensor: Tensor<'a>) -> Result<()> {
        let taken = match part {
            Part::A(kind) => found.a.replace((kind, tensor)).map(|(_, tensor)| tensor),
            Part::B(kind) => found.b.replace((kind, tensor)).map(|(_, tensor)| tensor),
            Part::Bias => found.bias.replace(tensor),
            Part::Magnitude => found.magnitude.replace(tensor),
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

    fn module(&self, path: &str, found: &Found<'_>) -> Result<Parts> {
        let ((kind_a, a), (kind_b, b)) = match (found.a, found.b) {
            (Some(a), Some(b)) => (a, b),
            (Some((_, alone)), None) => {
                return Err(self.wrong(alone, "has no lora_B beside it".into()));
            }
            (None, Some((_, alone))) => {
                return Err(self.wrong(alone, "has no lora_A beside it".into()));
            }
            (None, None) => {
                let alone = found.bias.or(found.magnitude);
                let name = alone.map_or(path, |tensor| tensor.name);
                return Err(Error::Tensor {
                    path: self.file.path().into(),
                    name: shown(name),
                    reason: "belongs to a module without lora_A and lora_B".into(),
                });
            }
        };
        if kind_a != kind_b {
            return Err(self.wrong(
                b,
                format!("is an adapter of another kind than {}", shown(a.name)),
            ));
        }
        for tensor in [Some(a), Some(b), found.bias, found.magnitude]
            .into_iter()
            .flatten()
        {
            self.float(tensor)?;
        }
        if a.dtype != b.dtype {
            return Err(self.wrong(
                b,
                format!(
                    "is {:?} and {} is {:?}: both must have one type",
                    b.dtype,
                    shown(a.name),
                    a.dtype
                ),
            ));
        }
        let kind = if kind_a == Kind::Linear && a.shape.len() > 2 {
            Kind::Convolution
        } else {
            kind_a
        };
        let (rank, in_features, out_features) = self.sizes(kind, a, b)?;
        for (tensor, expected) in [
            (found.bias, "lora_B's bias"),
            (found.magnitude, "a magnitude vector"),
        ] {
            let elements = |tensor: Tensor<'_>| tensor.shape.iter().product::<usize>();
            if let Some(tensor) = tensor.filter(|&tensor| elements(tensor) != out_features) {
                let reason = format!(
                    "has shape {}; {expected} has an element for each of {out_features} out_features",
                    shape(tensor.shape)
                );
                return Err(self.wrong(tensor, reason));
            }
        }
        let name = |tensor: Tensor<'_>| tensor.name.to_owned();
        Ok(Parts {
            path: path.to_owned(),
            component: None,
            flattened: false,
            kind,
            experts: 1,
            nesting: 0,
            rank,
            in_features,
            out_features,
            scaling: 0.0,
            scaled_by: ScalingSource::Config,
            a: name(a),
            b: name(b),
            bias: found.bias.map(name),
            magnitude: found.magnitude.map(name),
        })
    }

    fn float(&self, tensor: Tensor<'_>) -> Result<()> {
        match tensor.element_type() {
            Some(_) => Ok(()),
            None => Err(self.wrong(
                tensor,
                format!("is {:?}; it must be F32, F16 or BF16", tensor.dtype),
            )),
        }
    }

    /// (rank, in_features, out_features)
    fn sizes(&self, kind: Kind, a: Tensor<'_>, b: Tensor<'_>) -> Result<(usize, usize, usize)> {
        let dimensions = if kind == Kind::Convolution {
            3..=5
        } else {
            2..=2
        };
        for tensor in [a, b] {
            if !dimensions.contains(&tensor.shape.len()) || tensor.shape.len() != a.shape.len() {
                let reason = format!(
                    "has shape {}: lora_A and lora_B are matrices, or have a convolution's three to five dimensions both",
                    shape(tensor.shape)
                );
                return Err(self.wrong(tensor, reason));
            }
            if let Some(size) = tensor
                .shape
                .iter()
                .find(|&&size| size == 0 || size > Problem::MAX_DIMENSION)
            {
                let most = Problem::MAX_DIMENSION;
                let reason = format!(
                    "has shape {}: no size may be {size}, they go from 1 to {most}",
                    shape(tensor.shape)
                );
                return Err(self.wrong(tensor, reason));
            }
        }
        let (rank, in_features, out_features, b_rank) =
            (a.shape[0], a.shape[1], b.shape[0], b.shape[1]);
        if self.format == Format::Loralib && rank != b_rank && rank % b_rank == 0 {
            let reason = format!(
                "has shape {} and {} has {}: these are {} adapters of a MergedLinear, and which of its slices they adapt (enable_lora) is not in the \
                 file; split them into one module for each slice",
                shape(a.shape),
                shown(b.name),
                shape(b.shape),
                rank / b_rank
            );
            return Err(self.wrong(a, reason));
        }
        if rank != b_rank || b.shape[2..].iter().any(|&size| size != 1) {
            let reason = format!(
                "has shape {} and {} has {}: lora_A is (rank, in_features) and lora_B (out_features, rank), with one rank",
                shape(b.shape),
                shown(a.name),
                shape(a.shape)
            );
            return Err(self.wrong(b, reason));
        }
        Ok((rank, in_features, out_features))
    }

    /// The scaling of a module that agrees with its config.
    fn configured(&self, parts: &Parts, config: &PeftConfig) -> Result<f32> {
        let expected = config.rank_of(&parts.path);
        // An adapter on a bare parameter of several experts stacks the experts' ranks in one
        // matrix.
        let stacked = config
            .field("target_parameters")
            .is_some_and(|json| json != "null");
        if parts.rank != expected && !stacked {
            return Err(Error::Rank {
                path: self.file.path().into(),
                module: shown(&parts.path),
                given: parts.rank,
                expected,
            });
        }
        let scaling = config.scaling_of(&parts.path);
        if scaling > 0.0 && scaling.is_finite() {
            Ok(scaling)
        } else {
            Err(Error::Scaling {
                name: "lora_alpha",
                given: config.lora_alpha_of(&parts.path),
            })
        }
    }
}
