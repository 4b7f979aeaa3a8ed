//! Finding an adapter's files.

use std::path::{Component, Path, PathBuf};

use crate::base::Home;
use crate::hub;
use crate::regular::{self, failed, folder_of};
use crate::shown::shown;
use crate::tensor_file::TensorFile;
use crate::{Error, Result};

pub(super) const CONFIG: &str = "adapter_config.json";
const PEFT_TENSORS: &str = "adapter_model.safetensors";
const PEFT_INDEX: &str = "adapter_model.safetensors.index.json";
const PEFT_PICKLE: &str = "adapter_model.bin";
/// Files that hold an adapter without a config: Mistral's and diffusers'.
const ALONE: [&str; 2] = ["lora.safetensors", "pytorch_lora_weights.safetensors"];

/// The number of names that an error lists.
const LISTED: usize = 8;
/// The most entries of a folder that are looked at.
const MOST_ENTRIES: usize = 10_000;
/// How many levels of folders are looked at below one without an adapter:
/// `v0-20250101/checkpoint-10/default`.
const LEVELS: usize = 3;
/// The most folders that are looked at.
const MOST_FOLDERS: usize = 2_000;

/// The paths of an adapter's files.
pub(super) struct Files {
    pub config: Option<PathBuf>,
    pub tensors: PathBuf,
    /// Whether the wanted adapter is the name of the folder in which they were found.
    pub is_wanted: bool,
    /// What was followed to another folder, as a sentence without subject.
    pub how: Option<String>,
}

impl Files {
    /// The home of the files. `path` is what was named, and a file that was named itself may be a
    /// link to anywhere.
    ///
    /// # Errors
    /// [`Error::Outside`] if the tensors' file is a link that isn't followed, [`Error::Io`].
    pub fn home(&self, path: &Path) -> Result<Home> {
        let folder = folder_of(&self.tensors);
        let names = self.tensors.file_name().and_then(|name| name.to_str());
        match Home::with_weights(folder, names.as_slice()) {
            Err(Error::Outside { .. }) if self.tensors == path => Home::of(folder),
            home => home,
        }
    }
}

/// Finds the files of the adapter at `path`. `wanted` chooses among several folders below it.
pub(super) fn find(path: &Path, wanted: Option<&str>) -> Result<Files> {
    let metadata = std::fs::metadata(path).map_err(failed(path))?;
    if !metadata.is_dir() {
        return file(path);
    }
    let followed = hub::followed(path).or_else(|reason| refused(path, reason))?;
    let of_name = wanted.and_then(|wanted| named_folder(&followed.path, wanted));
    if let Some(folder) = of_name
        && let Some(files) = inside(&folder)?
    {
        return Ok(Files {
            is_wanted: true,
            how: Some(leads_to(path, &folder)),
            ..files
        });
    }
    let files = match inside(&followed.path)? {
        Some(files) => files,
        None => below(&followed.path, wanted)?,
    };
    Ok(Files {
        how: followed.how.or(files.how),
        ..files
    })
}

/// The folder of this name, where PEFT saves an adapter that isn't called `default`.
fn named_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut parts = Path::new(name).components();
    let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
        return None;
    };
    let home = Home::of(folder).ok()?;
    let folder = folder.join(name);
    is_folder_of(&home, &folder).then_some(folder)
}

/// Whether a path below a home's folder is a folder there, and no link out of it.
fn is_folder_of(home: &Home, path: &Path) -> bool {
    path.is_dir() && home.holds(path).unwrap_or(false)
}

fn refused<T>(path: &Path, reason: String) -> Result<T> {
    Err(Error::NoAdapter {
        path: path.into(),
        reason,
    })
}

