//! Heads that were added to a model, and whether config.json names a class that reads them.

use std::sync::Arc;

use lora_kernels_adapters::BaseModel;
use lora_kernels_adapters::base::{Home, LARGEST_CONFIG};
use serde_json::Value;

use super::config::CONFIG;
use super::edit::Document;
use super::source::Source;
use crate::merge::change::{Changes, ConfigEdit};
use crate::merge::changes::is_head;
use crate::merge::language::{TIE, tie_said};

/// Warns of an added head that config.json's class doesn't read. `task` is what the adapter's
/// config calls its task, such as `SEQ_CLS`.
pub fn warn(
    home: Option<&Arc<Home>>,
    base: &BaseModel,
    changes: &Changes<'_>,
    task: Option<&str>,
    warnings: &mut Vec<String>,
) {
    let source = home.and_then(|home| Source::named(home, CONFIG));
    let document = source.and_then(|source| Document::read(&source, LARGEST_CONFIG).ok());
    let classes = { document.as_ref() }
        .and_then(|document| document.get(&["architectures"]))
        .unwrap_or_default();
    let classes: Vec<&str> = classes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Changes {
        added,
        config: edits,
        ..
    } = changes;
    let follows = |edit: &ConfigEdit| matches!(edit, ConfigEdit::TieWordEmbeddings(_));
    let untied = edits.iter().any(follows);
    for added in added {
        let Some(module) = added.name.strip_suffix(".weight") else {
            continue;
        };
        // A tensor of a module that the base has, such as a bias, makes no other class.
        if base.below(module).next().is_some() {
            continue;
        }
        if module.ends_with("lm_head") || (untied && is_head(&added.name)) {
            // transformers' classes that end with Model have no head, GPT2LMHeadModel excepted.
            let lacks = |class: &&str| class.ends_with("Model") && !class.ends_with("LMHeadModel");
            if !classes.is_empty() && classes.iter().all(lacks) {
                warnings.push(format!(
                    "{} was added, and config.json names {}, which has no head: set its \
                     architectures to the class that has",
                    added.name,
                    classes.join(", ")
                ));
            }
            let ties = document.as_ref().is_none_or(ties_embeddings);
            if ties && !untied {
                warnings.push(format!(
                    "{} was added, and config.json doesn't say that {TIE} is false: unless it is \
                     set so, a reader may take the embeddings in its place",
                    added.name
                ));
            }
            continue;
        }
        let Some(wanted) = class(module, task) else {
            warnings.push(format!(
                "{} was added: the class that config.json names{} must have a module {module}",
                added.name,
                named(&classes)
            ));
            continue;
        };
        let fits = classes.iter().any(|class| class.ends_with(wanted));
        let labels = added.from.shape.first().copied().unwrap_or_default();
        let labelled = matches!(wanted, SEQUENCES | TOKENS);
        let says = document.as_ref().map_or(2, labels_of);
        if fits && (!labelled || says == labels as u64) {
            continue;
        }
        let mut set = Vec::new();
        if !fits {
            let example = classes
                .first()
                .and_then(|class| family(class))
                .unwrap_or("...");
            set.push(format!("architectures to [\"{example}{wanted}\"]"));
        }
        if labelled && says != labels as u64 {
            set.push(format!("num_labels to {labels}"));
        }
        warnings.push(format!(
            "{} was added, and {} doesn't load it as the adapter was trained{}: set its {}",
            added.name,
            if document.is_some() {
                "config.json"
            } else {
                "without a config.json, a reader"
            },
            if fits { String::new() } else { named(&classes) },
            set.join(" and its ")
        ));
    }
}

const SEQUENCES: &str = "ForSequenceClassification";
const TOKENS: &str = "ForTokenClassification";
const ANSWERS: &str = "ForQuestionAnswering";

/// The end of the name of transformers' classes that have this head.
fn class(module: &str, task: Option<&str>) -> Option<&'static str> {
    let is = |names: &[&str]| module.split('.').any(|part| names.contains(&part));
    if is(&["qa_outputs"]) {
        return Some(ANSWERS);
    }
    if !is(&["score", "classifier", "classification_head"]) {
        return None;
    }
    Some(match task {
        Some("TOKEN_CLS") => TOKENS,
        Some("QUESTION_ANS") => ANSWERS,
        _ => SEQUENCES,
    })
}

/// Whether this model's head may be tied to its embeddings. transformers ties them unless the
/// config says otherwise.
fn ties_embeddings(document: &Document) -> bool {
    tie_said(|path| document.get(path)).is_none_or(|(_, ties)| ties)
}

/// `Llama` of `LlamaForCausalLM` and `LlamaModel`.
fn family(class: &str) -> Option<&str> {
    let end = class
        .find("For")
        .or_else(|| class.strip_suffix("Model").map(str::len))?;
    Some(&class[..end]).filter(|family| !family.is_empty())
}

/// The number of labels that transformers takes from a config.
fn labels_of(document: &Document) -> u64 {
    let labels = document.get(&["id2label"]);
    { labels.as_ref() }
        .and_then(Value::as_object)
        .map(|labels| labels.len() as u64)
        .or_else(|| document.get(&["num_labels"])?.as_u64())
        .unwrap_or(2)
}

fn named(classes: &[&str]) -> String {
    match classes {
        [] => String::new(),
        _ => format!(" ({})", classes.join(", ")),
    }
}
