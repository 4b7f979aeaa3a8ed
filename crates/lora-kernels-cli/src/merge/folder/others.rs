//! The base's files that go with the result as they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lora_kernels_adapters::base::{Home, LARGEST_CONFIG};

use super::config::CONFIGS;
use super::source::{Kind, LARGEST, Source, Unreadable, look};
use super::travels;
use crate::failure::Failure;
use crate::merge::access::{Access, Sources};

/// Extensions of weights in other formats. They aren't copied, because they hold the unmerged
/// weights.
const WEIGHTS: [&str; 15] = [
    "bin",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "ggml",
    "h5",
    "msgpack",
    "onnx",
    "onnx_data",
    "ot",
    "npz",
    "keras",
    "tflite",
    "nemo",
];

/// A file to copy.
pub struct Copied {
    /// Its path in the model's folder.
    pub name: PathBuf,
    pub source: Source,
    pub access: Access,
}

/// What lies in the base's folder beside its weights, its index, and what is written otherwise.
#[derive(Default)]
pub struct Others {
    /// Each after the one that it lies in.
    pub folders: Vec<(PathBuf, Access)>,
    pub files: Vec<Copied>,
    /// What isn't copied, with the reason where the name doesn't tell.
    pub left_out: Vec<String>,
    pub unreadable: Vec<Unreadable>,
}

/// What is written otherwise or not at all.
pub struct Exceptions<'a> {
    pub replaced: BTreeSet<&'a str>,
    /// Contradicted by the adapter's tokenizer.
    pub dropped: &'a BTreeSet<String>,
}

impl Others {
    /// Looks through the base's folder, and opens every file that is to be copied.
    ///
    /// # Errors
    /// The folder itself can't be read.
    pub fn find(
        home: &Arc<Home>,
        sources: &Sources,
        exceptions: &Exceptions<'_>,
    ) -> Result<Self, Failure> {
        let mut others = Self::default();
        let folder = home.folder();
        others
            .search(home, Path::new(""), sources.folder, sources, exceptions)
            .map_err(|error| Failure::unread(folder, error))?;
        others.left_out.sort();
        Ok(others)
    }

    fn search(
        &mut self,
        home: &Arc<Home>,
        below: &Path,
        access: Access,
        sources: &Sources,
        exceptions: &Exceptions<'_>,
    ) -> std::io::Result<()> {
        let in_root = below.as_os_str().is_empty();
        let mut entries = home
            .folder()
            .join(below)
            .read_dir()?
            .collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, below) = (entry.path(), below.join(entry.file_name()));
            let name = below.display().to_string();
            if exceptions.replaced.contains(&*name) {
                continue;
            }
            if is_of_tools(&entry.file_name().to_string_lossy(), in_root) {
                self.left_out.push(name);
            } else if exceptions.dropped.contains(&name) {
                self.left_out
                    .push(format!("{name} (the adapter's tokenizer contradicts it)"));
            } else if entry.file_type()?.is_dir() {
                let access = match path.metadata() {
                    Ok(metadata) => access.and(sources.allowed_by(&metadata)),
                    Err(error) => {
                        self.unreadable(&path, &error);
                        continue;
                    }
                };
                let before = (self.folders.len(), self.files.len());
                self.folders.push((below.clone(), access));
                if let Err(error) = self.search(home, &below, access, sources, exceptions) {
                    self.folders.truncate(before.0);
                    self.files.truncate(before.1);
                    self.unreadable(&path, &error);
                }
            } else if is_weights(&path, in_root) {
                self.left_out.push(name);
            } else {
                self.file(home, path, below, access, sources);
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        home: &Arc<Home>,
        path: PathBuf,
        below: PathBuf,
        access: Access,
        sources: &Sources,
    ) {
        let name = below.display().to_string();
        match look(home, &path) {
            Kind::File(source) => match path.metadata() {
                Ok(metadata) if metadata.len() > largest(&below) => {
                    self.unreadable.push(Unreadable {
                        path,
                        reason: format!(
                            "{} bytes, where such a file has at most {}",
                            metadata.len(),
                            largest(&below)
                        ),
                    });
                }
                Ok(metadata) => self.files.push(Copied {
                    name: below,
                    source,
                    access: access.and(sources.allowed_by(&metadata)),
                }),
                Err(error) => self.unreadable(&path, &error),
            },
            Kind::Outside => self
                .left_out
                .push(format!("{name} (a link out of the folder)")),
            // A reader of the result would miss it.
            Kind::Other(what) if CONFIGS.contains(&&*name) || travels::is_known(&below) => {
                self.unreadable.push(Unreadable {
                    path,
                    reason: format!("{what}, not a file"),
                });
            }
            Kind::Other(what) => self.left_out.push(format!("{name} ({what})")),
            Kind::Unreadable(unreadable) => self.unreadable.push(unreadable),
        }
    }

    fn unreadable(&mut self, path: &Path, error: &std::io::Error) {
        self.unreadable.push(Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        });
    }
}

/// The most bytes that a reader of a file of this path in a model's folder can expect.
fn largest(path: &Path) -> u64 {
    match path.to_str() {
        Some(name) if CONFIGS.contains(&name) => LARGEST_CONFIG,
        _ if travels::is_known(path) => LARGEST,
        _ => u64::MAX,
    }
}

/// Whether a name belongs to a tool, not to a model: `.git` and `.cache`, an adapter's config,
/// which would make readers look for its tensors, and a trainer's checkpoints.
fn is_of_tools(name: &str, in_root: bool) -> bool {
    name.starts_with('.')
        || (in_root && (name == "adapter_config.json" || name.starts_with("checkpoint-")))
}

/// Whether a file holds weights, by its extension before any `.index.json` or `.index.fp16.json`. A
/// safetensors file in a subfolder belongs to another module, as in sentence-transformers.
fn is_weights(path: &Path, in_root: bool) -> bool {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let indexed = name
        .split_once(".index.")
        .filter(|(_, rest)| rest.ends_with("json"));
    let name = PathBuf::from(indexed.map_or(&*name, |(stem, _)| stem));
    let extension = name
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    WEIGHTS.contains(&extension.as_str()) || (in_root && extension == "safetensors")
}
