//! What a merge changes of a model, found out and checked before anything is written.

use std::collections::BTreeMap;
use std::path::Path;

use lora_kernels::{DType, MergeProblem, WeightLayout};
use lora_kernels_adapters::base::Resolver;
use lora_kernels_adapters::{Adapter, BaseModel, Kind, Module, Saved, Tensor};

use super::Direction;
use super::numbers::is_float;
use crate::failure::Failure;
use crate::show::{count, few};

/// An adapter and its factor among several.
pub struct Weighted<'a> {
    pub adapter: &'a Adapter,
    pub path: &'a Path,
    pub weight: f64,
}

/// What becomes of a model.
#[derive(Default)]
pub struct Changes<'a> {
    /// By shard, then by name.
    pub tensors: BTreeMap<usize, BTreeMap<&'a str, Change<'a>>>,
    /// Tensors that the base doesn't have.
    pub added: Vec<Saved<'a>>,
}

/// What becomes of a tensor.
pub struct Change<'a> {
    /// In place of the base's, of the same shape.
    pub replaced: Option<Tensor<'a>>,
    /// Matrices to add: W (out_features, in_features), or transposed.
    pub loras: Vec<LoraPart<'a>>,
    pub layout: WeightLayout,
    /// lora_B's biases to add to a bias, with their factors.
    pub biases: Vec<(f32, Tensor<'a>)>,
}

/// An adapter's part in a weight.
#[derive(Clone, Copy)]
pub struct LoraPart<'a> {
    pub rank: usize,
    pub in_features: usize,
    /// With the adapter's weight, and with the direction's sign.
    pub factor: f32,
    pub a: Tensor<'a>,
    pub b: Tensor<'a>,
}

impl<'a> Changes<'a> {
    pub fn new(base: &'a BaseModel, adapters: &[Weighted<'a>], direction: Direction) -> Result<Self, Failure> {
        for weighted in adapters {
            check_adapter(weighted, direction)?;
        }
        let mut finder = Finder {
            base,
            // One for each adapter: their prefixes may differ.
            resolver: base.resolver(),
            changes: Changes::default(),
        };
        for weighted in adapters {
            finder.resolver = base.resolver();
            for saved in weighted.adapter.saved() {
                finder.saved(saved)?;
            }
            for module in weighted.adapter.modules() {
                finder.module(&module, weighted, direction)?;
            }
        }
        Ok(finder.changes)
    }

    /// The change of a tensor, if there is one.
    pub fn of(&self, shard: usize, name: &str) -> Option<&Change<'a>> {
        self.tensors.get(&shard)?.get(name)
    }
}

/// Refuses what can't be merged, naming it.
fn check_adapter(weighted: &Weighted<'_>, direction: Direction) -> Result<(), Failure> {
    let Weighted { adapter, path, weight } = weighted;
    let refuse = |what: String| Err(Failure::Refused(format!("{} can't be merged: {what}", path.display())));
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
    let variants = adapter.config().map(|config| config.variants()).unwrap_or_default();
    if !variants.is_empty() {
        return refuse(format!(
            "its config has {}, which makes it more than B·A added to a weight of the original model",
            few(variants.iter().map(String::as_str))
        ));
    }
    let unknown: Vec<&str> = adapter.unknown().map(|tensor| tensor.name).collect();
    if !unknown.is_empty() {
        return refuse(format!("it has tensors of another method than LoRA: {}", few(unknown)));
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
    resolver: Resolver<'a>,
    changes: Changes<'a>,
}

impl<'a> Finder<'a> {
    fn saved(&mut self, saved: Saved<'a>) -> Result<(), Failure> {
        if !self.resolver.contains(saved.name) {
            if self.changes.added.iter().any(|other| other.name == saved.name) {
                return Err(twice(saved.name));
            }
            self.changes.added.push(saved);
            return Ok(());
        }
        let (name, target, change) = self.change(saved.name)?;
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

    fn module(&mut self, module: &Module<'a>, weighted: &Weighted<'_>, direction: Direction) -> Result<(), Failure> {
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
        let fan_in_fan_out = weighted.adapter.config().is_some_and(|config| config.fan_in_fan_out());
        let (name, target, change) = self.change(&path("weight"))?;
        float(name, target)?;
        let layout = layout(name, target.shape, module, fan_in_fan_out)?;
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
            a: module.a,
            b: module.b,
        });
        if change.loras.len() > MergeProblem::MAX_ADAPTERS {
            return Err(Failure::Refused(format!(
                "{name}: more than {} adapters at once; merge the rest into the result",
                MergeProblem::MAX_ADAPTERS
            )));
        }
        let Some(bias) = module.bias else { return Ok(()) };
        let (name, target, change) = self.change(&path("bias"))?;
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

    /// The base's tensor by the adapter's name for it, and what becomes of it.
    fn change(&mut self, wanted: &str) -> Result<(&'a str, Tensor<'a>, &mut Change<'a>), Failure> {
        let found = self.resolver.resolve(wanted).map_err(|error| match wanted {
            head if head.ends_with("lm_head.weight") => Failure::Refused(format!(
                "{error} (a model that ties it to its embeddings stores it once: untie and save it before)"
            )),
            _ => error.into(),
        })?;
        let Some((_, tensor)) = self.base.tensor(found.name) else {
            return Err(Failure::Refused(format!("{} is not in the base model", found.name)));
        };
        let change = self
            .changes
            .tensors
            .entry(found.shard)
            .or_default()
            .entry(found.name)
            .or_insert_with(|| Change {
                replaced: None,
                loras: Vec::new(),
                layout: WeightLayout::default(),
                biases: Vec::new(),
            });
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

/// Which way round the weight lies. Where it is square, the config alone can tell; else its shape does, as in PEFT, which goes by the layer's class.
fn layout(name: &str, shape: &[usize], module: &Module<'_>, fan_in_fan_out: bool) -> Result<WeightLayout, Failure> {
    let (n, k) = (module.out_features, module.in_features);
    let is = |expected: [usize; 2]| shape == expected;
    let transposed = module.kind == Kind::Embedding || (n == k && fan_in_fan_out);
    match (is([n, k]), is([k, n])) {
        (true, _) if !transposed => Ok(WeightLayout::OutIn),
        (_, true) => Ok(WeightLayout::InOut),
        _ => Err(Failure::Refused(format!(
            "{name} has shape {shape:?}, and the adapter's module {} has {n} out_features and {k} in_features ({}): is this its base model?",
            module.path, module.kind
        ))),
    }
}
