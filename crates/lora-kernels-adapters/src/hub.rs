//! Cache folders of the Hugging Face Hub, `models--<org>--<name>` with `blobs`, `refs` and
//! `snapshots`. What lies in a cache is a snapshot, the folder that a user means by it.

use std::path::{Path, PathBuf};

use crate::base::Home;
use crate::shown::shown;

/// The number of snapshots that an error lists.
const LISTED: usize = 6;
/// In bytes. A ref is a commit's hash.
const LONGEST_REF: u64 = 1024;

/// The folder that a path stands for.
#[derive(Debug)]
pub(crate) struct Followed {
    pub path: PathBuf,
    /// What was followed, if the folder isn't the path itself, as a sentence without subject:
    /// `leads to snapshots/0123abcd, which refs/main names`.
    pub how: Option<String>,
}

/// Follows the folder of a model in a Hub cache, or its `snapshots`, to the snapshot that
/// `refs/main` names, else to the only one. Any other path stays as it is.
///
/// An error is a sentence that says what lies there instead, and what to do.
pub(crate) fn followed(path: &Path) -> Result<Followed, String> {
    let itself = || Followed {
        path: path.into(),
        how: None,
    };
    if !path.is_dir() {
        return Ok(itself());
    }
    let is_root = |path: &Path| {
        let has = |name: &str| path.join(name).is_dir();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        has("snapshots") && (has("blobs") || has("refs") || name.starts_with(b"models--"))
    };
    let root = match path.parent() {
        _ if is_root(path) => path.to_owned(),
        // `..` would be wrong for a link to a folder of that name.
        Some(parent) if path.ends_with("snapshots") && is_root(parent) => parent.to_owned(),
        _ => return Ok(itself()),
    };
    let snapshots = folders(&root, &root.join("snapshots"));
    let to = |name: &str, why: &str| Followed {
        path: root.join("snapshots").join(name),
        how: Some(format!("leads to snapshots/{}, {why}", shown(name))),
    };
    let main = main_of(&root);
    if let Some(main) = main.as_ref().filter(|main| snapshots.contains(main)) {
        return Ok(to(main, "which refs/main names"));
    }
    match &snapshots[..] {
        [only] => Ok(to(only, "the only snapshot there")),
        [] => Err(
            "it is a folder of the Hugging Face cache without a snapshot: download the model again"
                .into(),
        ),
        several => {
            let names = several.iter().take(LISTED).map(|name| shown(name));
            let names: Vec<String> = names.collect();
            let more = if several.len() > LISTED { ", ..." } else { "" };
            Err(format!(
                "it is a folder of the Hugging Face cache with {} snapshots, and refs/main names \
                 none of them: name one of snapshots/: {}{more}",
                several.len(),
                names.join(", ")
            ))
        }
    }
}

/// Says what to do about a path that doesn't exist and looks like the name of a model on the Hub.
pub(crate) fn looks_like_a_name(path: &Path) -> Option<String> {
    let name = path.to_str()?;
    let mut parts = name.split('/');
    let is_part = |part: Option<&str>| {
        part.is_some_and(|part| !part.is_empty() && !part.starts_with(['.', '~']))
    };
    let is_name = is_part(parts.next()) && is_part(parts.next()) && parts.next().is_none();
    let absent = is_name && path.symlink_metadata().is_err() && !path.parent()?.exists();
    absent.then(|| {
        let name = shown(name);
        format!(
            "no such file or folder is there; a model of the Hugging Face Hub has to be downloaded \
             first (hf download {name}), and the folder that this prints has to be given"
        )
    })
}

/// The commit that `refs/main` names.
fn main_of(root: &Path) -> Option<String> {
    let home = Home::of(root).ok()?;
    let text = home.read_text(&root.join("refs/main"), LONGEST_REF).ok()?;
    Some(text.trim().to_owned())
}

/// The names of the folders in a folder below `root`, sorted. Links out of `root` are none.
fn folders(root: &Path, path: &Path) -> Vec<String> {
    let Ok(home) = Home::of(root) else {
        return Vec::new();
    };
    let entries = path.read_dir().into_iter().flatten().flatten();
    let folders =
        entries.filter(|entry| entry.path().is_dir() && home.holds(&entry.path()).unwrap_or(false));
    let mut names: Vec<String> = folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
