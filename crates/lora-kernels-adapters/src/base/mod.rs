//! Base models on disk: a safetensors file, or a folder with a single file or with shards and their
//! index, as Hugging Face, diffusers and Mistral write them.

mod closest;
mod config;
mod elsewhere;
mod find;
mod flattened;
mod index;
mod links;
mod mapping;
mod names;
mod nodes;
mod quantised;
mod resolve;
mod search;
mod solve;
#[cfg(test)]
mod tests;
mod towers;
mod wanted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::shown::shown;
use crate::tensor::Tensor;
use crate::tensor_file::TensorFile;
use crate::{Error, Result, regular};
use quantised::Packed;

pub use config::LARGEST_CONFIG;
pub use index::LARGEST_INDEX;
pub use links::Home;
pub use mapping::{Mapping, Replacement};
pub use names::is_models_file;
pub use quantised::Quantisation;
pub use resolve::{Fit, Resolved, Resolver};
pub use wanted::{Fits, Wanted};

/// The index of a sharded model in Hugging Face's folders.
pub const INDEX: &str = "model.safetensors.index.json";

/// A base model. Its tensors are read when they are asked for.
#[derive(Debug)]
pub struct BaseModel {
    /// The file, index or folder that means this model and no other.
    path: PathBuf,
    folder: Option<PathBuf>,
    /// Where its files may lie; `None` for a single file.
    home: Option<Home>,
    index: Option<PathBuf>,
    /// The folder of the model of which this file is one shard, by its name.
    part_of: Option<PathBuf>,
    shards: Vec<Shard>,
    /// The shard that holds each tensor.
    homes: BTreeMap<String, usize>,
    /// Further shards with a tensor of the same name.
    copies: BTreeMap<String, Vec<usize>>,
    config: Option<Value>,
    /// The config that the system didn't let read, and why.
    unread_config: Option<(PathBuf, String)>,
    /// Among the models in one folder; the lowest is preferred.
    rank: usize,
    notes: Vec<String>,
    packed: OnceLock<Packed>,
}

/// One file of a model.
#[derive(Debug)]
pub struct Shard {
    /// Its name in the folder.
    pub name: String,
    /// The open file.
    pub file: TensorFile,
}

impl BaseModel {
    /// Opens the model that a path means, the preferred one if several formats of it lie there; see
    /// [`BaseModel::candidates`].
    ///
    /// # Errors
    /// Those of [`BaseModel::candidates`], and [`Error::NoBase`] if several models lie there and
    /// none is preferred.
    pub fn open(path: &Path) -> Result<Self> {
        let mut found = Self::candidates(path)?;
        let preferred = Self::preferred(&found.iter().collect::<Vec<_>>()).len();
        if preferred == 1 {
            return Ok(found.swap_remove(0));
        }
        let names: Vec<String> = found
            .iter()
            .take(8)
            .map(|model| model.path.display().to_string())
            .collect();
        Err(Error::NoBase {
            path: path.into(),
            reason: format!(
                "it has no model.safetensors and no {INDEX}, and holds {} models: name one of {} \
                 (.bin and .pt files, pickles, are not read)",
                found.len(),
                names.join(", ")
            ),
        })
    }

    /// Opens every model that a path can mean, the preferred ones first. There is at least one.
    ///
    /// A path means what it leads to:
    /// - a safetensors file: that file;
    /// - an index of shards, such as `model.safetensors.index.json`: the model that it describes;
    /// - a folder: `model`, `diffusion_pytorch_model` and `consolidated` in it, each as
    ///   `.safetensors` or, next in order, as `.safetensors.index.json` with its shards; then other
    ///   indexes, variants (`model.fp16.safetensors`), and, where there is none of these,
    ///   safetensors files of other names;
    /// - a folder without such files, or of a pipeline (`model_index.json`): the models in its
    ///   subfolders, too, one level down;
    /// - a model's folder in the Hugging Face cache (`models--org--name`): the snapshot that
    ///   `refs/main` names, else the only one.
    ///
    /// A shard's name must be the plain name of a file in the folder. A link that leaves the folder
    /// is followed if it leads to the cache's `blobs`, to a place whose name holds a hash of the
    /// content (as in a Hugging Face cache, DVC's, git-annex's, Nix's), or if all of the model's
    /// files are links into one other folder, under the same names.
    ///
    /// # Errors
    /// [`Error::NoBase`], [`Error::Shard`], [`Error::Json`], [`Error::Safetensors`],
    /// [`Error::NotAFile`], [`Error::Io`]. What can't be used beside a preferred model is only
    /// named in [`BaseModel::notes`].
    pub fn candidates(path: &Path) -> Result<Vec<Self>> {
        find::candidates(path)
    }

