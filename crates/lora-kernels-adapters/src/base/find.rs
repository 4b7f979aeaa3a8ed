//! Finds the models that a path can mean.

use std::path::Path;

use super::{BaseModel, INDEX};
use crate::shown::shown;
use crate::{Error, Result, hub};

/// Stems of files that hold a whole model, or of its index (Hugging Face's, diffusers' and
/// Mistral's), in search order.
const STEMS: [&str; 3] = ["model", "diffusion_pytorch_model", "consolidated"];
/// Ranks of whole models and indexes of those stems are below this one.
const OTHER_INDEX: usize = 2 * STEMS.len();
/// Of `model.fp16.safetensors` and its like.
const VARIANT: usize = OTHER_INDEX + 1;
/// Of safetensors files of any other name.
const OTHER: usize = VARIANT + 1;
/// The most subfolders with models, and files of other names, that are looked into.
const MOST: usize = 64;
/// The number of files that an error lists.
const LISTED: usize = 8;
/// A pipeline of several models has this file, and each model in a subfolder.
const PIPELINE: &str = "model_index.json";
/// Files with the weights of something else than a model.
const NO_MODELS: [&str; 6] = [
    "adapter_model.safetensors",
    "lora.safetensors",
    "pytorch_lora_weights.safetensors",
    "optimizer.safetensors",
    "training_state.safetensors",
    "scheduler.safetensors",
];

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
    let metadata = std::fs::metadata(path).map_err(|source| Error::Io {
        doing: "read",
        path: path.into(),
        source,
    })?;
    if !metadata.is_dir() {
        return file(path);
    }
    let followed = hub::followed(path).map_err(|reason| Error::NoBase {
        path: path.into(),
        reason,
    })?;
    let mut models = folder(&followed.path)?;
    for model in &mut models {
        model.notes.splice(
            0..0,
            followed
                .how
                .iter()
                .map(|how| format!("{} {how}", path.display())),
        );
    }
    Ok(models)
}

/// The model that a file means.
fn file(path: &Path) -> Result<Vec<BaseModel>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match &*name {
        "config.json" | "params.json" | PIPELINE => return folder(parent),
        name if is_index(name) => {
            let model = BaseModel::with_index(parent, name)?;
            return Ok(vec![model.described(parent)]);
        }
        _ => {}
    }
    if let Some(what) = foreign(&name) {
        return Err(Error::NoBase {
            path: path.into(),
            reason: format!("it is {what}"),
        });
    }
    let model = BaseModel::single(path)?;
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
    for (rank, place) in places {
        let absent = listing.lacks_all(path, &place);
        match open(path, rank, &place) {
            Ok(model) => models.push(model),
            // An index whose shards weren't downloaded doesn't stand in the way of other files.
            Err(error) if models.is_empty() && rank < OTHER && !absent => return Err(error),
            Err(error) => broken.push(error),
        }
    }
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
            .extend(unusable.map(|error| format!("not looked into: {error}")));
    }
    Ok(models)
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
        let Ok(listing) = Listing::read(&sub) else {
            continue;
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
        for (rank, place) in places {
            match open(&sub, rank, &place) {
                Ok(mut model) => {
                    let place = model.path.display();
                    model
                        .notes
                        .push(format!("it lies below the folder given: {place}"));
                    models.push(model);
                }
                Err(error) => {
                    broken.push(error);
                    // What comes next is no substitute for a broken model.
                    break;
                }
            }
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
}

impl Listing {
    fn read(path: &Path) -> Result<Self> {
        let unread = |source| Error::Io {
            doing: "read",
            path: path.into(),
            source,
        };
        let (mut files, mut folders) = (Vec::new(), Vec::new());
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
                // A link to a folder could lead anywhere; its user can name it.
                kind if kind.is_symlink() && entry.path().is_dir() => {}
                _ => files.push(name),
            }
        }
        files.sort();
        folders.sort();
        Ok(Self { files, folders })
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
        if places.is_empty() {
            let others = self.others().into_iter().take(MOST);
            places.extend(others.map(|place| (OTHER, place)));
        }
        places.sort();
        places
    }

    /// Safetensors files of no known name. Shards `x-00001-of-00002.safetensors` are one model.
    fn others(&self) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for name in &self.files {
            if !name.ends_with(".safetensors") || NO_MODELS.contains(&name.as_str()) {
                continue;
            }
            let series = series(name);
            let same = |other: &&mut Place| matches!(other, Place::Shards(names) if series.is_some() && names.first().and_then(|first| self::series(first)) == series);
            match (series, places.iter_mut().find(same)) {
                (Some(_), Some(Place::Shards(names))) => names.push(name.clone()),
                (Some(_), _) => places.push(Place::Shards(vec![name.clone()])),
                (None, _) => places.push(Place::Whole(name.clone())),
            }
        }
        places
    }

    /// Whether none of the shards that an index names is there.
    fn lacks_all(&self, folder: &Path, place: &Place) -> bool {
        let Place::Index(name) = place else {
            return false;
        };
        let map = super::index::read(&folder.join(name));
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
        let has = |wanted: &dyn Fn(&str) -> bool| self.files.iter().any(|name| wanted(name));
        if has(&|name| NO_MODELS[..3].contains(&name)) {
            text += ": an adapter, and BASE is the model that it is for";
        } else if self.folders.iter().any(|name| name.starts_with("models--")) {
            text += ": name one of those folders";
        } else if has(&|name| name.ends_with(".gguf")) {
            text += &format!(": {GGUF}");
        } else {
            text += &format!("; .bin and .pt files are {PICKLE}");
        }
        text
    }
}

