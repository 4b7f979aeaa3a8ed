//! Checks where a result may be written.

use std::path::{Path, PathBuf};

use lora_kernels_adapters::BaseModel;
use lora_kernels_adapters::base::INDEX;
use lora_kernels_adapters::output::Overwrite;

use super::Arguments;
use crate::failure::Failure;

/// Refuses an output that would overwrite its own inputs, or anything that isn't a model.
pub fn check(base: &BaseModel, arguments: &Arguments) -> Result<Overwrite, Failure> {
    let output = &arguments.output;
    let refuse = |reason: String| {
        Err(Failure::Refused(format!(
            "can't write {}: {reason}",
            output.display()
        )))
    };
    let place = resolved(output).map_err(|reason| {
        Failure::Refused(format!("can't write {}: {reason}", output.display()))
    })?;
    let source = arguments
        .base
        .canonicalize()
        .unwrap_or_else(|_| arguments.base.clone());
    if place == source {
        return refuse("it is BASE itself, which would be lost".into());
    }
    if base.folder().is_some() && place.starts_with(&source) {
        return refuse("it lies inside of BASE".into());
    }
    for input in std::iter::once(&arguments.base).chain(&arguments.adapters) {
        let input_place = input.canonicalize().unwrap_or_else(|_| input.clone());
        if input_place.starts_with(&place) {
            return refuse(format!(
                "{} lies there, which would be lost",
                input.display()
            ));
        }
    }
    if !arguments.force {
        return match place.symlink_metadata() {
            Ok(_) => refuse("it exists; --force replaces it".into()),
            Err(_) => Ok(Overwrite::Never),
        };
    }
    if place.is_dir() && base.folder().is_some() && !looks_like_a_model(&place) {
        return refuse(
            "it is a folder without a model, and --force replaces none but those".into(),
        );
    }
    Ok(Overwrite::Replace)
}

/// The path with the links of its folder followed. The last part need not exist.
fn resolved(path: &Path) -> Result<PathBuf, String> {
    if path.is_symlink() {
        return Err("it is a link; name the place itself".into());
    }
    let name = path
        .file_name()
        .ok_or("it is not the name of a file or folder")?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let parent = parent
        .canonicalize()
        .map_err(|error| format!("its folder can't be used: {error}"))?;
    Ok(parent.join(name))
}

/// Whether the folder is empty, or holds weights under a model's names and either a model's config
/// or nothing else.
fn looks_like_a_model(folder: &Path) -> bool {
    let Ok(entries) = folder.read_dir() else {
        return false;
    };
    let names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let has = |among: &[&str]| names.iter().any(|name| among.contains(&name.as_str()));
    let is_weights = |name: &String| name.ends_with(".safetensors") || name == INDEX;
    names.is_empty()
        || (has(&["model.safetensors", "consolidated.safetensors", INDEX])
            && (has(&["config.json", "params.json"]) || names.iter().all(is_weights)))
}
