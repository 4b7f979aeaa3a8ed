//! config.json, which follows the changes of the tensors.

use std::path::PathBuf;
use std::sync::Arc;

use lora_kernels_adapters::base::{Home, LARGEST_CONFIG};
use serde_json::{Value, json};

use super::edit::{Document, Field};
use super::source::Source;
use crate::failure::Failure;
use crate::merge::change::ConfigEdit;
use crate::merge::language::{MISTRALS_TIE, TEXT_CONFIGS, TIE, TIES, is_other_tower};

pub const CONFIG: &str = "config.json";
/// Files that describe a model, Hugging Face's and Mistral's.
pub const CONFIGS: [&str; 2] = [CONFIG, "params.json"];
/// The fields that hold the number of rows of the embeddings. ChatGLM's is the second.
const VOCAB_SIZE: [&str; 2] = ["vocab_size", "padded_vocab_size"];

/// A config's new text.
pub struct Edited {
    pub name: &'static str,
    /// The base's.
    pub from: PathBuf,
    pub text: String,
    /// The changes, for the report: `vocab_size is 34 instead of 32`.
    pub changes: Vec<String>,
}

/// Carries the edits out on the configs of a model's folder. What no config says is a warning.
pub fn edited(
    home: Option<&Arc<Home>>,
    edits: &[ConfigEdit],
    warnings: &mut Vec<String>,
) -> Result<Vec<Edited>, Failure> {
    let mut all = Vec::new();
    if !edits.is_empty() {
        for name in CONFIGS {
            if let Some(source) = home.and_then(|home| Source::named(home, name)) {
                let document = Document::read(&source, LARGEST_CONFIG)?;
                all.push((name, source.path, document, Vec::new()));
            }
        }
    }
    for edit in edits {
        let mut follows = false;
        let mut other = None;
        for (name, _, document, changes) in &mut all {
            let result = match *edit {
                ConfigEdit::VocabSize { from, to } => {
                    vocab_size(document, *name == CONFIG, from, to, changes)
                }
                ConfigEdit::TieWordEmbeddings(tie) => {
                    tie_word_embeddings(document, *name == CONFIG, tie, changes)
                }
            };
            match result {
                Ok(found) => follows |= found,
                Err(value) => other = Some((*name, value)),
            }
        }
        if !follows {
            let (field, wanted) = match edit {
                ConfigEdit::VocabSize { to, .. } => ("vocab_size", to.to_string()),
                ConfigEdit::TieWordEmbeddings(tie) => {
                    let is_mistrals = matches!(&all[..], [(name, ..)] if *name != CONFIG);
                    let field = if is_mistrals { MISTRALS_TIE } else { TIE };
                    (field, tie.to_string())
                }
            };
            warnings.push(match (other, all.first()) {
                (Some((name, value)), _) => format!(
                    "{name} says that {field} is {value}, which the base's tensors don't: \
                     set it to {wanted}"
                ),
                (None, Some((name, ..))) => {
                    format!("{name} must say that {field} is {wanted}, and doesn't")
                }
                (None, None) => format!(
                    "no config.json lies beside the base: the result's must say that {field} is \
                     {wanted}"
                ),
            });
        }
    }
    let edited = all.into_iter().filter(|(.., changes)| !changes.is_empty());
    Ok({ edited }
        .map(|(name, from, document, changes)| Edited {
            name,
            from,
            text: document.into_text(),
            changes,
        })
        .collect())
}

