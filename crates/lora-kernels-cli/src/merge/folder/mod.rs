//! The other files of a model's folder.

mod config;
mod copy;
mod edit;
mod heads;
mod index;
mod others;
mod source;
mod travels;
mod vocabulary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lora_kernels_adapters::BaseModel;
use lora_kernels_adapters::base::{self, Home};

use super::access::{Access, Sources};
use super::change::Changes;
use super::changes::Weighted;
use super::report::Report;
use super::{Direction, Work};
use crate::failure::Failure;
use crate::show::few;
use config::{CONFIGS, Edited};
use others::{Exceptions, Others};
use source::Source;
pub use source::Unreadable;
pub use travels::FilesFrom;
use travels::{Told, Travels};

/// Everything beside the tensors' files: planned before anything is written.
pub struct Companions {
    edited: Vec<Edited>,
    travels: Travels,
    index: Option<Index>,
    others: Others,
    /// Files of the adapters that a single file can't be accompanied by.
    left_out: Vec<String>,
    warnings: Vec<String>,
    /// What the result lacks, because it can't be read.
    unreadable: Vec<Unreadable>,
}

/// A sharded model's index.
struct Index {
    source: Source,
    name: PathBuf,
    /// Its new text, where it changes.
    text: Option<String>,
}

/// What the user decides about the files.
pub struct Options {
    pub from: Option<FilesFrom>,
    /// Whether what can't be read is left out, rather than an error.
    pub skip_unreadable: bool,
}

