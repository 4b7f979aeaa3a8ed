//! Base models on disk: a safetensors file, or a Hugging Face folder with a single file or with
//! shards and their index.

mod index;
mod resolve;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::mapped::{MappedFile, Tensor};
use crate::shown::shown;
use crate::{Error, Result};

pub use index::stays_inside;
pub use resolve::{Resolved, Resolver};

/// The index of a sharded model.
pub const INDEX: &str = "model.safetensors.index.json";
/// Files that hold a whole model (Hugging Face's and Mistral's), in search order.
const WHOLE: [&str; 2] = ["model.safetensors", "consolidated.safetensors"];

/// A memory-mapped base model: a tensor's bytes are read from disk when they are first used.
#[derive(Debug)]
pub struct BaseModel {
    folder: Option<PathBuf>,
    index: Option<PathBuf>,
    shards: Vec<Shard>,
    /// The shard that holds each tensor.
    homes: BTreeMap<String, usize>,
}

/// One file of a model.
#[derive(Debug)]
pub struct Shard {
    /// Its name in the folder.
    pub name: String,
    /// Its mapped contents.
    pub file: MappedFile,
}

impl BaseModel {
    /// Opens a model: a safetensors file, or a folder that holds `model.safetensors`,
    /// `model.safetensors.index.json` with its shards, or Mistral's `consolidated.safetensors`.
    ///
    /// A shard's name must be the plain name of a file in the folder. A path is refused, and so is
    /// a link that leaves the folder, unless the folder is a snapshot in a Hugging Face cache and
    /// the link leads to the cache's `blobs`.
    ///
    /// # Errors
    /// [`Error::NoBase`], [`Error::Shard`], [`Error::Json`], [`Error::Safetensors`],
    /// [`Error::NotAFile`], [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::Io {
            doing: "read",
            path: path.into(),
            source,
        })?;
        if !metadata.is_dir() {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let file = MappedFile::open(path)?;
            return Self::with_shards(None, None, vec![Shard { name, file }]);
        }
        let whole = WHOLE
            .iter()
            .find(|name| path.join(name).symlink_metadata().is_ok());
        let index = path.join(INDEX);
        if let Some(name) = whole {
            let file = MappedFile::open(&index::inside(path, name, &path.join(name))?)?;
            let name = (*name).to_owned();
            return Self::with_shards(Some(path.into()), None, vec![Shard { name, file }]);
        }
        if !index.is_file() {
            return Err(Error::NoBase {
                path: path.into(),
                reason: format!(
                    "the folder has no {} and no {INDEX}; .bin and .pt files are pickles, which can run code and are not read: save the model again, as \
                     safetensors",
                    WHOLE.join(", no ")
                ),
            });
        }
        let map = index::read(&index)?;
        let mut names: Vec<&String> = map.values().collect();
        names.sort();
        names.dedup();
        let mut shards = Vec::with_capacity(names.len());
        for name in names {
            let file = MappedFile::open(&index::inside(path, name, &index)?)?;
            shards.push(Shard {
                name: name.clone(),
                file,
            });
        }
        for (tensor, name) in &map {
            let holds = |shard: &Shard| shard.name == *name && shard.file.tensor(tensor).is_some();
            // `shards` stays sorted by name.
            let at = shards.partition_point(|shard| shard.name < *name);
            if !shards.get(at).is_some_and(holds) {
                return Err(Error::Shard {
                    path: index,
                    shard: shown(name),
                    reason: format!(
                        "doesn't hold tensor {}, which the index says it does",
                        shown(tensor)
                    ),
                });
            }
        }
        Self::with_shards(Some(path.into()), Some(index), shards)
    }

    fn with_shards(
        folder: Option<PathBuf>,
        index: Option<PathBuf>,
        shards: Vec<Shard>,
    ) -> Result<Self> {
        let mut homes = BTreeMap::new();
        for (at, shard) in shards.iter().enumerate() {
            for tensor in shard.file.tensors() {
                if let Some(other) = homes.insert(tensor.name.to_owned(), at) {
                    return Err(Error::Shard {
                        path: shard.file.path().into(),
                        shard: shown(&shard.name),
                        reason: format!(
                            "holds tensor {}, and so does {}",
                            shown(tensor.name),
                            shown(&shards[other].name)
                        ),
                    });
                }
            }
        }
        Ok(Self {
            folder,
            index,
            shards,
            homes,
        })
    }

    /// The folder, or `None` if the model is a single file.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The index of the shards, if there is one.
    pub fn index(&self) -> Option<&Path> {
        self.index.as_deref()
    }

    /// Its files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The index of the shard that holds the tensor `name`, and the tensor.
    pub fn tensor(&self, name: &str) -> Option<(usize, Tensor<'_>)> {
        let &home = self.homes.get(name)?;
        Some((home, self.shards[home].file.tensor(name)?))
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.homes.keys().map(String::as_str)
    }

    /// A resolver that finds tensors by an adapter's paths.
    pub fn resolver(&self) -> Resolver<'_> {
        Resolver::new(self)
    }
}
