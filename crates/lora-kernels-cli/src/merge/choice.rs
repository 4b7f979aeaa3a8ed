//! Which of the models that BASE can mean the adapters are for.

use std::collections::BTreeSet;
use std::path::Path;

use lora_kernels_adapters::BaseModel;
use lora_kernels_adapters::base::{Mapping, Resolver};

use super::Arguments;
use super::change::Remarks;
use super::changes::Selected;
use crate::failure::Failure;
use crate::show::few;

/// A base model, and where in it each adapter's names are.
pub struct Chosen<'a> {
    pub base: &'a BaseModel,
    /// In the adapters' order.
    pub resolvers: Vec<Resolver<'a>>,
}

/// Chooses the candidate in which everything lies that the adapters require. One that isn't full is
/// chosen if nothing lies in the others: what it lacks is told later, by name.
pub fn choose<'a>(
    candidates: &'a [BaseModel],
    adapters: &[Selected<'_>],
    arguments: &Arguments,
) -> Result<Chosen<'a>, Failure> {
    let refuse = |text: String| Err(Failure::Refused(text));
    let stated = match Mapping::new(arguments.map.iter().cloned()) {
        Ok(stated) => stated,
        Err(reason) => return refuse(format!("--map: {reason}")),
    };
    let wanted: Vec<_> = adapters.iter().map(Selected::wanted).collect();
    let components: BTreeSet<&str> = wanted
        .iter()
        .flatten()
        .filter_map(|wanted| wanted.component.as_deref())
        .collect();
    if let Some(unknown) = arguments
        .component
        .iter()
        .find(|name| !components.contains(name.as_str()))
    {
        let there = match components.is_empty() {
            true => "the adapters' names have no components".into(),
            false => format!("the adapters have {}", few(components)),
        };
        return refuse(format!("--component {unknown}: {there}"));
    }
    let all: Vec<Chosen<'a>> = candidates
        .iter()
        .map(|base| Chosen {
            base,
            resolvers: wanted
                .iter()
                .map(|wanted| Resolver::new(base, wanted, &stated, &arguments.component))
                .collect(),
        })
        .collect();
    let chosen = among(&arguments.base, all)?;
    let unused = stated.replacements().iter().enumerate().find(|(at, _)| {
        let mut resolvers = chosen.resolvers.iter();
        !resolvers.any(|resolver| resolver.used().contains(at))
    });
    if let Some((_, replacement)) = unused {
        let names = wanted.iter().flatten().map(|wanted| wanted.name.as_str());
        return refuse(format!(
            "--map {replacement}: no name of the adapters is replaced by it; they are {}",
            few(names.collect::<Vec<_>>())
        ));
    }
    for resolver in &chosen.resolvers {
        resolver.check()?;
    }
    Ok(chosen)
}

fn among<'a>(path: &Path, mut all: Vec<Chosen<'a>>) -> Result<Chosen<'a>, Failure> {
    if all.len() == 1
        && let Some(only) = all.pop()
    {
        return Ok(only);
    }
    let fits_whole = |chosen: &Chosen<'_>| {
        let mut fits = chosen.resolvers.iter().map(Resolver::fit);
        fits.all(|fit| fit.fitting == fit.required)
    };
    let is_full = |chosen: &Chosen<'_>| {
        let mut resolvers = chosen.resolvers.iter();
        resolvers.all(|resolver| resolver.fit().is_full())
    };
    let fits_in_part = |chosen: &Chosen<'_>| {
        let mut resolvers = chosen.resolvers.iter();
        resolvers.any(|resolver| resolver.fit().found > 0)
    };
    let mut full = preferred(&all, &fits_whole);
    if full.is_empty() {
        full = preferred(&all, &is_full);
    }
    let in_part = preferred(&all, &fits_in_part);
    let names = |of: &[usize]| {
        let of = of.iter().filter_map(|&at| all.get(at));
        let names: Vec<String> = of
            .map(|chosen| chosen.base.path().display().to_string())
            .collect();
        few(names.iter().map(String::as_str))
    };
    match (&full[..], &in_part[..]) {
        (&[one], _) | ([], &[one]) => Ok(all.swap_remove(one)),
        ([], []) => {
            let lacks = all.iter().take(4).map(|chosen| {
                let missing = chosen
                    .resolvers
                    .iter()
                    .flat_map(|resolver| resolver.fit().missing);
                let missing: Vec<String> = missing.take(2).collect();
                format!(
                    "{} lacks {}",
                    chosen.base.path().display(),
                    missing.join(" and ")
                )
            });
            Err(Failure::Refused(format!(
                "none of the models in {} is the adapters': {}",
                path.display(),
                lacks.collect::<Vec<_>>().join("; ")
            )))
        }
        ([], several) => Err(Failure::Refused(format!(
            "{} holds several models, and the adapters fit none of them whole: name the one that is \
             meant, of {}",
            path.display(),
            names(several)
        ))),
        (several, _) => Err(Failure::Refused(format!(
            "{} holds several models that the adapters fit: name one of them as BASE, of {}",
            path.display(),
            names(several)
        ))),
    }
}

/// The indices of those that pass, without those to which another format in the same folder is
/// preferred. Among formats in one folder, names as they are go before replaced ones.
fn preferred(all: &[Chosen<'_>], passes: &dyn Fn(&Chosen<'_>) -> bool) -> Vec<usize> {
    let passing: Vec<usize> = (0..all.len()).filter(|&at| passes(&all[at])).collect();
    let is_exact = |at: &usize| {
        let mut resolvers = all[*at].resolvers.iter();
        resolvers.all(|resolver| resolver.found().is_empty())
    };
    let folder = |at: &usize| all[*at].base.folder();
    let exact: BTreeSet<usize> = passing.iter().filter(|at| is_exact(at)).copied().collect();
    let folders: BTreeSet<Option<&Path>> = exact.iter().map(folder).collect();
    let first = |at: &&usize| exact.contains(*at) || !folders.contains(&folder(at));
    let passing: Vec<usize> = passing.iter().filter(first).copied().collect();
    let bases: Vec<&BaseModel> = passing.iter().map(|&at| all[at].base).collect();
    let best = BaseModel::preferred(&bases);
    let best: BTreeSet<*const BaseModel> = { best.into_iter() }.map(std::ptr::from_ref).collect();
    let is_best = |at: &usize| best.contains(&std::ptr::from_ref(all[*at].base));
    passing.into_iter().filter(is_best).collect()
}

/// Tells what was chosen.
pub fn remark(remarks: &mut Remarks, base: &BaseModel, resolvers: &[Resolver<'_>]) {
    remarks.followed.extend(base.notes().iter().cloned());
    let replacements = resolvers.iter().flat_map(Resolver::found);
    let replacements: BTreeSet<String> = replacements.map(ToString::to_string).collect();
    remarks.mapping.extend(replacements);
    let left_out = resolvers.iter().flat_map(Resolver::left_out);
    let left_out: BTreeSet<&str> = left_out.collect();
    remarks
        .other_components
        .extend(left_out.into_iter().map(str::to_owned));
}