impl Companions {
    /// Plans the files that accompany the merged model.
    ///
    /// # Errors
    /// Several adapters bring different files and the options don't decide, a config that must be
    /// changed can't be read, or another file can't, and the options don't say to go on.
    pub fn plan(
        base: &BaseModel,
        adapters: &[Weighted<'_>],
        changes: &Changes<'_>,
        direction: Direction,
        sources: &Sources,
        options: &Options,
    ) -> Result<Self, Failure> {
        let from = options.from;
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
        let home = base.home().cloned().map(Arc::new);
        let home = home.as_ref();
        let mut told = Told::default();
        // A link out of the folder is no config of the base's, and its text isn't written.
        let configs = home.filter(|home| {
            let mut all = CONFIGS.iter().map(|name| home.folder().join(name));
            all.all(|path| !path.is_file() || home.holds(&path).unwrap_or(false))
        });
        let edited = config::edited(configs, &changes.config, &mut told.warnings)?;
        let task = adapters.iter().find_map(|weighted| {
            let task = weighted.adapter.config()?.field("task_type")?;
            serde_json::from_str::<String>(task).ok()
        });
        heads::warn(home, base, changes, task.as_deref(), &mut told.warnings);
        let mut travels = Travels::default();
        let mut left_out = Vec::new();
        match (direction, home) {
            (Direction::Merge, Some(home)) => {
                travels = travels::find(home, adapters, from, &mut told)?;
            }
            (Direction::Merge, None) if from != Some(FilesFrom::Base) => {
                let own = travels::find_each(adapters, &mut told)?;
                // As none of them is written, it doesn't matter whether they can be read.
                let unread = told.unreadable.drain(..).map(|file| file.path);
                let all = own.into_iter().map(|file| file.path).chain(unread);
                left_out.extend(
                    all.map(|path| format!("{} (OUT is a file, as BASE is)", path.display())),
                );
            }
            (Direction::Merge, None) => {}
            (Direction::Unmerge, home) => {
                let own = travels::find_each(adapters, &mut Told::default())?;
                let kept = own.iter().filter_map(|file| {
                    let name = file.path.file_name()?.to_str()?;
                    let bases = Source::named(home?, name)?;
                    file.is_same(&bases).then_some(name)
                });
                let kept: Vec<&str> = kept.collect();
                if !kept.is_empty() {
                    told.warnings.push(format!(
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
            told.warnings.push(format!(
                "the adapter's {file} has ids of tokens up to {}, and the embeddings have {rows} \
                 rows: tokens from {rows} on have none, and a reader fails on them",
                needed - 1
            ));
        }
        let index = match (base.index(), home) {
            (Some(path), Some(home)) => Some(Index::new(path, home, base, changes)?),
            _ => None,
        };
        let mut plan = Self {
            edited,
            travels,
            index,
            others: Others::default(),
            left_out,
            warnings: told.warnings,
            unreadable: told.unreadable,
        };
        // Without it, the weights may have been taken for what they aren't, even if it can be read
        // by now.
        if let (Some(_), Some((path, reason))) = (home, base.unread_config()) {
            plan.unreadable.push(Unreadable {
                path: path.to_owned(),
                reason: reason.to_owned(),
            });
        }
        if let Some(home) = home {
            let exceptions = Exceptions {
                replaced: plan.names_written_otherwise(base),
                dropped: &plan.travels.dropped,
            };
            plan.others = Others::find(home, sources, &exceptions)?;
            plan.unreadable.append(&mut plan.others.unreadable);
        }
        plan.unreadable.sort();
        plan.unreadable.dedup();
        match plan.unreadable.is_empty() || options.skip_unreadable {
            true => Ok(plan),
            false => Err(Failure::Refused(format!(
                "can't read {}, which would be missing beside the weights: make them readable, \
                 remove them, or go on without them (--skip-unreadable)",
                listed(&plan.unreadable)
            ))),
        }
    }

    /// The paths of the files that are written for this base, in the folder of the result.
    pub fn names(&self, base: &BaseModel) -> BTreeSet<PathBuf> {
        { self.names_written_otherwise(base).into_iter() }
            .map(PathBuf::from)
            .chain(self.index.iter().map(|index| index.name.clone()))
            .chain(self.others.files.iter().map(|file| file.name.clone()))
            .collect()
    }

    /// Files of the base's folder that aren't copied from there.
    fn names_written_otherwise<'a>(&'a self, base: &'a BaseModel) -> BTreeSet<&'a str> {
        let index = self.index.iter().filter_map(|index| index.name.to_str());
        { base.shards().iter() }
            .map(|shard| shard.name.as_str())
            .chain(index)
            .chain(self.edited.iter().map(|edited| edited.name))
            .chain(self.travels.taken.iter().map(|taken| taken.name.as_str()))
            .collect()
    }

    /// Writes them into the folder of the result. Returns what couldn't be read and was left out.
    pub fn write(
        &self,
        work: &Work<'_>,
        to: &Path,
        sources: &Sources,
        options: &Options,
    ) -> Result<Vec<Unreadable>, Failure> {
        let mut unreadable = Vec::new();
        let mut copy = |source: &Source, name: &Path, access: Access| {
            work.go_on()?;
            match copy::file(work, source, &to.join(name), access)? {
                Some(why) if options.skip_unreadable => unreadable.push(why),
                Some(why) => return Err(Failure::Refused(format!("can't read {why}"))),
                None => {}
            }
            Ok(())
        };
        for (name, access) in &self.others.folders {
            copy::folder(&to.join(name), *access)?;
        }
        for other in &self.others.files {
            copy(&other.source, &other.name, other.access)?;
        }
        if let Some(Index { source, name, text }) = &self.index {
            let access = sources.of(&source.path)?.and(sources.folder);
            match text {
                Some(text) => copy::text(&to.join(name), text, access)?,
                None => copy(source, name, access)?,
            }
        }
        for edited in &self.edited {
            let access = sources.of(&edited.from)?.and(sources.folder);
            copy::text(&to.join(edited.name), &edited.text, access)?;
        }
        for taken in &self.travels.taken {
            if let Some(folder) = to.join(&taken.name).parent() {
                copy::folder(folder, sources.all)?;
            }
            let access = sources.of(&taken.from.path)?.and(sources.all);
            copy(&taken.from, Path::new(&taken.name), access)?;
        }
        Ok(unreadable)
    }

    /// Tells the report what else the result has than the base.
    pub fn tell(&self, report: &mut Report) {
        for edited in &self.edited {
            report.edited(edited.name, &edited.changes);
        }
        for taken in &self.travels.taken {
            report.taken_over(&taken.name, &taken.from.path, taken.replaces);
        }
        for warning in &self.warnings {
            report.warn(warning.clone());
        }
        report.left_out(self.left_out.clone());
        report.left_out(self.others.left_out.clone());
        report.unreadable(&self.unreadable);
    }
}

impl Index {
    fn new(
        path: &Path,
        home: &Arc<Home>,
        base: &BaseModel,
        changes: &Changes<'_>,
    ) -> Result<Self, Failure> {
        let source = Source::at(home, path.to_owned());
        let text = index::edited(&source, base, changes)?;
        Ok(Self {
            source,
            name: path.file_name().unwrap_or_default().into(),
            text,
        })
    }
}

/// Whether any merge may write a file of this path in the folder of its result: a model's weights,
/// their index, its configs, and what belongs to its tokenizer and processor.
pub fn is_of_a_model(path: &Path) -> bool {
    let in_root = path.components().count() == 1;
    let name = path.to_str().filter(|_| in_root);
    name.is_some_and(|name| base::is_models_file(name) || CONFIGS.contains(&name))
        || travels::is_known(path)
}

/// Whether any merge may make a folder of this path in the folder of its result.
pub fn is_folder_of_a_model(path: &Path) -> bool {
    path == Path::new(travels::TEMPLATES)
}

/// The first of what can't be read, each with the reason, and the number of the others.
fn listed(unreadable: &[Unreadable]) -> String {
    let texts: Vec<String> = unreadable.iter().map(Unreadable::to_string).collect();
    few(texts.iter().map(String::as_str))
}
