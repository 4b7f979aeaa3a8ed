//! Finds the models that a path can mean.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::names::{self, OTHER, STEMS, indexed, is_adapter, is_index, is_other, is_slice, rank};
use super::{BaseModel, INDEX};
use crate::regular::{failed, folder_of};
use crate::shown::shown;
use crate::{Error, Result, hub};

/// The most subfolders with models, and files of other names, that are looked into.
const MOST: usize = 64;
/// The number of files that an error lists.
const LISTED: usize = 8;
/// A pipeline of several models has this file, and each model in a subfolder.
const PIPELINE: &str = "model_index.json";

/// A model in a folder.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// One file.
    Whole(String),
    /// An index of shards.
    Index(String),
    /// Shards without an index.
    Shards(Vec<String>),
}

/// See [`BaseModel::candidates`].
pub(super) fn candidates(path: &Path) -> Result<Vec<BaseModel>> {
    let none = |reason| Error::NoBase {
        path: path.into(),
        reason,
    };
    if let Some(reason) = hub::looks_like_a_name(path) {
        return Err(none(reason));
    }
    let metadata = std::fs::metadata(path).map_err(failed(path))?;
    if !metadata.is_dir() {
        return file(path);
    }
    let followed = hub::followed(path).map_err(none)?;
    let mut models = folder(&followed.path).map_err(|error| match (error, &followed.how) {
        (Error::NoBase { reason, .. }, Some(how)) => none(format!(
            "it {how}, and {reason}; another snapshot can be named instead"
        )),
        (error, _) => error,
    })?;
    for model in &mut models {
        let how = followed.how.iter();
        let how = how.map(|how| format!("{} {how}", path.display()));
        model.notes.splice(0..0, how);
    }
    Ok(models)
}

/// The model that a file means.
fn file(path: &Path) -> Result<Vec<BaseModel>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = folder_of(path);
    match &*name {
        "config.json" | "params.json" | PIPELINE => return folder(parent),
        name if is_index(name) => {
            let model = BaseModel::with_index(parent, name)?;
            return Ok(vec![model.described(parent)]);
        }
        name if name.ends_with(".json") => {
            return Err(Error::NoBase {
                path: path.into(),
                reason: "it is no index of safetensors shards: name the model's folder, its \
                         safetensors file or its .safetensors.index.json"
                    .into(),
            });
        }
        _ => {}
    }
    let mut model = BaseModel::single(path)?;
    if names::incomplete(&[name.to_string()]).is_some() && names::series(&name).is_some() {
        model.part_of = Some(parent.into());
    }
    Ok(vec![match rank(&name) {
        Some(_) => model.described(parent),
        None => model,
    }])
}

fn folder(path: &Path) -> Result<Vec<BaseModel>> {
    let listing = Listing::read(path)?;
    let (mut models, mut broken) = (Vec::new(), Vec::new());
    let places = listing.places();
    let known = places.iter().any(|(rank, _)| *rank < OTHER);
    in_folder(path, &listing, places, &mut models, &mut broken)?;
    if !known || listing.has(PIPELINE) {
        below(path, &listing, &mut models, &mut broken)?;
    }
    if models.is_empty() {
        return Err(match broken.into_iter().next() {
            Some(error) => error,
            None => Error::NoBase {
                path: path.into(),
                reason: listing.without_model(),
            },
        });
    }
    for model in &mut models {
        let unusable = broken.iter().take(LISTED);
        model
            .notes
            .extend(unusable.map(|error| format!("beside it, and not used: {error}")));
    }
    Ok(models)
}

/// Opens the models that lie in a folder itself. The error is that of the best of them.
fn in_folder(
    path: &Path,
    listing: &Listing,
    places: Vec<(usize, Place)>,
    models: &mut Vec<BaseModel>,
    broken: &mut Vec<Error>,
) -> Result<()> {
    let before = models.len();
    for (rank, place) in places {
        match open(path, rank, &place) {
            Ok(model) => models.push(model),
            // An index whose shards weren't downloaded doesn't stand in the way of other files.
            Err(error) if rank == OTHER || listing.lacks_all(path, &place) => broken.push(error),
            // What comes next is no substitute for a broken model.
            Err(error) if models.len() == before => return Err(error),
            Err(error) => broken.push(error),
        }
    }
    Ok(())
}

/// The models in the folders of a folder: a pipeline's parts, checkpoints.
fn below(
    path: &Path,
    listing: &Listing,
    models: &mut Vec<BaseModel>,
    broken: &mut Vec<Error>,
) -> Result<()> {
    let mut with_models = 0;
    for name in &listing.folders {
        let Ok(hub::Followed { path: sub, .. }) = hub::followed(&path.join(name)) else {
            continue;
        };
        let listing = match Listing::read(&sub) {
            Ok(listing) => listing,
            Err(error) => {
                broken.push(error);
                continue;
            }
        };
        let places = listing.places();
        with_models += usize::from(!places.is_empty());
        if with_models > MOST {
            return Err(Error::NoBase {
                path: path.into(),
                reason: format!(
                    "it holds more than {MOST} folders with models: name the one that is meant"
                ),
            });
        }
        let (before, is_alone) = (models.len(), places.len() == 1);
        if let Err(error) = in_folder(&sub, &listing, places, models, broken) {
            broken.push(error);
        }
        for model in models.iter_mut().skip(before) {
            if is_alone {
                model.path.clone_from(&sub);
            }
            let note = format!("BASE is {}", model.path.display());
            model.notes.push(note);
        }
    }
    Ok(())
}

