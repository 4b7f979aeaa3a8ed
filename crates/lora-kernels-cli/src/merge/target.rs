//! Checks where a result may be written.

use std::path::{Path, PathBuf};

use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::{Adapter, BaseModel};

use super::Arguments;
use crate::failure::Failure;

/// Refuses an output that would overwrite its own inputs, or anything that isn't a model.
pub fn check(
    base: &BaseModel,
    adapters: &[Adapter],
    arguments: &Arguments,
) -> Result<Overwrite, Failure> {
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
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // The base may have been found below the folder that was named, or beside the index.
    let named = Some(arguments.base.as_path());
    let sources: Vec<PathBuf> = { named.into_iter() }
        .chain(base.folder())
        .map(canonical)
        .collect();
    if sources.contains(&place) {
        return refuse("it is BASE itself, which would be lost".into());
    }
    if base.folder().is_some() && sources.iter().any(|source| place.starts_with(source)) {
        return refuse("it lies inside of BASE".into());
    }
    // Links are followed: the files themselves may lie elsewhere.
    let files = { base.shards().iter() }
        .map(|shard| shard.file.path())
        .chain(adapters.iter().map(|adapter| adapter.file().path()))
        .chain(adapters.iter().filter_map(Adapter::folder));
    let arguments_of = { arguments.adapters.iter().map(PathBuf::as_path) }.chain(named);
    for input in arguments_of.chain(base.folder()).chain(files) {
        if canonical(input).starts_with(&place) {
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
            "it is a folder without a model, or with more than one has (.git, checkpoints, an \
             adapter), and --force replaces none of these"
                .into(),
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

/// Whether the folder is empty, or holds a model's weights and either its config or nothing else. A
/// folder with anything that no merge writes, such as a trainer's checkpoints, doesn't.
fn looks_like_a_model(folder: &Path) -> bool {
    let Ok(entries) = folder.read_dir() else {
        return false;
    };
    let names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let is_weights =
        |name: &String| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    let is_foreign = |name: &String| {
        const FOREIGN: [&str; 4] = [
            ".git",
            "adapter_config.json",
            "adapter_model.safetensors",
            "trainer_state.json",
        ];
        FOREIGN.contains(&name.as_str()) || name.starts_with("checkpoint-")
    };
    let is_config = |name: &String| name == "config.json" || name == "params.json";
    names.is_empty()
        || (names.iter().any(is_weights)
            && (names.iter().any(is_config) || names.iter().all(is_weights))
            && !names.iter().any(is_foreign))
}
