//! `model.safetensors.index.json`, and the files that it may name.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

use super::links::Home;
use crate::regular;
use crate::shown::shown;
use crate::{Error, Result};

/// The largest index that is read, in bytes. An index names every tensor of a model, which takes a
/// few megabytes at most.
pub const LARGEST_INDEX: u64 = 100 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Maps each tensor's name to the name of its shard. `folder` holds the index.
///
/// The index of a folder of links is a link, too. Whether it may be followed is known when the
/// shards are: [`home`] checks it, and no error tells what lies elsewhere.
pub(super) fn read(folder: &Path, path: &Path) -> Result<BTreeMap<String, String>> {
    let own = Home::of(folder)?;
    if !own.holds(path)? {
        let there = regular::read_text(path, LARGEST_INDEX).and_then(|text| parsed(&text, path));
        return match (there, own.open(path)) {
            (Err(_), Err(outside)) => Err(outside),
            (there, _) => there,
        };
    }
    parsed(&own.read_text(path, LARGEST_INDEX)?, path)
}

fn parsed(text: &str, path: &Path) -> Result<BTreeMap<String, String>> {
    let invalid = |reason: String| Error::Json {
        path: path.into(),
        reason,
    };
    let index: Index =
        serde_json::from_str(text).map_err(|error| invalid(shown(&error.to_string())))?;
    if index.weight_map.is_empty() {
        return Err(invalid("its weight_map names no tensor".into()));
    }
    Ok(index.weight_map)
}

/// The home of a model whose files in `folder` are `names`, once it is checked that they are files
/// there. `named_by` is the file that names them, or the only one of them.
pub(super) fn home(folder: &Path, names: &[&str], named_by: &Path) -> Result<Home> {
    let refuse = |name: &str, reason: &str| Error::Shard {
        path: named_by.into(),
        shard: shown(name),
        reason: reason.to_owned(),
    };
    if let Some(name) = names.iter().find(|name| !is_name(name)) {
        return Err(refuse(
            name,
            "must be the name of a .safetensors file in the same folder, without any path",
        ));
    }
    let absent = |name: &&&str| !folder.join(name).exists();
    if let Some(name) = names.iter().find(absent) {
        let is_link = folder.join(name).is_symlink();
        let what = if is_link {
            "is a link to a file that isn't there"
        } else {
            "isn't there"
        };
        let count = names.iter().filter(absent).count();
        return Err(refuse(
            name,
            &format!(
                "{what}: {count} of the model's {} files are missing, so the download isn't \
                 complete",
                names.len()
            ),
        ));
    }
    let mut home = Home::of(folder)?;
    match home.link(names)? {
        // An index that is no part of the home may not be read.
        None if named_by.is_file() => home.open(named_by).map(|_| home),
        None => Ok(home),
        Some((name, place)) => Err(refuse(
            name,
            &format!(
                "is a link that leads out of the folder, to {}, and not all of the model's files \
                 are links into one other folder, under the same names; put the file itself there, \
                 or name that folder",
                shown(&place.to_string_lossy())
            ),
        )),
    }
}

fn is_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = (components.next(), components.next());
    matches!(one, (Some(Component::Normal(file)), None) if file == name)
        && !name.contains(['/', '\\', ':', '\0'])
        && name.ends_with(".safetensors")
}
