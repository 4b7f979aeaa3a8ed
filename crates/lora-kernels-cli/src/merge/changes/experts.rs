//! Adapters on the fused weights of several experts: PEFT's `target_parameters`.

use std::collections::{BTreeMap, BTreeSet};

use lora_kernels::WeightLayout;
use lora_kernels_adapters::{Kind, Module};

use super::fitting::{assigned, fitting};
use super::module::inside;
use super::{Finder, Source, Target, quantised, refuse};
use crate::failure::Failure;
use crate::merge::change::{LoraPart, Stack};

/// Names under which checkpoints store the weights of one expert, and the parameters that
/// transformers makes of them: their rows one after the other.
const PARTS: [(&str, &[&str]); 8] = [
    ("gate_up_proj", &["gate_proj", "up_proj"]),
    ("gate_up_proj", &["w1", "w3"]),
    ("gate_up_proj", &["fc1", "fc3"]),
    ("down_proj", &["down_proj"]),
    ("down_proj", &["w2"]),
    ("down_proj", &["fc2"]),
    ("gate_proj", &["gate_proj"]),
    ("up_proj", &["up_proj"]),
];

/// Names that transformers gives to parts of a layer, and those that their checkpoints have:
/// Mixtral's and its kin's, and Granite's.
const STORED: [(&str, &str); 3] = [
    (".mlp.", ".block_sparse_moe."),
    (".experts.gate_up_proj", ".input_linear.weight"),
    (".experts.down_proj", ".output_linear.weight"),
];

/// The name that checkpoints have for a tensor that transformers calls `named`, if `there` has it,
/// and how the one becomes the other.
pub fn stored<T>(named: &str, there: impl Fn(&str) -> Option<T>) -> Option<(T, String)> {
    STORED.into_iter().find_map(|(from, to)| {
        if !named.contains(from) {
            return None;
        }
        let plain = |part: &str| part.trim_matches('.').to_owned();
        let found = there(&named.replacen(from, to, 1))?;
        Some((found, format!("{}={}", plain(from), plain(to))))
    })
}

/// A parameter that a module may adapt.
#[derive(Clone)]
pub struct Parameter<'a> {
    pub name: String,
    pub place: Place<'a>,
    /// (experts, rows, columns).
    pub shape: [usize; 3],
}

