//! The other files of a model's folder.

mod config;
mod edit;
mod heads;
mod index;
mod travels;
mod vocabulary;

use std::path::{Path, PathBuf};

use lora_kernels_adapters::BaseModel;

use super::change::Changes;
use super::changes::Weighted;
use super::report::Report;
use super::{Direction, Work};
use crate::failure::Failure;
use crate::show::few;
use config::Edited;
pub use travels::FilesFrom;
use travels::Travels;

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
/// Of the files that are read or compared as a whole, in bytes. The largest tokenizers have a fifth
/// of it.
const LARGEST: u64 = 256 << 20;

/// Everything beside the tensors' files: planned before anything is written.
pub struct Companions {
    edited: Vec<Edited>,
    travels: Travels,
    /// The index's new text, where it changes.
    index: Option<String>,
    /// Files of the adapters that a single file can't be accompanied by.
    left_out: Vec<String>,
    warnings: Vec<String>,
}

impl Companions {
    /// Plans the files that accompany the merged model.
    ///
    /// # Errors
    /// Several adapters bring different files and `from` doesn't decide, or a config that must be
    /// changed can't be read.
    pub fn plan(
        base: &BaseModel,
        adapters: &[Weighted<'_>],
        changes: &Changes<'_>,
        direction: Direction,
        from: Option<FilesFrom>,
    ) -> Result<Self, Failure> {
        if from.is_some() && direction == Direction::Unmerge {
            return Err(Failure::Refused(
                "--files-from is for merge: what unmerge writes has BASE's files".into(),
            ));
        }
        if let Some(FilesFrom::Adapter(number)) = from
            && number > adapters.len()
        {
            return Err(Failure::Refused(format!(
                "--files-from {number}: the number of adapters is {}",
                adapters.len()
            )));
        }
        let folder = base.folder();
        let mut warnings = Vec::new();
        // A link out of the folder is no config of the base's, and its text isn't written.
        let holds = |path: &Path| !is_there(path) || base.holds(path).unwrap_or(false);
        let configs = { folder }.filter(|folder| {
            let mut all = config::CONFIGS.iter().map(|name| folder.join(name));
            all.all(|path| holds(&path))
        });
        let edited = config::edited(configs, &changes.config, &mut warnings)?;
        let task = adapters.iter().find_map(|weighted| {
            let task = weighted.adapter.config()?.field("task_type")?;
            serde_json::from_str::<String>(task).ok()
        });
        heads::warn(folder, base, changes, task.as_deref(), &mut warnings);
        let mut travels = Travels::default();
        let mut left_out = Vec::new();
        match (direction, folder) {
            (Direction::Merge, Some(folder)) => {
                travels = travels::find(folder, adapters, from, &mut warnings)?;
            }
            (Direction::Merge, None) if from != Some(FilesFrom::Base) => {
                let own = travels::find_each(adapters, &mut warnings)?;
                let own = own.iter().map(|path| path.display());
                left_out.extend(own.map(|path| format!("{path} (OUT is a file, as BASE is)")));
            }
            (Direction::Merge, None) => {}
            (Direction::Unmerge, folder) => {
                let own = travels::find_each(adapters, &mut Vec::new())?;
                let kept = own.iter().filter_map(|path| {
                    let name = path.file_name()?.to_str()?;
                    travels::same(path, &folder?.join(name)).then_some(name)
                });
                let kept: Vec<&str> = kept.collect();
                if !kept.is_empty() {
                    warnings.push(format!(
                        "BASE's {} are the adapter's, and stay: the original model may have others",
                        few(kept)
                    ));
                }
            }
        }
        if let (Some((needed, file)), Some(rows)) =
            (travels.rows_needed(), vocabulary::rows(base, changes))
            && needed > rows as u64
        {
            warnings.push(format!(
                "the adapter's {file} has ids of tokens up to {}, and the embeddings have {rows} \
                 rows: tokens from {rows} on have none, and a reader fails on them",
                needed - 1
            ));
        }
        let index = match base.index() {
            Some(path) => index::edited(path, base, changes)?,
            None => None,
        };
        Ok(Self {
            edited,
            travels,
            index,
            left_out,
            warnings,
        })
    }

    /// Writes them into the folder of the result, and copies the base's other files, which aren't
    /// weights. Returns the files that were left out.
    pub fn write(&self, work: &Work<'_>, from: &Path, to: &Path) -> Result<Vec<String>, Failure> {
        let mut left_out = Vec::new();
        self.copy(work, from, from, to, &mut left_out)?;
        if let Some(index) = work.base.index() {
            let name = index.file_name().unwrap_or_default();
            match &self.index {
                Some(text) => write(&to.join(name), text)?,
                None => copy_file(index, &to.join(name))?,
            }
        }
        for edited in &self.edited {
            write(&to.join(edited.name), &edited.text)?;
        }
        for taken in &self.travels.taken {
            work.go_on()?;
            let target = to.join(&taken.name);
            if let Some(folder) = target.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(|error| Failure::unwritten(folder, error))?;
            }
            copy_file(&taken.from, &target)?;
        }
        left_out.sort();
        Ok(left_out)
    }

