//! An adapter's own tokenizer, chat template, generation config and processor, which belong to the
//! merged model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use lora_kernels_adapters::Error;
use lora_kernels_adapters::base::Home;
use serde_json::Value;

use super::source::{Kind, LARGEST, Source, Unreadable, look};
use super::vocabulary;
use crate::failure::Failure;
use crate::merge::changes::Weighted;
use crate::show::few;

/// Further chat templates lie in a folder of their own.
pub const TEMPLATES: &str = "additional_chat_templates";
const TEMPLATE: &str = "chat_template.jinja";
/// Processors' files of older versions.
const TEMPLATE_JSON: &str = "chat_template.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Whose tokenizer and other files a merged model gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesFrom {
    Base,
    /// The number of the adapter, from 1.
    Adapter(usize),
}

impl FromStr for FilesFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "base" => Ok(Self::Base),
            Ok(number @ 1..) => Ok(Self::Adapter(number)),
            _ => Err("it must be base, or the number of an adapter, from 1".into()),
        }
    }
}

/// Files that are used together, so that all come from one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// With the chat template, which the tokenizer's config may hold.
    Tokenizer,
    Generation,
    Processor,
}

impl Group {
    const ALL: [Group; 3] = [Group::Tokenizer, Group::Generation, Group::Processor];

    fn of(name: &str) -> Option<Self> {
        const TOKENIZER: [&str; 25] = [
            "tokenizer.json",
            TOKENIZER_CONFIG,
            "special_tokens_map.json",
            "added_tokens.json",
            TEMPLATE,
            TEMPLATE_JSON,
            "vocab.json",
            "vocab.txt",
            "vocab.bpe",
            "vocab.model",
            "encoder.json",
            "merges.txt",
            "bpe.codes",
            "emoji.json",
            "normalizer.json",
            "spiece.model",
            "spm.model",
            "sentencepiece.model",
            "sentencepiece.bpe.model",
            "ice_text.model",
            "source.spm",
            "target.spm",
            "target_vocab.json",
            "tiktoken.model",
            "tekken.json",
        ];
        const PROCESSOR: [&str; 5] = [
            "preprocessor_config.json",
            "processor_config.json",
            "video_preprocessor_config.json",
            "image_processor_config.json",
            "feature_extractor_config.json",
        ];
        match name {
            "generation_config.json" => Some(Group::Generation),
            _ if PROCESSOR.contains(&name) => Some(Group::Processor),
            _ if TOKENIZER.contains(&name)
                // Mistral's tokenizer.model.v3, Qwen's qwen.tiktoken.
                || name.starts_with("tokenizer.model")
                || name.ends_with(".tiktoken") =>
            {
                Some(Group::Tokenizer)
            }
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Group::Tokenizer => "tokenizer",
            Group::Generation => "generation_config.json",
            Group::Processor => "processor",
        }
    }
}

/// A file of an adapter that is written beside the model.
pub struct Taken {
    /// Its path in the model's folder.
    pub name: String,
    pub from: Source,
    /// Whether the base's file of this name is left out.
    pub replaces: bool,
}

/// What the adapters' folders bring.
#[derive(Default)]
pub struct Travels {
    pub taken: Vec<Taken>,
    /// Files of the base that contradict those that were taken.
    pub dropped: BTreeSet<String>,
}

/// An adapter's files of one group that differ from the base's.
struct Brought {
    /// The adapter's place among the adapters, from 0.
    adapter: usize,
    /// All its files of the group, by their names.
    files: BTreeMap<String, Source>,
    /// The part of them that the base hasn't or has otherwise.
    changed: BTreeMap<String, Source>,
}

/// What was found out on the way.
#[derive(Default)]
pub struct Told {
    pub warnings: Vec<String>,
    pub unreadable: Vec<Unreadable>,
}

/// Whether a path in a model's folder is that of a file that can come from an adapter.
pub fn is_known(path: &Path) -> bool {
    let mut parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, None) => Group::of(name).is_some(),
        (Some(TEMPLATES), Some(name), None) => name.ends_with(".jinja"),
        _ => false,
    }
}