    /// Those of `models`, which [`BaseModel::candidates`] gave, that no other of them is preferred
    /// to: one format is preferred to another in the same folder, but no folder to another.
    pub fn preferred<'a>(models: &[&'a BaseModel]) -> Vec<&'a BaseModel> {
        let mut lowest: BTreeMap<Option<&Path>, usize> = BTreeMap::new();
        for model in models {
            let rank = lowest.entry(model.home_folder()).or_insert(model.rank);
            *rank = model.rank.min(*rank);
        }
        let best = |model: &&&BaseModel| lowest.get(&model.home_folder()) == Some(&model.rank);
        models.iter().filter(best).copied().collect()
    }

    fn home_folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    fn single(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let file = TensorFile::open(path)?;
        Self::with_shards(path.into(), None, vec![Shard { name, file }])
    }

    fn whole(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        Self::without(folder, &[name], path)
    }

    fn without_index(folder: &Path, names: &[String]) -> Result<Self> {
        if let Some(reason) = names::incomplete(names) {
            return Err(Error::NoBase {
                path: folder.into(),
                reason,
            });
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Self::without(folder, &names, folder.into())
    }

    /// A model of these files, for which no index is there. `path` means it.
    fn without(folder: &Path, names: &[&str], path: PathBuf) -> Result<Self> {
        let home = index::home(folder, names, &path)?;
        let shards = open_all(folder, names)?;
        let mut model = Self::with_shards(path, None, shards)?;
        model.folder = Some(folder.into());
        model.note_links(&home);
        model.home = Some(home);
        Ok(model)
    }

    fn with_index(folder: &Path, name: &str) -> Result<Self> {
        let index = folder.join(name);
        let map = index::read(folder, &index)?;
        let mut names: Vec<&str> = map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let home = index::home(folder, &names, &index)?;
        let shards = open_all(folder, &names)?;
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
        let mut model = Self::with_shards(index.clone(), Some(&map), shards)?;
        model.folder = Some(folder.into());
        model.index = Some(index);
        model.note_links(&home);
        model.home = Some(home);
        Ok(model)
    }

    /// `index` maps the names of tensors to their shards'.
    fn with_shards(
        path: PathBuf,
        index: Option<&BTreeMap<String, String>>,
        shards: Vec<Shard>,
    ) -> Result<Self> {
        let mut homes: BTreeMap<String, usize> = BTreeMap::new();
        let mut copies: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, shard) in shards.iter().enumerate() {
            for tensor in shard.file.tensors() {
                let named = index.and_then(|index| index.get(tensor.name));
                let Some(&other) = homes.get(tensor.name) else {
                    homes.insert(tensor.name.to_owned(), at);
                    continue;
                };
                let copy = match named {
                    Some(named) if *named == shard.name => {
                        homes.insert(tensor.name.to_owned(), at);
                        other
                    }
                    Some(_) => at,
                    None => {
                        return Err(Error::Shard {
                            path: shard.file.path().into(),
                            shard: shown(&shard.name),
                            reason: format!(
                                "holds tensor {}, and so does {}, and no index says which of the \
                                 two counts",
                                shown(tensor.name),
                                shown(&shards[other].name)
                            ),
                        });
                    }
                };
                copies.entry(tensor.name.to_owned()).or_default().push(copy);
            }
        }
        Ok(Self {
            path,
            folder: None,
            home: None,
            index: None,
            part_of: None,
            shards,
            homes,
            copies,
            config: None,
            unread_config: None,
            rank: 0,
            notes: Vec::new(),
            packed: OnceLock::new(),
        })
    }

    /// Reads the config in `folder`, if there is one.
    fn described(mut self, folder: &Path) -> Self {
        let is_mistrals = self
            .shards
            .iter()
            .all(|shard| shard.name.starts_with("consolidated"));
        let names = match is_mistrals {
            true => ["params.json", "config.json"],
            false => ["config.json", "params.json"],
        };
        let beside = self.home.clone().map_or_else(|| self.beside(folder), Ok);
        for path in names.map(|name| folder.join(name)) {
            match regular::is_there(&path) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) => {
                    self.unread(&error);
                    continue;
                }
            }
            let Ok(home) = &beside else { continue };
            match config::read(home, &path) {
                Ok(config) => {
                    self.config = Some(config);
                    break;
                }
                Err(Error::Outside { path, .. }) => self.notes.push(format!(
                    "{} is a link out of the folder and was not read",
                    path.display()
                )),
                Err(error) => self.unread(&error),
            }
        }
        self
    }

    /// Notes a config that isn't used.
    fn unread(&mut self, error: &Error) {
        if let Error::Io { path, source, .. } = error {
            self.unread_config = Some((path.clone(), source.to_string()));
        }
        self.notes.push(format!("beside it, and not used: {error}"));
    }

    /// The home of what lies beside a single file, which was named and may be a link itself.
    fn beside(&self, folder: &Path) -> Result<Home> {
        let names = self.shards.iter().map(|shard| shard.name.as_str());
        match Home::with_weights(folder, &names.collect::<Vec<_>>()) {
            Err(Error::Outside { .. }) => Home::of(folder),
            home => home,
        }
    }

    fn note_links(&mut self, home: &Home) {
        if let Some(linked) = home.linked() {
            let (path, linked) = (self.path.display(), linked.display());
            self.notes
                .push(format!("the weights of {path} are links into {linked}"));
        }
    }

    /// The file, index or folder that means this model.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder, or `None` if the model is a single file.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The folder of the whole model, if this is the file of one of its shards by its name,
    /// `model-00001-of-00002.safetensors`. What isn't in it may be in another.
    pub fn part_of(&self) -> Option<&Path> {
        self.part_of.as_deref()
    }

    /// What was followed to reach the model, and what lies beside it and can't be used, as
    /// sentences for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where its files may lie, or `None` if the model is a single file.
    pub fn home(&self) -> Option<&Home> {
        self.home.as_ref()
    }

    /// Whether the file `path` in the folder, or below it, may be read as a part of the model:
    /// links are followed as [`BaseModel::candidates`] says. Every file beside a single file may.
    ///
    /// # Errors
    /// [`Error::Io`] if the path can't be resolved.
    pub fn holds(&self, path: &Path) -> Result<bool> {
        self.home.as_ref().map_or(Ok(true), |home| home.holds(path))
    }

    /// The model's `config.json`, or Mistral's `params.json`, if one lies there and is JSON.
    pub fn config(&self) -> Option<&Value> {
        self.config.as_ref()
    }

    /// The config that is there, but that the system didn't let read, and why.
    pub fn unread_config(&self) -> Option<(&Path, &str)> {
        let (path, reason) = self.unread_config.as_ref()?;
        Some((path, reason))
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

    /// The further shards that hold a tensor of this name. The index names the one that counts.
    pub fn copies(&self, name: &str) -> &[usize] {
        self.copies.get(name).map_or(&[], Vec::as_slice)
    }

    /// The names of the tensors of the module at `path` and of the modules in it, sorted.
    pub fn below(&self, path: &str) -> impl Iterator<Item = &str> {
        let front = format!("{path}.");
        let names = self.homes.range(front.clone()..);
        names.map_while(move |(name, _)| name.starts_with(&front).then_some(name.as_str()))
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator {
        self.homes.keys().map(String::as_str)
    }
}

fn open_all(folder: &Path, names: &[&str]) -> Result<Vec<Shard>> {
    let open = |name: &&str| {
        Ok(Shard {
            name: (*name).to_owned(),
            file: TensorFile::open(&folder.join(name))?,
        })
    };
    names.iter().map(open).collect()
}
