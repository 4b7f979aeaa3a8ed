//! The changes that a merge makes to a model, collected and checked before anything is written.

use std::collections::BTreeSet;
use std::path::Path;

use lora_kernels::{DType, MergeProblem, WeightLayout};
use lora_kernels_adapters::base::Resolver;
use lora_kernels_adapters::{Adapter, BaseModel, Kind, Module, Saved, Tensor};

use super::change::{Added, Change, Changes, LoraPart, Stack};
use super::numbers::{is_float, same_within_types};
use super::{Direction, layout};
use crate::failure::Failure;
use crate::show::{count, few};

/// An adapter and its weight among several.
pub struct Weighted<'a> {
    pub adapter: &'a Adapter,
    pub path: &'a Path,
    pub weight: f64,
    /// Finds its names in the base model.
    pub resolver: &'a Resolver<'a>,
}

/// Collects the changes that adapters make. `fan_in_fan_out` says whether square weights are stored transposed, where the adapters can't
/// tell.
pub fn collect<'a>(
    base: &'a BaseModel,
    adapters: &[Weighted<'a>],
    direction: Direction,
    fan_in_fan_out: Option<bool>,
) -> Result<Changes<'a>, Failure> {
    for weighted in adapters {
        check_adapter(weighted, direction)?;
    }
    let Some(first) = adapters.first() else {
        return Ok(Changes::default());
    };
    let mut finder = Finder {
        base,
        resolver: first.resolver,
        square: WeightLayout::default(),
        adapted: BTreeSet::new(),
        changes: Changes::default(),
    };
    for weighted in adapters {
        finder.resolver = weighted.resolver;
        finder.square = layout::of_squares(base, finder.resolver, weighted, fan_in_fan_out)?;
        finder.adapted.clear();
        let takes = |component| weighted.resolver.takes(component);
        let adapter = weighted.adapter;
        for module in adapter.modules().filter(|part| takes(part.component)) {
            finder.module(&module, weighted, direction)?;
        }
        for saved in adapter.saved().filter(|part| takes(part.component)) {
            finder.saved(saved)?;
        }
        let weights = adapter.base_weights();
        for weight in weights.filter(|part| takes(part.component)) {
            finder.base_weight(weight, direction)?;
        }
    }
    Ok(finder.changes)
}

/// Refuses an adapter that can't be merged, and names the reason.
fn check_adapter(weighted: &Weighted<'_>, direction: Direction) -> Result<(), Failure> {
    let Weighted {
        adapter,
        path,
        weight,
        ..
    } = weighted;
    let refuse = |what: String| {
        Err(Failure::Refused(format!(
            "{} can't be merged: {what}",
            path.display()
        )))
    };
    let paths = |holds: &dyn Fn(&Module<'_>) -> bool| -> Vec<&str> {
        adapter
            .modules()
            .filter(|module| holds(module))
            .map(|module| module.path)
            .collect()
    };
    let dora = paths(&|module| module.magnitude.is_some());
    let is_dora = adapter.config().is_some_and(|config| config.use_dora());
    if is_dora || !dora.is_empty() {
        return refuse(format!(
            "it is DoRA's, whose magnitude vectors are not computed with yet ({}: {})",
            count(dora.len(), "module"),
            few(dora)
        ));
    }
    let convolutions = paths(&|module| module.kind == Kind::Convolution);
    if !convolutions.is_empty() {
        return refuse(format!(
            "it adapts convolutions, which are not computed yet: {}",
            few(convolutions)
        ));
    }
    let variants = adapter
        .config()
        .map(|config| config.variants())
        .unwrap_or_default();
    if !variants.is_empty() {
        return refuse(format!(
            "its config has {}, which makes it more than B·A added to a weight of the original model",
            few(variants.iter().map(String::as_str))
        ));
    }
    let unknown: Vec<&str> = adapter
        .unknown()
        .map(|unknown| unknown.tensor.name)
        .collect();
    if !unknown.is_empty() {
        return refuse(format!(
            "it has tensors of another method than LoRA: {}",
            few(unknown)
        ));
    }
    let saved: Vec<&str> = adapter.saved().map(|saved| saved.name).collect();
    if saved.is_empty() {
        return Ok(());
    }
    if direction == Direction::Unmerge {
        return Err(Failure::Refused(format!(
            "{} can't be unmerged: {} were put in place of the base's, which only the base has ({})",
            path.display(),
            count(saved.len(), "tensor"),
            few(saved)
        )));
    }
    if *weight != 1.0 {
        return refuse(format!(
            "it has {} trained whole, which a weight of {weight} can't be applied to ({})",
            count(saved.len(), "tensor"),
            few(saved)
        ));
    }
    Ok(())
}

struct Finder<'a> {
    base: &'a BaseModel,
    resolver: &'a Resolver<'a>,
    square: WeightLayout,
    /// Weights that the current adapter's modules have changed so far.
    adapted: BTreeSet<&'a str>,
    changes: Changes<'a>,
}

