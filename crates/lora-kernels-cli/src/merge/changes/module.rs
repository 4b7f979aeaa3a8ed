//! Modules: lora_A and lora_B, added to a weight, and lora_B's bias, added to a bias.

use std::collections::BTreeSet;

use lora_kernels::{DType, MergeProblem, WeightLayout};
use lora_kernels_adapters::{Kind, Module, Tensor};

use super::{Finder, Source, Target, refuse};
use crate::failure::Failure;
use crate::merge::change::{LoraPart, Stack};
use crate::merge::{Direction, layout};

impl<'a> Finder<'a, '_> {
    /// Collects the modules of an adapter.
    pub(super) fn modules(&mut self, source: &Source<'a, '_>) -> Result<(), Failure> {
        // Weights that the adapter's modules have changed so far.
        let mut adapted = BTreeSet::new();
        for module in &source.selected.modules {
            match module.kind {
                Kind::Parameter => continue,
                Kind::Stacked => self.stacked(source, module, &mut adapted)?,
                _ => self.module(source, module, &mut adapted)?,
            }
        }
        self.parameters(source, &mut adapted)
    }

    fn module(
        &mut self,
        source: &Source<'a, '_>,
        module: &Module<'a>,
        adapted: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        let factor = self.factor(source, module)?;
        let target = self.find(source, module.component, &inside(module.path, "weight"))?;
        // A quantised weight has any shape.
        self.float(&target)?;
        let shape = self.current(&target).shape;
        let layout = layout::of(target.name(), shape, module, source.square)?;
        let part = LoraPart {
            rank: module.rank,
            factor,
            stack: Stack::One,
            expert: None,
            first_out: 0,
            a: module.a,
            b: module.b,
        };
        self.lora(&target, module, layout, part, adapted)?;
        self.trains(source, &target);
        if let Some(magnitude) = module.magnitude {
            self.magnitude(source, &target, magnitude)?;
        }
        let Some(bias) = module.bias else {
            return Ok(());
        };
        let target = self.find(source, module.component, &inside(module.path, "bias"))?;
        self.float(&target)?;
        let tensor = self.current(&target);
        if tensor.shape != [module.out_features] {
            return refuse(format!(
                "{} has shape {:?}, and the adapter's lora_B.bias {} elements",
                target.name(),
                tensor.shape,
                module.out_features
            ));
        }
        self.change(&target).biases.push((factor, bias));
        Ok(())
    }

    /// The factor of a module's B·A.
    pub(super) fn factor(
        &self,
        source: &Source<'a, '_>,
        module: &Module<'a>,
    ) -> Result<f32, Failure> {
        let sign = match self.choices.direction {
            Direction::Merge => 1.0,
            Direction::Unmerge => -1.0,
        };
        let weight = source.selected.weight;
        let factor = (f64::from(module.scaling) * weight * sign) as f32;
        if !factor.is_finite() || factor == 0.0 {
            return refuse(format!(
                "module {}: its scaling {} times the weight {weight} is {factor} in f32",
                module.path, module.scaling
            ));
        }
        Ok(factor)
    }

    /// Adds a part to a weight.
    pub(super) fn lora(
        &mut self,
        target: &Target<'a>,
        module: &Module<'a>,
        layout: WeightLayout,
        part: LoraPart<'a>,
        adapted: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        let name = target.name();
        if !adapted.insert(name.to_owned()) {
            return refuse(format!(
                "more than one module of the adapter is {name} in the base model; {} is the \
                 second: is this its base model?",
                module.path
            ));
        }
        let change = self.change(target);
        if !change.loras.is_empty() && change.layout != layout {
            return refuse(format!(
                "the adapters disagree on which way round {name} is stored (fan_in_fan_out)"
            ));
        }
        change.layout = layout;
        change.loras.push(part);
        if change.magnitude.is_some() || (module.magnitude.is_some() && change.loras.len() > 1) {
            return refuse(format!(
                "{name}: a DoRA adapter can't be merged beside another adapter, because its \
                 magnitudes are of W + B·A alone; merge one of them into the result of the other"
            ));
        }
        if change.loras.len() > MergeProblem::MAX_ADAPTERS {
            return refuse(format!(
                "{name}: more than {} adapters at once; merge the rest into the result",
                MergeProblem::MAX_ADAPTERS
            ));
        }
        Ok(())
    }

    fn magnitude(
        &mut self,
        source: &Source<'a, '_>,
        target: &Target<'a>,
        magnitude: Tensor<'a>,
    ) -> Result<(), Failure> {
        let name = target.name();
        let by_another = { self.replaced_by.get(name) }.is_some_and(|&by| by != source.number);
        if by_another {
            return refuse(format!(
                "{name}: DoRA's magnitudes are of the base's weight, which another of the adapters \
                 replaces; merge one of them into the result of the other"
            ));
        }
        self.change(target).magnitude = Some(magnitude);
        Ok(())
    }

    /// The element type of the result. Refuses types to which nothing can be added.
    pub(super) fn float(&self, target: &Target<'a>) -> Result<DType, Failure> {
        let tensor = self.original(target);
        tensor.element_type().ok_or_else(|| {
            self.quantised(target.name()).unwrap_or_else(|| {
                Failure::Refused(format!(
                    "{} of the base is {:?}: adapters are added to F32, F16 and BF16",
                    target.name(),
                    tensor.dtype
                ))
            })
        })
    }
}

/// The name of a module's tensor.
pub fn inside(path: &str, tensor: &str) -> String {
    match path {
        "" => tensor.to_owned(),
        path => format!("{path}.{tensor}"),
    }
}
