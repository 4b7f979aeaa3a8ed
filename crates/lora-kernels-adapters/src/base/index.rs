//! `model.safetensors.index.json`, and the files it may lead to.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::mapped::read_text;
use crate::shown::shown;
use crate::{Error, Result};

/// An index names every tensor of a model: some megabytes at most.
const LARGEST: u64 = 100 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Tensors and the names of their shards.
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

/// The file of this name in the folder. `named_by` is the file that names it.
pub(super) fn inside(folder: &Path, name: &str, named_by: &Path) -> Result<PathBuf> {
    let refuse = |reason: &str| {
        Err(Error::Shard {
            path: named_by.into(),
            shard: shown(name),
            reason: reason.to_owned(),
        })
    };
    let mut components = Path::new(name).components();
    let is_name = matches!((components.next(), components.next()), (Some(Component::Normal(one)), None) if one == name);
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

/// Whether a path below a model's folder leads to something below it, or to the `blobs` of the
/// Hugging Face cache that the folder is a snapshot in: there, every file of a model is a link to
/// one of them.
///
/// # Errors
/// [`Error::Io`] if one of the two can't be followed.
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