const GGUF: &str = "a GGUF file, llama.cpp's, whose weights are mostly quantised and have other names: \
    merge into the safetensors model that it was made from, and convert the result";
const PICKLE: &str =
    "pickles, which can run code and are not read: save the model again, as safetensors";

/// What a file of another format is, by its name.
fn foreign(name: &str) -> Option<&'static str> {
    let extension = Path::new(name).extension()?.to_str()?;
    match extension.to_ascii_lowercase().as_str() {
        "gguf" => Some(GGUF),
        "bin" | "pt" | "pth" | "ckpt" | "pkl" => Some(
            "one of the .bin and .pt files that are pickles, which can run code and are not read: save the model again, as safetensors",
        ),
        _ => None,
    }
}

/// Whether a name is that of an index of safetensors shards: `model.safetensors.index.json`,
/// `model.safetensors.index.fp16.json`.
fn is_index(name: &str) -> bool {
    name.ends_with(".json") && name.contains(".safetensors.index.")
}

/// The rank of a model's file by its name, lower ranks first; `None` if it isn't known to be one.
fn rank(name: &str) -> Option<usize> {
    for (at, stem) in STEMS.iter().enumerate() {
        let Some(rest) = name.strip_prefix(stem) else {
            continue;
        };
        match rest {
            ".safetensors" => return Some(2 * at),
            ".safetensors.index.json" => return Some(2 * at + 1),
            _ if series(name).is_some() => return None,
            // Another name that begins alike, such as `model_ema.safetensors`, isn't known.
            _ if !rest.starts_with('.') => {}
            _ if rest.ends_with(".safetensors") || is_index(name) => return Some(VARIANT),
            _ => {}
        }
    }
    is_index(name).then_some(OTHER_INDEX)
}

/// The number of shards that the name of one of several gives.
pub(super) fn shards_of(name: &str) -> Option<usize> {
    series(name).and_then(|(_, count)| count.parse().ok())
}

/// The stem and the number of shards in the name of one of several:
/// `model-00001-of-00002.safetensors`.
fn series(name: &str) -> Option<(&str, &str)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some((stem, count))
}