/// Whether the config says `to` afterwards, or the other value that it says.
fn vocab_size(
    document: &mut Document,
    may_add: bool,
    from: usize,
    to: usize,
    changes: &mut Vec<String>,
) -> Result<bool, Value> {
    let of_text = |key| document.fields_called(key).into_iter().filter(is_of_text);
    let fields: Vec<Field> = VOCAB_SIZE.into_iter().flat_map(of_text).collect();
    let mut follows = fields.iter().any(|field| field.value == json!(to));
    for field in fields.iter().filter(|field| field.value == json!(from)) {
        put(document, &field.path, &json!(to), changes);
        follows = true;
    }
    match fields.into_iter().next() {
        _ if follows => Ok(true),
        Some(field) => Err(field.value),
        None if may_add => {
            let text = { TEXT_CONFIGS }
                .into_iter()
                .find(|path| is_object(document, path));
            let path: Vec<String> = { text.unwrap_or_default().iter() }
                .chain([&"vocab_size"])
                .map(|key| (*key).to_owned())
                .collect();
            put(document, &path, &json!(to), changes);
            Ok(true)
        }
        None => Ok(false),
    }
}

fn tie_word_embeddings(
    document: &mut Document,
    may_add: bool,
    tie: bool,
    changes: &mut Vec<String>,
) -> Result<bool, Value> {
    let of_text = |key| document.fields_called(key).into_iter().filter(is_of_text);
    let fields: Vec<Field> = TIES.into_iter().flat_map(of_text).collect();
    if !may_add && fields.is_empty() {
        return Ok(false);
    }
    let mut paths: Vec<Vec<String>> = { fields.into_iter() }
        .filter(|field| field.value != json!(tie))
        .map(|field| field.path)
        .collect();
    if may_add {
        // Readers look at the whole model's config or at the language model's; both have defaults.
        let objects = TEXT_CONFIGS
            .into_iter()
            .filter(|path| is_object(document, path));
        for object in objects.chain([&[][..]]) {
            let path: Vec<&str> = object.iter().copied().chain([TIE]).collect();
            if document.get(&path).is_none() {
                paths.push(path.into_iter().map(str::to_owned).collect());
            }
        }
    }
    for path in paths {
        put(document, &path, &json!(tie), changes);
    }
    Ok(true)
}

fn put(document: &mut Document, path: &[String], value: &Value, changes: &mut Vec<String>) {
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    let before = document.get(&keys);
    if before.as_ref() == Some(value) || !document.set(&keys, value) {
        return;
    }
    let name = keys.join(".");
    changes.push(match before {
        Some(before) => format!("{name} is {value} instead of {before}"),
        None => format!("{name} is {value}"),
    });
}

fn is_object(document: &Document, path: &[&str]) -> bool {
    document.get(path).is_some_and(|value| value.is_object())
}

