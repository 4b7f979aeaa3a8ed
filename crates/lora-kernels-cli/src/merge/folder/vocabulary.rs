//! Whether a tokenizer's tokens have rows in the embeddings.

use std::collections::BTreeMap;
use std::fmt;

use lora_kernels_adapters::BaseModel;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::source::{LARGEST, Source};
use crate::merge::change::{Changes, ConfigEdit};
use crate::merge::changes::is_embedding;
use crate::merge::language::is_other_tower;

/// The rows of the result's embeddings of tokens, if it has such.
pub fn rows(base: &BaseModel, changes: &Changes<'_>) -> Option<usize> {
    let resized = changes.config.iter().find_map(|edit| match edit {
        ConfigEdit::VocabSize { to, .. } => Some(*to),
        ConfigEdit::TieWordEmbeddings(_) => None,
    });
    let stored = || {
        let all = { base.names() }
            .filter(|name| is_embedding(name) && !name.split('.').any(is_other_tower));
        all.filter_map(|name| base.tensor(name)?.1.shape.first().copied())
            .max()
    };
    resized.or_else(stored)
}

/// The number of rows that a tokenizer's tokens need, by its `tokenizer.json` or
/// `added_tokens.json`. `None` for another file, or one that can't be read so.
pub fn needed(file: &Source) -> Option<u64> {
    let text = || file.read_text(LARGEST).ok();
    match file.path.file_name()?.to_str()? {
        "tokenizer.json" => {
            let tokenizer: Tokenizer = serde_json::from_str(&text()?).ok()?;
            let added = tokenizer
                .added_tokens
                .iter()
                .map(|token| token.id.saturating_add(1));
            added.chain([tokenizer.model.vocab.0]).max()
        }
        "added_tokens.json" => {
            let added: BTreeMap<String, u64> = serde_json::from_str(&text()?).ok()?;
            added.into_values().max().map(|id| id.saturating_add(1))
        }
        _ => None,
    }
}

#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<Token>,
    #[serde(default)]
    model: Model,
}

#[derive(Deserialize)]
struct Token {
    id: u64,
}

#[derive(Deserialize, Default)]
struct Model {
    #[serde(default)]
    vocab: Vocabulary,
}

/// One more than the largest id of an object of ids, or of the positions in a list.
#[derive(Default)]
struct Vocabulary(u64);

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of ids or a list of tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut needed = 0;
                while let Some((IgnoredAny, id)) = map.next_entry::<IgnoredAny, u64>()? {
                    needed = needed.max(id.saturating_add(1));
                }
                Ok(Vocabulary(needed))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut needed = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    needed += 1;
                }
                Ok(Vocabulary(needed))
            }
        }
        deserializer.deserialize_any(Ids)
    }
}