/// An adapter given by one of its files.
fn file(path: &Path) -> Result<Files> {
    let folder = folder_of(path);
    if path.file_name().is_some_and(|name| name == CONFIG) {
        return match inside(folder)? {
            Some(files) => Ok(files),
            None => refused(path, format!("no {PEFT_TENSORS} lies beside it")),
        };
    }
    let pickle = |name: &str| {
        [".bin", ".pt", ".pth", ".ckpt", ".pkl"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if pickle(&name) {
        return refused(path, A_PICKLE.into());
    }
    if name.ends_with(".gguf") {
        return refused(
            path,
            "GGUF adapters aren't read: use the safetensors file that it was converted from".into(),
        );
    }
    let beside = path.with_file_name(CONFIG);
    let is_peft = regular::is_there(&beside)?
        && (name == PEFT_TENSORS || safetensors_in(folder)? == [name.as_ref()]);
    Ok(Files {
        config: is_peft.then_some(beside),
        tensors: path.into(),
        is_wanted: false,
        how: None,
    })
}

const A_PICKLE: &str = "it is a pickle, which can run code and is not read; load it with the tool \
    that made it and save it again, as safetensors";

/// The adapter in a folder; `None` if there is nothing of one.
fn inside(folder: &Path) -> Result<Option<Files>> {
    let config = folder.join(CONFIG);
    let tensors = folder.join(PEFT_TENSORS);
    let found = |config: Option<PathBuf>, tensors: PathBuf| {
        Ok(Some(Files {
            config,
            tensors,
            is_wanted: false,
            how: None,
        }))
    };
    match (regular::is_there(&config)?, regular::is_there(&tensors)?) {
        (true, true) => return found(Some(config), tensors),
        // The header may hold what the config would.
        (false, true) => return found(None, tensors),
        (true, false) => {
            let others = safetensors_in(folder)?;
            return match &others[..] {
                [one] => found(Some(config), folder.join(one)),
                [] if folder.join(PEFT_PICKLE).is_file() => refused(
                    folder,
                    format!(
                        "{PEFT_PICKLE} is a pickle, which can run code and is not read; load it \
                         with PEFT and save it again, as safetensors"
                    ),
                ),
                _ if folder.join(PEFT_INDEX).is_file() => refused(
                    folder,
                    format!(
                        "its tensors lie in several files ({PEFT_INDEX}), as PEFT doesn't write \
                         them: save it as one"
                    ),
                ),
                [] => refused(
                    folder,
                    format!("{CONFIG} lies there without {PEFT_TENSORS}"),
                ),
                _ => refused(
                    folder,
                    format!(
                        "{CONFIG} lies there without {PEFT_TENSORS}, and beside several others: \
                         {}; name one of them {PEFT_TENSORS}",
                        listed(&others)
                    ),
                ),
            };
        }
        (false, false) => {}
    }
    let alone = { ALONE.iter() }.map(|name| folder.join(name));
    let alone: Vec<PathBuf> = alone.filter(|path| path.is_file()).collect();
    match alone.as_slice() {
        [] => Ok(None),
        [one] => found(None, one.clone()),
        _ => refused(
            folder,
            format!(
                "{} lie there, and either may be meant: give one of them as a file",
                ALONE.join(" and ")
            ),
        ),
    }
}

/// The names of a folder's safetensors files, sorted.
fn safetensors_in(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in entries(folder)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn entries(folder: &Path) -> Result<Vec<std::fs::DirEntry>> {
    let failed = failed(folder);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let entries = entries.take(MOST_ENTRIES);
    entries.collect::<std::io::Result<_>>().map_err(failed)
}

fn listed(names: &[String]) -> String {
    few(names.to_vec()).join(", ")
}

/// The first names, as errors show them.
fn few(names: Vec<String>) -> Vec<String> {
    let mut list: Vec<String> = names.iter().take(LISTED).map(|name| shown(name)).collect();
    if names.len() > LISTED {
        list.push("...".into());
    }
    list
}

fn relative(folder: &Path, paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| {
        let relative = path.strip_prefix(folder).unwrap_or(path);
        relative.display().to_string()
    };
    paths.iter().map(name).collect()
}

/// The folder's only safetensors file, if it reads as an adapter without a config.
fn loose_adapter(folder: &Path) -> Result<Option<PathBuf>> {
    let [name] = &safetensors_in(folder)?[..] else {
        return Ok(None);
    };
    let path = folder.join(name);
    // What can't be opened is no adapter, and the error about the folder names it.
    let is_adapter = TensorFile::open(&path).is_ok_and(|file| super::is_adapter(&file));
    Ok(is_adapter.then_some(path))
}

/// The adapter in a folder below `folder`.
fn below(folder: &Path, wanted: Option<&str>) -> Result<Files> {
    let (mut left, mut found) = (MOST_FOLDERS, Vec::new());
    look_below(&Home::of(folder)?, folder, LEVELS, &mut left, &mut found);
    if let Some(wanted) = wanted {
        let of_name = |path: &&PathBuf| path.file_name().is_some_and(|name| name == wanted);
        let fitting: Vec<&PathBuf> = found.iter().filter(of_name).collect();
        if let [one] = fitting[..]
            && let Some(files) = inside(one)?
        {
            return Ok(Files {
                is_wanted: true,
                how: Some(leads_to(folder, one)),
                ..files
            });
        }
        if fitting.is_empty() && found.len() > 1 {
            return Err(Error::NoSuchAdapter {
                path: folder.into(),
                wanted: shown(wanted),
                names: few(relative(folder, &found)),
            });
        }
    }
    if let Some(loose) = loose_adapter(folder)? {
        if found.is_empty() {
            return Ok(Files {
                config: None,
                how: Some(format!(
                    "{}, the only safetensors file there",
                    leads_to(folder, &loose)
                )),
                tensors: loose,
                is_wanted: false,
            });
        }
        found.insert(0, loose);
        return refused(
            folder,
            format!(
                "it holds several adapters, and one must be given: {}",
                few(relative(folder, &found)).join(", ")
            ),
        );
    }
    match &found[..] {
        [one] => match inside(one)? {
            Some(files) => Ok(Files {
                how: Some(format!(
                    "{}, the only folder with an adapter there",
                    leads_to(folder, one)
                )),
                ..files
            }),
            None => refused(one, format!("it has no {CONFIG}")),
        },
        [] => refused(folder, nothing(folder)?),
        _ => {
            let newest = found.iter().filter_map(|path| Some((step(path)?, path)));
            Err(Error::AdapterFolders {
                path: folder.into(),
                names: few(relative(folder, &found)),
                newest: newest
                    .max()
                    .map(|(_, path)| shown(&path.display().to_string())),
            })
        }
    }
}

fn leads_to(folder: &Path, found: &Path) -> String {
    let relative = found.strip_prefix(folder).unwrap_or(found);
    format!("leads to {}", shown(&relative.display().to_string()))
}

/// The folders with an adapter of their own, sorted by name and by step.
fn look_below(
    home: &Home,
    folder: &Path,
    levels: usize,
    left: &mut usize,
    found: &mut Vec<PathBuf>,
) {
    // A folder that can't be read holds nothing that could be followed.
    let mut folders: Vec<PathBuf> = entries(folder)
        .unwrap_or_default()
        .iter()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(std::fs::DirEntry::path)
        .filter(|path| is_folder_of(home, path))
        .collect();
    folders.sort_by_key(|path| (step(path), path.clone()));
    for path in folders {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let holds = |name: &str| path.join(name).is_file();
        if holds(CONFIG) || holds(PEFT_TENSORS) || ALONE.iter().any(|name| holds(name)) {
            found.push(path);
        } else if levels > 1 {
            look_below(home, &path, levels - 1, left, found);
        }
    }
}

/// The number of a trainer's `checkpoint-<step>`.
fn step(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let (_, step) = name.rsplit_once(['-', '_'])?;
    name.starts_with("checkpoint").then(|| step.parse().ok())?
}

/// Why a folder without any adapter is none.
fn nothing(folder: &Path) -> Result<String> {
    let mut names: Vec<String> = entries(folder)?
        .iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let tensors: Vec<String> = names
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .cloned()
        .collect();
    let there = match (&tensors[..], &names[..]) {
        ([], []) => "it is empty".into(),
        ([], _) => format!("it holds {}", listed(&names)),
        _ => format!(
            "it holds {}, which can be given as a file",
            listed(&tensors)
        ),
    };
    Ok(format!(
        "the folder has neither {CONFIG} with {PEFT_TENSORS} (PEFT) nor {} (Mistral, diffusers); \
         {there}; name a safetensors file to read one of another format (loralib, kohya)",
        ALONE.join(" or ")
    ))
}
