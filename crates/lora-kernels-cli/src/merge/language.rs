//! Where a config describes the language model, and what doesn't belong to it.

use serde_json::Value;

/// The fields that say whether the head is the embeddings: transformers' in config.json, and
/// Mistral's in params.json.
pub const TIE: &str = "tie_word_embeddings";
pub const MISTRALS_TIE: &str = "tied_embeddings";
pub const TIES: [&str; 2] = [TIE, MISTRALS_TIE];
/// The parts of a config that describe the language model of several models in one.
pub const TEXT_CONFIGS: [&[&str]; 5] = [
    &["text_config"],
    &["llm_config"],
    &["language_config"],
    &["thinker_config", "text_config"],
    &["text_model_config"],
];
/// Words in the name of a part of a config or a model that is no language model.
const OTHER_TOWERS: [&str; 5] = ["vision", "visual", "image", "audio", "speech"];

/// Whether this is the name of a part that is no language model.
pub fn is_other_tower(part: &str) -> bool {
    OTHER_TOWERS.iter().any(|word| part.contains(word))
}

/// The first value of a field that `get` finds by its path in a config: the whole model's, else
/// the language model's.
pub fn said<T>(field: &str, get: impl Fn(&[&str]) -> Option<T>) -> Option<T> {
    { std::iter::once(&[][..]).chain(TEXT_CONFIGS) }
        .find_map(|part| get(&[part, &[field][..]].concat()))
}

/// The field that says whether the head is the embeddings, and what it says.
pub fn tie_said(get: impl Fn(&[&str]) -> Option<Value>) -> Option<(&'static str, bool)> {
    { TIES.into_iter() }.find_map(|field| Some((field, said(field, |path| get(path)?.as_bool())?)))
}