    /// Tells the report what else the result has than the base.
    pub fn tell(&self, report: &mut Report) {
        for edited in &self.edited {
            report.edited(edited.name, &edited.changes);
        }
        for taken in &self.travels.taken {
            report.taken_over(&taken.name, &taken.from, taken.replaces);
        }
        for warning in &self.warnings {
            report.warn(warning.clone());
        }
        report.left_out(self.left_out.clone());
    }

    /// Whether a file of the base's folder is written otherwise, or not at all.
    fn is_replaced(&self, base: &BaseModel, name: &str) -> bool {
        base.shards().iter().any(|shard| shard.name == name)
            || { base.index() }
                .is_some_and(|index| index.file_name().is_some_and(|own| own == name))
            || self.edited.iter().any(|edited| edited.name == name)
            || self.travels.taken.iter().any(|taken| taken.name == name)
    }

    fn copy(
        &self,
        work: &Work<'_>,
        root: &Path,
        from: &Path,
        to: &Path,
        left_out: &mut Vec<String>,
    ) -> Result<(), Failure> {
        for entry in from
            .read_dir()
            .map_err(|error| Failure::unread(from, error))?
        {
            work.go_on()?;
            let entry = entry.map_err(|error| Failure::unread(from, error))?;
            let (path, name) = (entry.path(), entry.file_name());
            let target = to.join(&name);
            let below = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .display()
                .to_string();
            if self.is_replaced(work.base, &below) {
                continue;
            }
            if is_of_tools(&name.to_string_lossy(), from == root) {
                left_out.push(below);
                continue;
            }
            if self.travels.dropped.contains(&below) {
                left_out.push(format!("{below} (the adapter's tokenizer contradicts it)"));
                continue;
            }
            let kind = entry
                .file_type()
                .map_err(|error| Failure::unread(&path, error))?;
            if kind.is_dir() {
                std::fs::create_dir(&target).map_err(|error| Failure::unwritten(&target, error))?;
                self.copy(work, root, &path, &target, left_out)?;
            } else if is_weights(&path, from == root) {
                left_out.push(below);
            } else if !work.base.holds(&path).unwrap_or(false) || !path.is_file() {
                left_out.push(format!("{below} (a link out of the folder, or no file)"));
            } else {
                copy_file(&path, &target)?;
            }
        }
        Ok(())
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

/// Whether there is a file, with links followed.
fn is_there(path: &Path) -> bool {
    path.is_file()
}

/// Reads a text that isn't larger than any real one.
fn read_text(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::metadata(path)
        .map_err(|error| Failure::unread(path, error))?
        .len();
    if bytes > LARGEST {
        return Err(Failure::Refused(format!(
            "can't read {}: it has {bytes} bytes, and at most {LARGEST} are read",
            path.display()
        )));
    }
    std::fs::read_to_string(path).map_err(|error| Failure::unread(path, error))
}

/// Copies a file's content, without its permissions: a cache's files can't be written to.
fn copy_file(from: &Path, to: &Path) -> Result<(), Failure> {
    let copied = std::fs::File::open(from).and_then(|mut source| {
        let mut target = std::fs::File::create(to)?;
        std::io::copy(&mut source, &mut target)
    });
    copied.map(drop).map_err(|error| {
        Failure::Refused(format!(
            "can't copy {} to {}: {error}",
            from.display(),
            to.display()
        ))
    })
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::unwritten(path, error))
}