fn open(folder: &Path, rank: usize, place: &Place) -> Result<BaseModel> {
    let mut model = match place {
        Place::Whole(name) => BaseModel::whole(folder, name)?,
        Place::Index(name) => BaseModel::with_index(folder, name)?,
        Place::Shards(names) => BaseModel::without_index(folder, names)?,
    };
    model.rank = rank;
    Ok(model.described(folder))
}

/// The files and folders of a folder, sorted, without those whose names begin with a dot.
struct Listing {
    files: Vec<String>,
    folders: Vec<String>,
    /// Links to folders. They could lead anywhere; their user can name where they lead.
    links: Vec<String>,
}

impl Listing {
    fn read(path: &Path) -> Result<Self> {
        let unread = failed(path);
        let (mut files, mut folders, mut links) = (Vec::new(), Vec::new(), Vec::new());
        for entry in path.read_dir().map_err(unread)? {
            let entry = entry.map_err(unread)?;
            // No name in a model is anything but UTF-8.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            match entry.file_type().map_err(unread)? {
                kind if kind.is_dir() => folders.push(name),
                kind if kind.is_symlink() && entry.path().is_dir() => links.push(name),
                _ => files.push(name),
            }
        }
        files.sort();
        folders.sort();
        links.sort();
        Ok(Self {
            files,
            folders,
            links,
        })
    }

    fn has(&self, name: &str) -> bool {
        self.files
            .binary_search_by(|file| file.as_str().cmp(name))
            .is_ok()
    }

    /// The models among the files, best first.
    fn places(&self) -> Vec<(usize, Place)> {
        let mut places: Vec<(usize, Place)> = Vec::new();
        for name in &self.files {
            if let Some(rank) = rank(name) {
                let place = match is_index(name) {
                    true => Place::Index(name.clone()),
                    false => Place::Whole(name.clone()),
                };
                places.push((rank, place));
            }
        }
        let is_slice = |place: &Place| matches!(place, Place::Whole(name) if is_slice(name));
        if places.iter().filter(|(_, place)| is_slice(place)).count() > 1 {
            places.retain(|(_, place)| !is_slice(place));
        }
        let known = !places.is_empty();
        let mut series: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
        let mut others = Vec::new();
        let indexed: BTreeSet<&str> = self.files.iter().filter_map(|name| indexed(name)).collect();
        for name in &self.files {
            match names::series(name) {
                Some(of)
                    if !of
                        .0
                        .split('.')
                        .next()
                        .is_some_and(|stem| indexed.contains(stem)) =>
                {
                    series.entry(of).or_default().push(name.clone());
                }
                None if !known && is_other(name) => others.push(Place::Whole(name.clone())),
                _ => {}
            }
        }
        others.extend(series.into_values().map(Place::Shards));
        let others = others.into_iter().take(MOST);
        places.extend(others.map(|place| (OTHER, place)));
        places.sort();
        places
    }

    /// Whether none of the shards that an index names is there.
    fn lacks_all(&self, folder: &Path, place: &Place) -> bool {
        let Place::Index(name) = place else {
            return false;
        };
        let map = super::index::read(folder, &folder.join(name));
        map.is_ok_and(|map| !map.values().any(|shard| self.has(shard)))
    }

    /// Says what lies there instead of a model, and what to do.
    fn without_model(&self) -> String {
        let mut text = format!(
            "the folder has no {}.safetensors, no {INDEX} and no other safetensors file of a model",
            STEMS[0]
        );
        let all: Vec<&String> = self.files.iter().chain(&self.folders).collect();
        if !all.is_empty() {
            let names: Vec<String> = all.iter().take(LISTED).map(|name| shown(name)).collect();
            text += &format!("; it holds {}", names.join(", "));
            if all.len() > LISTED {
                text += &format!(" and {} others", all.len() - LISTED);
            }
        }
        if let Some(link) = self.links.first() {
            text += &format!(
                "; {} links to folders in it are not followed: name the folder itself that is \
                 meant ({})",
                self.links.len(),
                shown(link)
            );
        }
        let has = |wanted: &dyn Fn(&str) -> bool| self.files.iter().any(|name| wanted(name));
        if has(&is_adapter) {
            text += ": an adapter, and BASE is the model that it is for";
        } else if has(&is_slice) {
            text += ": slices of a model, each with a part of every tensor, which have to be put \
                     together first (transformers' conversion scripts do)";
        } else if self.folders.iter().any(|name| name.starts_with("models--")) {
            text += ": name one of those folders";
        } else {
            if has(&|name| name.ends_with(".gguf")) {
                text += "; GGUF files, llama.cpp's, mostly hold quantised weights under other \
                         names: merge into the safetensors model that they were made from, and \
                         convert the result";
            }
            text += "; .bin and .pt files are pickles, which can run code and are not read: save \
                     the model again, as safetensors";
        }
        text
    }
}