/// Where the base stores a parameter.
#[derive(Clone)]
pub enum Place<'a> {
    /// In one tensor.
    Fused(Target<'a>),
    /// In tensors of each expert, whose rows follow each other: `[expert][part]`.
    Apart(Vec<Vec<Target<'a>>>),
}

impl<'a> Finder<'a, '_> {
    /// Adds the modules of kind [`Kind::Parameter`].
    pub(super) fn parameters(
        &mut self,
        source: &Source<'a, '_>,
        adapted: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        let mut by_path: BTreeMap<&str, Vec<&Module<'a>>> = BTreeMap::new();
        for module in &source.selected.modules {
            if module.kind == Kind::Parameter {
                by_path.entry(module.path).or_default().push(module);
            }
        }
        // Square parameters follow the others of the adapter.
        let mut square = Vec::new();
        let mut seen = BTreeSet::new();
        for (path, modules) in by_path {
            let parameters = self.candidates(source, path, &modules)?;
            for (module, parameter) in assigned(path, &modules, &parameters)? {
                match fitting(&parameter, module)[..] {
                    [layout] => {
                        // A single matrix tells nothing of stacks.
                        if module.experts > 1 {
                            seen.insert(layout == WeightLayout::InOut);
                        }
                        self.parameter(source, module, &parameter, layout, adapted)?;
                    }
                    _ => {
                        let told = self.stored_in_out(source, module.component, path);
                        square.push((module, parameter, told));
                    }
                }
            }
        }
        for (module, parameter, told) in square {
            let seen = match (seen.contains(&true), seen.contains(&false)) {
                (true, false) => Some(true),
                (false, true) => Some(false),
                _ => None,
            };
            let Some(transposed) = self.choices.experts_transposed.or(seen).or(told) else {
                return Err(untold(&inside(module.path, &parameter.name)));
            };
            let layout = layout_of(transposed);
            self.parameter(source, module, &parameter, layout, adapted)?;
        }
        Ok(())
    }

    /// The parameters of the module at `path` that the config names and the base has.
    fn candidates(
        &mut self,
        source: &Source<'a, '_>,
        path: &str,
        modules: &[&Module<'a>],
    ) -> Result<Vec<Parameter<'a>>, Failure> {
        let component = modules.first().and_then(|module| module.component);
        let config = source.selected.adapter.config_of(component);
        let names = config
            .map(|config| config.parameters_of(path))
            .unwrap_or_default();
        let mut found: Vec<Parameter<'a>> = Vec::new();
        let mut names_of_found = BTreeSet::new();
        let mut first_missing = None;
        for name in &names {
            if names_of_found.contains(name) {
                continue;
            }
            let target = self.look_up(source, component, &inside(path, name));
            match target {
                Ok(Some(target)) => {
                    self.float(&target)?;
                    let shape = self.current(&target).shape;
                    // A parameter of two dimensions is one matrix, (out_features, in_features).
                    let shape = match *shape {
                        [experts, rows, columns] => [experts, rows, columns],
                        [rows, columns] => [1, rows, columns],
                        _ => continue,
                    };
                    names_of_found.insert(*name);
                    found.push(Parameter {
                        name: (*name).to_owned(),
                        place: Place::Fused(target),
                        shape,
                    });
                }
                Ok(None) | Err(_) => {
                    let experts = modules.iter().map(|module| module.experts).max();
                    match self.apart(source, component, path, name, experts.unwrap_or(1))? {
                        Some(parameter) => {
                            names_of_found.insert(*name);
                            found.push(parameter);
                        }
                        None => {
                            first_missing.get_or_insert((*name, target.err()));
                        }
                    }
                }
            }
        }
        if found.is_empty() {
            // Experts that are stored one by one have their own weights.
            let named = source.resolver.named(component, path);
            if let Some((name, quantisation)) = self.base.quantised_below(&named) {
                return Err(quantised(&name, &quantisation));
            }
            return match first_missing {
                Some((_, Some(error))) => Err(error),
                Some((name, None)) => Err(self.missing(source, component, &inside(path, name))),
                None => refuse(format!(
                    "module {path}: its config's target_parameters doesn't name the parameter that \
                     it adapts"
                )),
            };
        }
        Ok(found)
    }

    /// A parameter that the base stores expert by expert.
    fn apart(
        &mut self,
        source: &Source<'a, '_>,
        component: Option<&str>,
        path: &str,
        name: &str,
        experts: usize,
    ) -> Result<Option<Parameter<'a>>, Failure> {
        for (_, parts) in PARTS.iter().filter(|(fused, _)| *fused == name) {
            let at = |expert: usize, part: &str| format!("{path}.{expert}.{part}.weight");
            if !parts
                .iter()
                .all(|part| self.has(source, component, &at(0, part)))
            {
                continue;
            }
            let mut all = Vec::new();
            let mut shape = None;
            for expert in 0..experts {
                let targets = { parts.iter() }
                    .map(|part| self.find(source, component, &at(expert, part)))
                    .collect::<Result<Vec<_>, _>>()?;
                let mut rows = 0;
                let mut columns = None;
                for target in &targets {
                    self.float(target)?;
                    let &[n, k] = self.current(target).shape else {
                        return refuse(format!("{} is no matrix", target.name()));
                    };
                    // Both parts of a fused weight have one size.
                    if columns.is_some_and(|size| size != (n, k)) {
                        return refuse(format!(
                            "{}: the weights of one expert differ in shape, so an adapter on {name} \
                             can't be told apart",
                            target.name()
                        ));
                    }
                    columns = Some((n, k));
                    rows += n;
                }
                let own = [rows, columns.map_or(0, |(_, k)| k)];
                if *shape.get_or_insert(own) != own {
                    return refuse(format!(
                        "{}: the base's experts differ in shape",
                        at(expert, name)
                    ));
                }
                all.push(targets);
            }
            if self.has(source, component, &at(experts, parts[0])) {
                return refuse(format!(
                    "{path}: the base has more experts than the adapter's {experts}: is this its \
                     base model?"
                ));
            }
            if let Some([rows, columns]) = shape {
                return Ok(Some(Parameter {
                    name: name.to_owned(),
                    place: Place::Apart(all),
                    shape: [experts, rows, columns],
                }));
            }
        }
        Ok(None)
    }

    pub(super) fn has(
        &mut self,
        source: &Source<'a, '_>,
        component: Option<&str>,
        name: &str,
    ) -> bool {
        matches!(self.located(source, component, name), Ok(Some(_)))
    }

    /// Whether the base stores fused experts (in_features, out_features), by the sizes of
    /// gate_up_proj and down_proj, which share the hidden and the intermediate size; `None` if it
    /// can't be told.
    pub(super) fn stored_in_out(
        &mut self,
        source: &Source<'a, '_>,
        component: Option<&str>,
        path: &str,
    ) -> Option<bool> {
        let mut of = |name: &str| {
            let name = inside(path, name);
            let found = self.located(source, component, &name).ok()??;
            match *self.base.tensor(found)?.1.shape {
                [_, rows, columns] => Some((rows, columns)),
                _ => None,
            }
        };
        let ((a, b), (c, d)) = (of("gate_up_proj")?, of("down_proj")?);
        let in_out = Some(b) == c.checked_mul(2) && a == d;
        let out_in = Some(a) == d.checked_mul(2) && b == c;
        // PEFT took (in_features, out_features) for granted before it told the two apart, so only
        // that way of storing decides.
        (in_out && !out_in).then_some(true)
    }

    /// Adds a module to its parameter.
    fn parameter(
        &mut self,
        source: &Source<'a, '_>,
        module: &Module<'a>,
        parameter: &Parameter<'a>,
        layout: WeightLayout,
        adapted: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        if matches!(parameter.place, Place::Apart(_)) && layout == WeightLayout::InOut {
            return refuse(format!(
                "{} of {} was trained as (in_features, out_features), and the base has a tensor for \
                 each expert, (out_features, in_features): merge it into a model saved with fused \
                 experts",
                parameter.name, module.path
            ));
        }
        let stack = match module.experts {
            1 => Stack::One,
            experts => Stack::Parameter { experts },
        };
        self.stack(source, module, (&parameter.place, layout), stack, adapted)
    }

    pub(super) fn stack(
        &mut self,
        source: &Source<'a, '_>,
        module: &Module<'a>,
        (place, layout): (&Place<'a>, WeightLayout),
        stack: Stack,
        adapted: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        if module.magnitude.is_some() || module.bias.is_some() {
            return refuse(format!(
                "module {}: experts have neither DoRA's magnitudes nor a bias of lora_B",
                module.path
            ));
        }
        let part = LoraPart {
            rank: module.rank,
            factor: self.factor(source, module)?,
            stack,
            expert: None,
            first_out: 0,
            a: module.a,
            b: module.b,
        };
        match place {
            Place::Fused(target) => self.lora(target, module, layout, part, adapted),
            Place::Apart(experts) => {
                for (expert, targets) in experts.iter().enumerate() {
                    let mut first_out = 0;
                    for target in targets {
                        let part = LoraPart {
                            expert: (stack != Stack::One).then_some(expert),
                            first_out,
                            ..part
                        };
                        first_out += self.current(target).shape.first().copied().unwrap_or(0);
                        self.lora(target, module, layout, part, adapted)?;
                    }
                }
                Ok(())
            }
        }
    }
}

pub fn layout_of(transposed: bool) -> WeightLayout {
    match transposed {
        true => WeightLayout::InOut,
        false => WeightLayout::OutIn,
    }
}

/// Square experts whose layout nothing tells.
pub fn untold(name: &str) -> Failure {
    Failure::Refused(format!(
        "{name}: whether its square matrices are stored (in_features, out_features) can't be told; \
         --experts-transposed yes (as gpt-oss and Llama 4 store them) or no decides"
    ))
}