fn is_of_text(field: &Field) -> bool {
    let objects = &field.path[..field.path.len().saturating_sub(1)];
    !objects.iter().any(|key| is_other_tower(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESIZED: ConfigEdit = ConfigEdit::VocabSize { from: 32, to: 34 };

    /// The config's new text and the warnings.
    fn edited_text(name: &str, text: &str, edits: &[ConfigEdit]) -> (Option<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), text).unwrap();
        let mut warnings = Vec::new();
        let home = Arc::new(Home::of(folder.path()).unwrap());
        let mut all = edited(Some(&home), edits, &mut warnings).unwrap();
        assert!(all.len() < 2);
        (all.pop().map(|edited| edited.text), warnings)
    }

    /// The sizes of other towers' vocabularies and of other models' stay.
    #[test]
    fn the_vocabularys_size_is_changed_where_it_was_the_bases() {
        for (before, after) in [
            (r#"{"vocab_size": 32}"#, r#"{"vocab_size": 34}"#),
            (
                r#"{"text_config": {"vocab_size": 32}, "vision_config": {"vocab_size": 32}}"#,
                r#"{"text_config": {"vocab_size": 34}, "vision_config": {"vocab_size": 32}}"#,
            ),
            (
                r#"{"vocab_size": 32, "text_config": {"vocab_size": 32}, "aux": {"vocab_size": 9}}"#,
                r#"{"vocab_size": 34, "text_config": {"vocab_size": 34}, "aux": {"vocab_size": 9}}"#,
            ),
            (
                r#"{"thinker_config": {"text_config": {"vocab_size": 32}}}"#,
                r#"{"thinker_config": {"text_config": {"vocab_size": 34}}}"#,
            ),
            (
                r#"{"padded_vocab_size": 32}"#,
                r#"{"padded_vocab_size": 34}"#,
            ),
            // Gemma 3's config leaves the size to transformers' default.
            ("{}", r#"{"vocab_size": 34}"#),
            (
                r#"{"text_config": {}}"#,
                r#"{"text_config": {"vocab_size": 34}}"#,
            ),
        ] {
            let (text, warnings) = edited_text(CONFIG, before, &[RESIZED]);
            assert_eq!(text.as_deref(), Some(after));
            assert_eq!(warnings, [""; 0]);
        }
        let (text, warnings) = edited_text("params.json", r#"{"vocab_size": 32}"#, &[RESIZED]);
        assert_eq!(text.as_deref(), Some(r#"{"vocab_size": 34}"#));
        assert_eq!(warnings, [""; 0]);
        // Set by hand before.
        let (text, warnings) = edited_text(CONFIG, r#"{"vocab_size": 34}"#, &[RESIZED]);
        assert_eq!((text, warnings), (None, Vec::new()));
    }

    #[test]
    fn what_no_config_says_is_a_warning() {
        let (text, warnings) = edited_text(CONFIG, r#"{"vocab_size": 40}"#, &[RESIZED]);
        assert_eq!(text, None);
        assert!(warnings[0].contains("vocab_size is 40") && warnings[0].contains("set it to 34"));
        for (name, text) in [("other.json", "{}"), ("params.json", "{}")] {
            let (text, warnings) = edited_text(name, text, &[RESIZED]);
            assert_eq!(text, None);
            assert!(
                warnings[0].contains("must say that vocab_size is 34"),
                "{warnings:?}"
            );
        }
        let mut warnings = Vec::new();
        let untied = [ConfigEdit::TieWordEmbeddings(false)];
        assert!(edited(None, &untied, &mut warnings).unwrap().is_empty());
        assert!(
            warnings[0].contains("tie_word_embeddings is false"),
            "{warnings:?}"
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG), "{").unwrap();
        let home = Arc::new(Home::of(folder.path()).unwrap());
        assert!(edited(Some(&home), &untied, &mut warnings).is_err());
        assert!(edited(Some(&home), &[], &mut warnings).unwrap().is_empty());
    }

    /// A reader takes the whole model's field or the language model's, and both have defaults.
    #[test]
    fn untying_is_said_wherever_readers_look() {
        let untied = [ConfigEdit::TieWordEmbeddings(false)];
        for (before, after) in [
            (
                r#"{"tie_word_embeddings": true}"#,
                r#"{"tie_word_embeddings": false}"#,
            ),
            ("{}", r#"{"tie_word_embeddings": false}"#),
            (
                r#"{"text_config": {"tie_word_embeddings": true}, "vision_config": {"tie_word_embeddings": true}}"#,
                r#"{"text_config": {"tie_word_embeddings": false}, "vision_config": {"tie_word_embeddings": true}, "tie_word_embeddings": false}"#,
            ),
        ] {
            let (text, warnings) = edited_text(CONFIG, before, &untied);
            assert_eq!(text.as_deref(), Some(after));
            assert_eq!(warnings, [""; 0]);
        }
        // Mistral's has a field of its own.
        let (text, warnings) = edited_text("params.json", r#"{"tied_embeddings": true}"#, &untied);
        assert_eq!(text.as_deref(), Some(r#"{"tied_embeddings": false}"#));
        assert_eq!(warnings, [""; 0]);
        let (text, warnings) = edited_text("params.json", "{}", &untied);
        assert_eq!(text, None);
        assert!(
            warnings[0].contains("params.json must say that tied_embeddings is false"),
            "{warnings:?}"
        );
        let both = [untied[0], RESIZED];
        let (text, _) = edited_text(CONFIG, r#"{"vocab_size": 32}"#, &both);
        assert_eq!(
            text.as_deref(),
            Some(r#"{"vocab_size": 34, "tie_word_embeddings": false}"#)
        );
    }
}
