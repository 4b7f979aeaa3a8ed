//! One module: its sizes, its scaling, and whether its tensors fit each other and its config.

use safetensors::Dtype;

use super::keys::joined;
use super::modules::Reader;
use super::parameters::{Wrapped, is_wrapped, wrapped};
use super::scalings::{self, agrees, checked};
use super::shapes::{EMPTY_HINT, Sizes, magnitude, sizes};
use super::sorted::{Found, Id};
use crate::adapter::{Parts, ScalingSource};
use crate::shown::{shape, shown};
use crate::tensor::Tensor;
use crate::{Error, Format, Kind, PeftConfig, Result};

/// lora_A and lora_B, with the kinds that their names say.
type Pair<'a> = ((Kind, Tensor<'a>), (Kind, Tensor<'a>));

impl<'a> Reader<'a> {
    /// A module whose scaling is the config's; without a config, it is still to be found, and
    /// `scaled_by` is [`ScalingSource::Given`]. `siblings` are all wrappers of the same module.
    pub(super) fn module(
        &self,
        id: &Id<'_>,
        found: &Found<'a>,
        nesting: usize,
        siblings: &[&Found<'_>],
    ) -> Result<Parts> {
        if let Some(tensor) = found.tensors().find(|tensor| tensor.shape.contains(&0)) {
            let reason = format!(
                "has shape {}: no size may be 0, they go from 1 to {}{EMPTY_HINT}",
                shape(tensor.shape),
                lora_kernels::Problem::MAX_DIMENSION
            );
            return Err(self.wrong(tensor, reason));
        }
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
        let in_config = joined(found.inner, &id.path);
        let rank = config.map(|(config, _)| config.rank_of(&in_config));
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
            let wraps = found_sizes.kind == Kind::Linear
                && is_wrapped(config, &in_config, rows.len(), outer)
                    .map_err(|reason| self.refused(id, reason))?;
            if wraps {
                let all = wrapped(config, &in_config, &rows);
                let all: Vec<Wrapped> = all.map_err(|reason| self.refused(id, reason))?;
                let one = { all.get(nesting).copied() }.ok_or_else(|| {
                    let reason = "has a lora_B without lora_A among its parameters";
                    self.refused(id, reason.into())
                })?;
                found_sizes = Sizes {
                    kind: Kind::Parameter,
                    rank: one.rank,
                    experts: one.experts,
                    ..found_sizes
                };
                scaling = (checked("lora_alpha", 1.0, one.scaling)?, source);
            } else {
                self.not_nested(id, a)?;
                scaling = (
                    self.configured(&in_config, config, found_sizes.rank)?,
                    source,
                );
            }
            if let Some(tensor) = found.alpha {
                let alpha =
                    scalings::alpha(tensor)?.map_err(|reason| self.wrong(tensor, reason))?;
                let expected = config.lora_alpha_of(&in_config);
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
                    "has shape {}; lora_B's bias has an element for each of {out_features} \
                     out_features of one matrix",
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

    fn pair(&self, id: &Id<'_>, found: &Found<'a>) -> Result<Pair<'a>> {
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

    pub(super) fn float(&self, tensor: Tensor<'_>) -> Result<()> {
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
            "has shape {} and {} has {}: these are {} adapters of a MergedLinear, and which of its \
             slices they adapt (enable_lora) is not in the file; split them into one module \
             for each slice",
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
        let reason = "is inside another adapter's base_layer, and the config names no \
            target_parameters that explain it";
        Err(self.wrong(a, reason.into()))
    }

    fn refused(&self, id: &Id<'_>, reason: String) -> Error {
        Error::Module {
            path: self.file.path().into(),
            module: shown(&id.path),
            reason,
        }
    }

    /// The scaling of a module that agrees with its config.
    fn configured(&self, path: &str, config: &PeftConfig, rank: usize) -> Result<f32> {
        let expected = config.rank_of(path);
        if rank != expected {
            return Err(Error::Rank {
                path: self.file.path().into(),
                module: shown(path),
                given: rank,
                expected,
            });
        }
        checked(
            "lora_alpha",
            config.lora_alpha_of(path),
            config.scaling_of(path),
        )
    }

    /// The scaling of a module without a config.
    pub(super) fn unconfigured(
        &self,
        parts: &Parts,
        found: &Found<'_>,
        id: &Id<'_>,
    ) -> Result<(f32, ScalingSource)> {
        if let Some(tensor) = found.alpha {
            let alpha = scalings::alpha(tensor)?.map_err(|reason| self.wrong(tensor, reason))?;
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
}