impl<'a> Finder<'a> {
    fn saved(&mut self, saved: Saved<'a>) -> Result<(), Failure> {
        if self.resolver.find(saved.component, saved.name)?.is_none() {
            if self
                .changes
                .added
                .iter()
                .any(|other| other.name == saved.name)
            {
                return Err(twice(saved.name));
            }
            self.changes
                .added
                .push(Added::whole(saved.name.to_owned(), saved.tensor));
            return Ok(());
        }
        let (name, target, change) = self.change(saved.component, saved.name)?;
        let (new, old) = (saved.tensor, target);
        if new.shape != old.shape {
            return Err(Failure::Refused(format!(
                "the adapter has {name} whole, with shape {:?}, and the base's has {:?}: a model with resized embeddings, or another base",
                new.shape, old.shape
            )));
        }
        if new.dtype != old.dtype && !(is_float(new.dtype) && is_float(old.dtype)) {
            return Err(Failure::Refused(format!(
                "the adapter has {name} whole, in {:?}, and the base's is {:?}",
                new.dtype, old.dtype
            )));
        }
        match change.replaced.replace(new) {
            None => Ok(()),
            Some(_) => Err(twice(name)),
        }
    }

    /// Checks that a base weight saved with the adapter is the one in this base model.
    fn base_weight(&mut self, weight: Saved<'a>, direction: Direction) -> Result<(), Failure> {
        let (name, old, _) = self.change(weight.component, weight.name)?;
        // When unmerging, the base model's weight contains the adapter, so only shapes are
        // compared.
        let same = weight.tensor.shape == old.shape
            && (direction == Direction::Unmerge || same_within_types(&weight.tensor, &old));
        match same {
            true => Ok(()),
            false => Err(Failure::Refused(format!(
                "the adapter has the weight of its base that it was trained on for {name}, with shape {:?}, and this base's, with shape {:?}, is \
                 another: a model with resized embeddings, or another base",
                weight.tensor.shape, old.shape
            ))),
        }
    }

    fn module(
        &mut self,
        module: &Module<'a>,
        weighted: &Weighted<'_>,
        direction: Direction,
    ) -> Result<(), Failure> {
        let sign = match direction {
            Direction::Merge => 1.0,
            Direction::Unmerge => -1.0,
        };
        let factor = (f64::from(module.scaling) * weighted.weight * sign) as f32;
        if !factor.is_finite() || factor == 0.0 {
            return Err(Failure::Refused(format!(
                "module {}: its scaling {} times the weight {} is {factor} in f32",
                module.path, module.scaling, weighted.weight
            )));
        }
        let path = |of: &str| match module.path {
            "" => of.to_owned(),
            path => format!("{path}.{of}"),
        };
        let square = self.square;
        let (name, target, change) = self.change(module.component, &path("weight"))?;
        float(name, target)?;
        let layout = layout::of(name, target.shape, module, square)?;
        if !change.loras.is_empty() && change.layout != layout {
            return Err(Failure::Refused(format!(
                "the adapters disagree on which way round {name} is stored (fan_in_fan_out)"
            )));
        }
        change.layout = layout;
        change.loras.push(LoraPart {
            rank: module.rank,
            in_features: module.in_features,
            factor,
            stack: Stack::One,
            expert: None,
            first_out: 0,
            a: module.a,
            b: module.b,
        });
        if change.loras.len() > MergeProblem::MAX_ADAPTERS {
            return Err(Failure::Refused(format!(
                "{name}: more than {} adapters at once; merge the rest into the result",
                MergeProblem::MAX_ADAPTERS
            )));
        }
        if !self.adapted.insert(name) {
            return Err(Failure::Refused(format!(
                "more than one module of the adapter is {name} in the base model; {} is the second: is this its base model?",
                module.path
            )));
        }
        let Some(bias) = module.bias else {
            return Ok(());
        };
        let (name, target, change) = self.change(module.component, &path("bias"))?;
        float(name, target)?;
        if target.shape != [module.out_features] {
            return Err(Failure::Refused(format!(
                "{name} has shape {:?}, and the adapter's lora_B.bias {} elements",
                target.shape, module.out_features
            )));
        }
        change.biases.push((factor, bias));
        Ok(())
    }

    /// The base's tensor that the adapter calls `wanted`, and its change.
    fn change(
        &mut self,
        component: Option<&str>,
        wanted: &str,
    ) -> Result<(&'a str, Tensor<'a>, &mut Change<'a>), Failure> {
        let found = self.resolver.resolve(component, wanted).map_err(|error| match wanted {
            head if head.ends_with("lm_head.weight") => Failure::Refused(format!(
                "{error} (a model that ties it to its embeddings stores it once: untie and save it before)"
            )),
            _ => error.into(),
        })?;
        let Some((_, tensor)) = self.base.tensor(found.name) else {
            return Err(Failure::Refused(format!(
                "{} is not in the base model",
                found.name
            )));
        };
        let change = self
            .changes
            .tensors
            .entry(found.shard)
            .or_default()
            .entry(found.name)
            .or_default();
        Ok((found.name, tensor, change))
    }
}

fn twice(name: &str) -> Failure {
    Failure::Refused(format!(
        "more than one of the adapters has {name} whole: only one of them can be put in its place"
    ))
}

fn float(name: &str, tensor: Tensor<'_>) -> Result<DType, Failure> {
    tensor.element_type().ok_or_else(|| {
        Failure::Refused(format!(
            "{name} of the base is {:?}: adapters are added to F32, F16 and BF16, so a quantised model has to be merged before it is quantised",
            tensor.dtype
        ))
    })
}