/// Finds the files to take over. A file of the base that has the same content, or the same JSON,
/// stays.
///
/// # Errors
/// Several adapters bring different ones, and `from` doesn't decide.
pub fn find(
    base: &Arc<Home>,
    adapters: &[Weighted<'_>],
    from: Option<FilesFrom>,
    told: &mut Told,
) -> Result<Travels, Failure> {
    let mut travels = Travels::default();
    if from == Some(FilesFrom::Base) {
        return Ok(travels);
    }
    for group in Group::ALL {
        let mut all = Vec::new();
        for (at, adapter) in adapters.iter().enumerate() {
            if from.is_some_and(|from| from != FilesFrom::Adapter(at + 1)) {
                continue;
            }
            let files = brought(adapter, group, told)?;
            let is_bases = |name: &str, file: &Source| {
                Source::named(base, name).is_some_and(|bases| file.is_same(&bases))
            };
            let changed: BTreeMap<String, Source> = { files.iter() }
                .filter(|(name, file)| !is_bases(name, file))
                .map(|(name, file)| (name.clone(), file.clone()))
                .collect();
            if !changed.is_empty() {
                all.push(Brought {
                    adapter: at,
                    files,
                    changed,
                });
            }
        }
        let Some((first, others)) = all.split_first() else {
            continue;
        };
        if let Some(other) = others
            .iter()
            .find(|other| !same_files(&first.changed, &other.changed))
        {
            let numbers: Vec<String> = all
                .iter()
                .map(|brought| (brought.adapter + 1).to_string())
                .collect();
            return Err(Failure::Refused(format!(
                "adapters {} and {} bring a different {} ({}): --files-from {} or \
                 base decides whose the merged model gets",
                first.adapter + 1,
                other.adapter + 1,
                group.name(),
                few(first
                    .changed
                    .keys()
                    .chain(other.changed.keys())
                    .map(String::as_str)
                    .collect::<BTreeSet<_>>()),
                numbers.join(", "),
            )));
        }
        travels.take(base, group, first, &mut told.warnings);
    }
    Ok(travels)
}

/// All files that the adapters bring for a merged model.
pub fn find_each(adapters: &[Weighted<'_>], told: &mut Told) -> Result<Vec<Source>, Failure> {
    let mut all = Vec::new();
    for adapter in adapters {
        for group in Group::ALL {
            all.extend(brought(adapter, group, told)?.into_values());
        }
    }
    Ok(all)
}

impl Travels {
    fn take(
        &mut self,
        base: &Arc<Home>,
        group: Group,
        brought: &Brought,
        warnings: &mut Vec<String>,
    ) {
        for (name, from) in &brought.changed {
            self.taken.push(Taken {
                name: name.clone(),
                from: from.clone(),
                replaces: is_in(base, name),
            });
        }
        if group != Group::Tokenizer {
            return;
        }
        self.drop_templates(base, brought, warnings);
        if !brought.files.contains_key(TOKENIZER_CONFIG) {
            return;
        }
        let bases = |name: &str| is_in(base, name) && !brought.files.contains_key(name);
        // These repeat what the tokenizer's two main files say, and would contradict them.
        if brought.changed.contains_key("tokenizer.json")
            || brought.changed.contains_key(TOKENIZER_CONFIG)
        {
            let repeating = ["special_tokens_map.json", "added_tokens.json"];
            let whole = brought.files.contains_key("tokenizer.json");
            self.dropped.extend(
                repeating
                    .into_iter()
                    .filter(|name| whole && bases(name))
                    .map(str::to_owned),
            );
        }
    }

    /// Leaves out the base's chat templates that a reader would take instead of the adapter's, or
    /// beside it.
    fn drop_templates(&mut self, base: &Arc<Home>, brought: &Brought, warnings: &mut Vec<String>) {
        let is_replaced = brought.changed.contains_key(TOKENIZER_CONFIG);
        let files = [TEMPLATE, TEMPLATE_JSON];
        let main = |file: &dyn Fn(&str) -> Option<Source>| {
            { files.into_iter().chain([TOKENIZER_CONFIG]) }
                .find_map(|name| template(name, &file(name)?))
        };
        let of_base = |name: &str| Source::named(base, name);
        let had = main(&of_base);
        let Some(ours) = main(&|name| brought.files.get(name).cloned()) else {
            let in_config = { of_base(TOKENIZER_CONFIG) }
                .is_some_and(|config| template(TOKENIZER_CONFIG, &config).is_some());
            if in_config && is_replaced && !files.iter().any(|name| of_base(name).is_some()) {
                warnings.push(format!(
                    "the adapter's {TOKENIZER_CONFIG} was taken over, and has no chat \
                     template, which the base's has"
                ));
            }
            return;
        };
        if had.as_ref() == Some(&ours) {
            return;
        }
        for name in files {
            let differs = |file: Source| template(name, &file).as_ref() != Some(&ours);
            if !brought.files.contains_key(name) && of_base(name).is_some_and(differs) {
                self.dropped.insert(name.to_owned());
            }
        }
        // Readers take these instead of the template in the tokenizer's config.
        let further = list(
            &base.folder().join(TEMPLATES),
            &format!("{TEMPLATES}/"),
            &mut |name, _| {
                if !brought.files.contains_key(name) {
                    self.dropped.insert(name.to_owned());
                }
            },
        );
        // The base may have none.
        let _ = further;
        let is_read =
            { [TEMPLATE, TOKENIZER_CONFIG].iter() }.any(|name| brought.files.contains_key(*name));
        let contradicts = |config: Source| {
            template(TOKENIZER_CONFIG, &config).is_some_and(|template| template != ours)
        };
        if !is_read && of_base(TOKENIZER_CONFIG).is_some_and(contradicts) {
            warnings.push(format!(
                "the adapter's {TEMPLATE_JSON} was taken over, and the base's {TOKENIZER_CONFIG} \
                 has another chat template, which tokenizers read"
            ));
        }
    }

    /// The rows that the taken tokenizer needs, and the file that says so.
    pub fn rows_needed(&self) -> Option<(u64, &str)> {
        { self.taken.iter() }
            .filter_map(|taken| Some((vocabulary::needed(&taken.from)?, taken.name.as_str())))
            .max()
    }
}

/// The chat template in a file of this name: a text, or a list of several with their names. A list
/// of one is its text.
fn template(name: &str, file: &Source) -> Option<Value> {
    let text = file.read_text(LARGEST).ok()?;
    if name == TEMPLATE {
        return Some(Value::String(text));
    }
    let mut document: Value = serde_json::from_str(&text).ok()?;
    let template = document.get_mut("chat_template")?.take();
    match &template {
        Value::Null => None,
        Value::Array(list) => match &list[..] {
            [] => None,
            [only] if only["name"] == "default" => Some(only["template"].clone()),
            _ => Some(template),
        },
        _ => Some(template),
    }
}

/// The adapter's files of a group: those beside its tensors, or else those in the folder that was
/// named as the adapter, which may hold it in a subfolder.
fn brought(
    adapter: &Weighted<'_>,
    group: Group,
    told: &mut Told,
) -> Result<BTreeMap<String, Source>, Failure> {
    let named = { Some(adapter.path) }
        .filter(|path| path.is_dir() && adapter.adapter.folder() != Some(path));
    for folder in adapter.adapter.folder().into_iter().chain(named) {
        let home = Arc::new(home(folder, adapter)?);
        let mut files = BTreeMap::new();
        list(folder, "", &mut |name, path| {
            let of_group = match name.strip_prefix(&format!("{TEMPLATES}/")) {
                Some(template) if template.ends_with(".jinja") => Some(Group::Tokenizer),
                Some(_) => None,
                None => Group::of(name),
            };
            if of_group != Some(group) {
                let is_code = ["tokenization", "processing"]
                    .iter()
                    .any(|start| name.starts_with(start));
                if group == Group::Tokenizer && is_code && name.ends_with(".py") {
                    told.warnings.push(format!(
                        "{} is code, and was not taken over: copy it yourself if the \
                         tokenizer needs it",
                        path.display()
                    ));
                }
                return;
            }
            let mut unreadable = |reason: String| {
                told.unreadable.push(Unreadable {
                    path: path.clone(),
                    reason,
                });
            };
            match look(&home, &path) {
                Kind::File(file) if file.is_too_large() => told.warnings.push(format!(
                    "{} is larger than {} MB, and was not taken over",
                    path.display(),
                    LARGEST >> 20
                )),
                Kind::File(file) => {
                    files.insert(name.to_owned(), file);
                }
                Kind::Outside => told.warnings.push(format!(
                    "{} is a link that leads out of the adapter's folder, and was not taken over",
                    path.display()
                )),
                Kind::Other(what) => unreadable(format!("{what}, not a file")),
                Kind::Unreadable(why) => unreadable(why.reason),
            }
        })?;
        if !files.is_empty() {
            return Ok(files);
        }
    }
    Ok(BTreeMap::new())
}

/// The home of an adapter's folder, or of the folder that was named and holds it further below.
fn home(folder: &Path, adapter: &Weighted<'_>) -> Result<Home, Failure> {
    let tensors = adapter.adapter.file().path();
    let name = { tensors.file_name() }.and_then(|name| name.to_str());
    let lies_there = name.filter(|name| folder.join(name) == tensors);
    match Home::with_weights(folder, lies_there.as_slice()) {
        // The tensors were named themselves.
        Err(Error::Outside { .. }) => Ok(Home::of(folder)?),
        home => Ok(home?),
    }
}

fn is_in(home: &Arc<Home>, name: &str) -> bool {
    Source::named(home, name).is_some()
}

/// Calls `found` with the names and paths of a folder's files and of its chat templates.
fn list(folder: &Path, below: &str, found: &mut dyn FnMut(&str, PathBuf)) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::Refused(format!("can't read {}: {error}", folder.display()))
    };
    let mut entries = folder
        .read_dir()
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str().map(|name| format!("{below}{name}")) else {
            continue;
        };
        match path.is_dir() {
            false => found(&name, path),
            true if below.is_empty() && name == TEMPLATES => {
                list(&path, &format!("{TEMPLATES}/"), found)?;
            }
            true => {}
        }
    }
    Ok(())
}

/// Whether both folders' files have the same names and contents.
fn same_files(ours: &BTreeMap<String, Source>, theirs: &BTreeMap<String, Source>) -> bool {
    ours.len() == theirs.len() && { ours.iter() }
        .all(|(name, file)| theirs.get(name).is_some_and(|other| file.is_same(other)))
}
