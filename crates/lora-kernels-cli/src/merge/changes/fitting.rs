//! Which of a module's parameters an adapter is for.

use std::collections::BTreeSet;

use lora_kernels::WeightLayout;
use lora_kernels_adapters::Module;

use super::experts::{Parameter, Place};
use super::refuse;
use crate::failure::Failure;
use crate::show::few;

/// How a parameter lies in memory: (in_features, out_features) or the other way round.
type Layouts = Vec<WeightLayout>;

/// The layouts in which a parameter fits a module.
pub fn fitting(parameter: &Parameter<'_>, module: &Module<'_>) -> Layouts {
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
pub fn assigned<'m, 'a>(
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
