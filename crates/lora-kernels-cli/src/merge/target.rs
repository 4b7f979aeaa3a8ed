//! Checks where a result may be written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::regular::folder_of;
use lora_kernels_adapters::{Adapter, BaseModel, TensorFile, unnoted};

use super::Arguments;
use super::folder::{is_folder_of_a_model, is_of_a_model};
use crate::failure::Failure;
use crate::show::few;

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
    let is_file = place.exists() && !place.is_dir();
    if base.folder().is_none() && is_file && !is_replaceable(&place) {
        return refuse(
            "it is a file of another kind than safetensors, and --force replaces none of these: \
             name another, or move it away"
                .into(),
        );
    }
    Ok(Overwrite::Replace)
}

/// Whether a file is empty or holds tensors, by its content or at least by its name.
fn is_replaceable(file: &Path) -> bool {
    let Ok(metadata) = file.metadata() else {
        return false;
    };
    let has_name = { file.extension() }.is_some_and(|extension| extension == "safetensors");
    // It is no source of the merge.
    let holds_tensors = || unnoted(|| TensorFile::open(file)).is_ok();
    metadata.is_file() && (metadata.len() == 0 || has_name || holds_tensors())
}

/// What a folder may hold that is replaced.
pub struct Replaced {
    /// The paths of the files that this run writes.
    files: BTreeSet<PathBuf>,
    /// The folders that they lie in.
    folders: BTreeSet<PathBuf>,
}

impl Replaced {
    pub fn new(files: BTreeSet<PathBuf>) -> Self {
        let above = |file: &PathBuf| {
            let above = file.ancestors().skip(1).map(Path::to_owned);
            above.collect::<Vec<_>>()
        };
        let folders = files.iter().flat_map(above).collect();
        Self { files, folders }
    }

    /// Whether a file of this path in the folder is one that this run or any other merge writes.
    pub fn holds(&self, file: &Path) -> bool {
        self.files.contains(file) || is_of_a_model(file)
    }

    /// Refuses a folder that holds something else, or something but no weights.
    pub fn check(&self, output: &Path) -> Result<(), Failure> {
        if !output.is_dir() {
            return Ok(());
        }
        let mut found = Found::default();
        self.search(output, Path::new(""), &mut found)
            .map_err(|error| Failure::unread(output, error))?;
        found.foreign.sort();
        let what = match &found.foreign[..] {
            [] if found.files == 0 || found.has_weights => return Ok(()),
            [] => "no weights".into(),
            foreign => few(foreign.iter().map(String::as_str)),
        };
        Err(Failure::Refused(format!(
            "can't write {}: it is a folder without a model, or with more than merges write \
             ({what}), and --force replaces none of these: move them away, or name another OUT",
            output.display()
        )))
    }

    fn search(&self, root: &Path, below: &Path, found: &mut Found) -> std::io::Result<()> {
        for entry in root.join(below).read_dir()? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            let is_folder = entry.file_type()?.is_dir();
            if is_folder && (self.folders.contains(&path) || is_folder_of_a_model(&path)) {
                self.search(root, &path, found)?;
            } else if is_folder {
                found.foreign.push(format!("{}/", path.display()));
            } else if self.holds(&path) {
                found.files += 1;
                found.has_weights |= { path.extension() }.is_some_and(|end| end == "safetensors");
            } else {
                found.foreign.push(path.display().to_string());
            }
        }
        Ok(())
    }
}

/// What lies in a folder that is to be replaced.
#[derive(Default)]
struct Found {
    /// The number of files that a merge writes.
    files: usize,
    has_weights: bool,
    /// What no merge writes; of a folder without any such file, the folder alone.
    foreign: Vec<String>,
}

/// The path with the links of its folder followed. The last part need not exist.
fn resolved(path: &Path) -> Result<PathBuf, String> {
    // With a slash at its end, a link's name means what it leads to.
    let path: &Path = &path.components().collect::<PathBuf>();
    if path.is_symlink() {
        return Err("it is a link; name the place itself".into());
    }
    let name = path
        .file_name()
        .ok_or("it is not the name of a file or folder")?;
    let parent = folder_of(path)
        .canonicalize()
        .map_err(|error| format!("its folder can't be used: {error}"))?;
    Ok(parent.join(name))
}
