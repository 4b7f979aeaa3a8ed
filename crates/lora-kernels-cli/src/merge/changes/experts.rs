//! Adapters on the weights of several experts: PEFT's `target_parameters`, and stacked matrices.

use std::collections::{BTreeMap, BTreeSet};

use lora_kernels::WeightLayout;
use lora_kernels_adapters::{Kind, Module};

use super::module::inside;
use super::{Finder, Source, Target, quantised, refuse};
use crate::failure::Failure;
use crate::merge::change::{LoraPart, Stack};
use crate::merge::layout;
use crate::show::few;

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
struct Parameter<'a> {
    name: String,
    place: Place<'a>,
    /// (experts, rows, columns).
    shape: [usize; 3],
}

/// Where the base stores a parameter.
#[derive(Clone)]
enum Place<'a> {
    /// In one tensor.
    Fused(Target<'a>),
    /// In tensors of each expert, whose rows follow each other: `[expert][part]`.
    Apart(Vec<Vec<Target<'a>>>),
}

/// How a parameter lies in memory: (in_features, out_features) or the other way round.
type Layouts = Vec<WeightLayout>;

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
        let mut first_error = None;
        for name in &names {
            if found.iter().any(|other| other.name == *name) {
                continue;
            }
            match self.find(source, component, &inside(path, name)) {
                Ok(target) => {
                    self.float(&target)?;
                    let shape = self.current(&target).shape;
                    // A parameter of two dimensions is one matrix, (out_features, in_features).
                    let shape = match *shape {
                        [experts, rows, columns] => [experts, rows, columns],
                        [rows, columns] => [1, rows, columns],
                        _ => continue,
                    };
                    found.push(Parameter {
                        name: (*name).to_owned(),
                        place: Place::Fused(target),
                        shape,
                    });
                }
                Err(error) => {
                    let experts = modules.iter().map(|module| module.experts).max();
                    match self.apart(source, component, path, name, experts.unwrap_or(1))? {
                        Some(parameter) => found.push(parameter),
                        None => first_error = first_error.or(Some(error)),
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
            return match first_error {
                Some(error) => Err(error),
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

    fn has(&mut self, source: &Source<'a, '_>, component: Option<&str>, name: &str) -> bool {
        matches!(self.located(source, component, name), Ok(Some(_)))
    }

    /// Whether the base stores fused experts (in_features, out_features), by the sizes of
    /// gate_up_proj and down_proj, which share the hidden and the intermediate size; `None` if it
    /// can't be told.
    fn stored_in_out(
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

    fn stack(
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

    /// Adds a module whose matrices are stacked: (experts, rank, in_features) and (experts,
    /// out_features, rank).
    pub(super) fn stacked(
        &mut self,
        source: &Source<'a, '_>,
        module: &Module<'a>,
        adapted: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        let name = inside(module.path, "weight");
        let target = match self.find(source, module.component, &name) {
            Ok(target) => Ok(target),
            // A bare parameter has no `weight` of its own.
            Err(error) => self
                .find(source, module.component, module.path)
                .map_err(|_| error),
        };
        let stack = Stack::Leading {
            experts: module.experts,
        };
        let target = match target {
            Ok(target) => target,
            Err(error) => {
                let Some(experts) = self.stacked_apart(source, module) else {
                    return Err(error);
                };
                let place = Place::Apart(experts.into_iter().map(|target| vec![target]).collect());
                return self.stack(
                    source,
                    module,
                    (&place, WeightLayout::OutIn),
                    stack,
                    adapted,
                );
            }
        };
        self.float(&target)?;
        let shape = self.current(&target).shape;
        let layout = match *shape {
            [experts, rows, columns] if experts == module.experts && rows == columns => {
                let told = self.choices.experts_transposed;
                let parent = module
                    .path
                    .rsplit_once('.')
                    .map_or("", |(parent, _)| parent);
                let told = told.or_else(|| self.stored_in_out(source, module.component, parent));
                let square = layout_of(told.ok_or_else(|| untold(target.name()))?);
                layout::of_matrix(&[rows, columns], module, square)
            }
            [experts, ref matrix @ ..] if experts == module.experts => {
                layout::of_matrix(matrix, module, source.square)
            }
            _ => None,
        };
        let layout = layout.ok_or_else(|| layout::unfit(target.name(), shape, module))?;
        self.stack(
            source,
            module,
            (&Place::Fused(target), layout),
            stack,
            adapted,
        )
    }

    /// The base's tensors of a stacked module, one for each expert: `experts.3.up_proj.weight` for
    /// `experts.up_proj`. All must fit.
    fn stacked_apart(
        &mut self,
        source: &Source<'a, '_>,
        module: &Module<'a>,
    ) -> Option<Vec<Target<'a>>> {
        let (path, name) = module.path.rsplit_once('.')?;
        let at = |expert: usize| format!("{path}.{expert}.{name}.weight");
        if self.has(source, module.component, &at(module.experts)) {
            return None;
        }
        (0..module.experts)
            .map(|expert| {
                let target = self.find(source, module.component, &at(expert)).ok()?;
                self.float(&target).ok()?;
                let fits = self.current(&target).shape == [module.out_features, module.in_features];
                fits.then_some(target)
            })
            .collect()
    }
}

fn layout_of(transposed: bool) -> WeightLayout {
    match transposed {
        true => WeightLayout::InOut,
        false => WeightLayout::OutIn,
    }
}

/// Square experts whose layout nothing tells.
fn untold(name: &str) -> Failure {
    Failure::Refused(format!(
        "{name}: whether its square matrices are stored (in_features, out_features) can't be told; \
         --experts-transposed yes (as gpt-oss and Llama 4 store them) or no decides"
    ))
}

/// The layouts in which a parameter fits a module.
fn fitting(parameter: &Parameter<'_>, module: &Module<'_>) -> Layouts {
    let [experts, rows, columns] = parameter.shape;
    let (n, k) = (module.out_features, module.in_features);
    if experts != module.experts {
        return Vec::new();
    }
    // A parameter of two dimensions is (out_features, in_features). So are the base's tensors of
    // single experts, but a square one may have been trained the other way round.
    let is_matrix = match &parameter.place {
        Place::Apart(_) => rows != columns,
        Place::Fused(_) => experts == 1,
    };
    let mut layouts = Vec::new();
    if [rows, columns] == [n, k] {
        layouts.push(WeightLayout::OutIn);
    }
    if [rows, columns] == [k, n] && !is_matrix {
        layouts.push(WeightLayout::InOut);
    }
    layouts
}

/// The parameter of each module. PEFT wraps several parameters of one module in the order in which
/// its class defines them, which no file tells, so shapes have to.
fn assigned<'m, 'a>(
    path: &str,
    modules: &[&'m Module<'a>],
    parameters: &[Parameter<'a>],
) -> Result<Vec<(&'m Module<'a>, Parameter<'a>)>, Failure> {
    let fits: Vec<Vec<usize>> = { modules.iter() }
        .map(|module| {
            (0..parameters.len())
                .filter(|&at| !fitting(&parameters[at], module).is_empty())
                .collect()
        })
        .collect();
    let names = || few(parameters.iter().map(|parameter| parameter.name.as_str()));
    let mut chosen = Vec::with_capacity(modules.len());
    for (module, fits) in modules.iter().zip(&fits) {
        match fits[..] {
            [only] => chosen.push(only),
            [] => {
                let first = &parameters[0];
                let [experts, rows, columns] = first.shape;
                return refuse(format!(
                    "module {path} has {} experts, {} in_features and {} out_features, and none of \
                     the base's {} fits ({} is {experts} times {rows} x {columns}): is this its base \
                     model?",
                    module.experts,
                    module.in_features,
                    module.out_features,
                    names(),
                    first.name
                ));
            }
            _ => {
                return refuse(format!(
                    "module {path} fits more than one parameter of the base ({}), and the file \
                     doesn't say which it adapts",
                    names()
                ));
            }
        }
    }
    let distinct: BTreeSet<usize> = chosen.iter().copied().collect();
    if distinct.len() != chosen.len() {
        return refuse(format!(
            "module {path}: two of its adapters fit the same parameter of the base ({}): is this \
             its base model?",
            names()
        ));
    }
    Ok({ modules.iter().copied() }
        .zip(chosen.into_iter().map(|at| parameters[at].clone()))
        .collect())
}
