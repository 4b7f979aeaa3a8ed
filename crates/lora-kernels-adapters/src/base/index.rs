//! `model.safetensors.index.json`, and the files that it may name.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::mapped::read_text;
use crate::shown::shown;
use crate::{Error, Result};

/// In bytes. An index names every tensor of a model, which takes a few megabytes at most.
const LARGEST: u64 = 100 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Maps each tensor's name to the name of its shard.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let invalid = |reason: String| Error::Json {
        path: path.into(),
        reason,
    };
    let text = read_text(path, LARGEST)?;
    let index: Index =
        serde_json::from_str(&text).map_err(|error| invalid(shown(&error.to_string())))?;
    if index.weight_map.is_empty() {
        return Err(invalid("its weight_map names no tensor".into()));
    }
    Ok(index.weight_map)
}

/// The path of the file `name` in `folder`. `named_by` is the file that names it, for errors.
pub(super) fn inside(folder: &Path, name: &str, named_by: &Path) -> Result<PathBuf> {
    let refuse = |reason: &str| {
        Err(Error::Shard {
            path: named_by.into(),
            shard: shown(name),
            reason: reason.to_owned(),
        })
    };
    let mut components = Path::new(name).components();
    let is_name = matches!((components.next(), components.next()), (Some(Component::Normal(file)), None) if file == name);
    if !is_name || name.contains(['/', '\\', ':', '\0']) || !name.ends_with(".safetensors") {
        return refuse(
            "must be the name of a .safetensors file in the same folder, without any path",
        );
    }
    let path = folder.join(name);
    if stays_inside(folder, &path)? {
        Ok(path)
    } else {
        refuse("is a link that leads out of the folder; put the file itself there")
    }
}

/// Whether `path`, with links followed, stays inside the model's folder. If the folder is a
/// snapshot in a Hugging Face cache, the cache's `blobs` count as inside, because every file of a
/// snapshot links to one of them.
///
/// # Errors
/// [`Error::Io`] if either path can't be resolved.
pub fn stays_inside(folder: &Path, path: &Path) -> Result<bool> {
    let resolved = |path: &Path| {
        path.canonicalize().map_err(|source| Error::Io {
            doing: "read",
            path: path.into(),
            source,
        })
    };
    let (home, file) = (resolved(folder)?, resolved(path)?);
    // <model>/snapshots/<revision>/<name> links to <model>/blobs/<hash>.
    let snapshots = home.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots
        .and_then(Path::parent)
        .map(|model| model.join("blobs"));
    Ok(file.starts_with(&home) || blobs.is_some_and(|blobs| file.parent() == Some(&blobs)))
}
