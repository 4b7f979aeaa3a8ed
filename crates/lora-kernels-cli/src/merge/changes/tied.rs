//! Heads that are tied to the embedding: the model stores one matrix and uses it as both.

use lora_kernels_adapters::{BaseModel, Tensor};

use super::vocabulary::{is_embedding, is_head};
use super::{Finder, Target, refuse};
use crate::failure::Failure;
use crate::merge::Direction;
use crate::merge::change::{Added, Change, ConfigEdit};
use crate::merge::numbers::same_within_types;

/// What a base says of its embedding and its head.
pub struct Tie<'a> {
    /// `tie_word_embeddings` in config.json. transformers ties where it is absent.
    stated: Option<bool>,
    embedding: Option<(&'a str, Tensor<'a>)>,
    /// The stored head.
    head: Option<(&'a str, Tensor<'a>)>,
    /// Whether the model may have a head beyond its tensors: its config doesn't name a class
    /// without one.
    may_have_head: bool,
}

impl<'a> Tie<'a> {
    pub fn of(base: &'a BaseModel) -> Self {
        let config = base.config();
        let says = |part: Option<&str>| {
            let config = config?;
            let config = part.map_or(Some(config), |part| config.get(part))?;
            config.get("tie_word_embeddings")?.as_bool()
        };
        let stated = says(None)
            .or_else(|| says(Some("text_config")))
            .or_else(|| says(Some("llm_config")))
            .or_else(|| says(Some("language_config")));
        let matrices = || {
            { base.names() }.filter_map(|name| {
                let tensor = base.tensor(name)?.1;
                (tensor.shape.len() == 2 && name.ends_with(".weight")).then_some((name, tensor))
            })
        };
        let embeddings: Vec<_> = matrices().filter(|(name, _)| is_embedding(name)).collect();
        let heads: Vec<_> = matrices().filter(|(name, _)| is_head(name)).collect();
        let embedding = match embeddings[..] {
            [only] => Some(only),
            // T5 and BART store the shared embedding once more for the encoder and the decoder.
            _ => { embeddings.iter().copied() }
                .find(|(name, _)| *name == "shared.weight" || name.ends_with(".shared.weight")),
        };
        let head = { heads.into_iter() }
            .find(|(_, head)| embedding.is_none_or(|(_, embedding)| embedding.shape == head.shape));
        let classes = { config }.and_then(|config| config.get("architectures")?.as_array());
        let may_have_head = classes.is_none_or(|classes| {
            { classes.iter() }
                .filter_map(|class| class.as_str())
                .any(has_head)
        });
        Self {
            stated,
            embedding,
            head,
            may_have_head,
        }
    }
}

/// Whether a class of transformers has a head over the vocabulary.
fn has_head(class: &str) -> bool {
    [
        "CausalLM",
        "LMHead",
        "ConditionalGeneration",
        "MaskedLM",
        "PreTraining",
    ]
    .iter()
    .any(|part| class.contains(part))
}

/// The name of the head that belongs to an embedding: `lm_head.weight` for
/// `model.embed_tokens.weight`, `language_model.lm_head.weight` for
/// `language_model.model.embed_tokens.weight`. `wanted` is the head's name in the adapter.
fn head_name(embedding: &str, wanted: &str) -> String {
    /// Paths of embeddings in the model that has the head.
    const INSIDE: [&str; 14] = [
        "model.language_model.embed_tokens",
        "model.text_model.embed_tokens",
        "model.decoder.embed_tokens",
        "model.embed_tokens",
        "model.shared",
        "transformer.word_embeddings",
        "transformer.wte",
        "transformer.embedding.word_embeddings",
        "gpt_neox.embed_in",
        "backbone.embeddings",
        "backbone.embedding",
        "embed_tokens",
        "tok_embeddings",
        "wte",
    ];
    /// Heads whose paths have two parts.
    const LONG: [&str; 2] = ["cls.predictions.decoder", "lm_head.decoder"];
    let path = wanted.strip_suffix(".weight").unwrap_or(wanted);
    let tail = { LONG.into_iter() }
        .find(|long| ends_with(path, long))
        .unwrap_or_else(|| path.rsplit('.').next().unwrap_or(path));
    let embedding = embedding.strip_suffix(".weight").unwrap_or(embedding);
    let inside = INSIDE
        .into_iter()
        .find(|inside| ends_with(embedding, inside));
    let prefix = match inside {
        Some(inside) => embedding.strip_suffix(inside).unwrap_or_default(),
        None => "",
    };
    format!("{prefix}{tail}.weight")
}

/// Whether a path ends with these parts.
fn ends_with(path: &str, parts: &str) -> bool {
    { path.strip_suffix(parts) }.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

impl<'a> Finder<'a, '_> {
    /// The head that the adapter calls `wanted`, if the base stores it as its embedding only. It
    /// is added to the model.
    pub(super) fn tied_head(&mut self, wanted: &str) -> Result<Option<Target<'a>>, Failure> {
        let is_wanted = wanted.ends_with(".weight") && is_head(wanted);
        let Some((embedding, tensor)) = self.tie.embedding.filter(|_| is_wanted) else {
            return Ok(None);
        };
        if self.tie.head.is_some() || self.tie.stated == Some(false) {
            return Ok(None);
        }
        if self.choices.direction == Direction::Unmerge {
            return refuse(format!(
                "{wanted} is not in the base model, whose head is tied to {embedding}: merging this \
                 adapter writes the head apart, so this isn't its result"
            ));
        }
        let name = head_name(embedding, wanted);
        let at = { self.changes.added.iter() }.position(|added| added.name == name);
        Ok(Some(match at {
            Some(at) => Target::Added { name, at },
            None => self.add(Added {
                name,
                from: tensor,
                change: Change::default(),
            }),
        }))
    }

    /// Decides what becomes of a tied head after all adapters are collected.
    pub(super) fn tied(&mut self) -> Result<(), Failure> {
        if self.choices.untie && self.choices.direction == Direction::Unmerge {
            return refuse(
                "--untie is for merge: unmerge has only the changed embedding to write as a head"
                    .into(),
            );
        }
        if self.choices.untie && self.tie.stated == Some(false) {
            return refuse(
                "--untie: config.json says tie_word_embeddings is false, so the head is apart \
                 already"
                    .into(),
            );
        }
        let Some((embedding, before)) = self.tie.embedding else {
            return match self.choices.untie {
                true => refuse(
                    "--untie: no embedding was found in BASE by its name, such as \
                     model.embed_tokens.weight"
                        .into(),
                ),
                false => {
                    self.apart_if_added();
                    Ok(())
                }
            };
        };
        match self.tie.head {
            Some(head) => self.stored(embedding, before, head),
            None => self.unstored(embedding, before),
        }
    }

    /// A head that was added is no embedding.
    fn apart_if_added(&mut self) {
        let is_matrix =
            |added: &&Added<'_>| is_head(&added.name) && added.name.ends_with(".weight");
        let head = self.changes.added.iter().find(is_matrix);
        let Some(head) = head.filter(|_| self.tie.stated != Some(false)) else {
            return;
        };
        let warning = format!(
            "{} is stored apart from the embeddings from now on, so tie_word_embeddings becomes \
             false",
            head.name
        );
        self.warn(warning);
        let edits = &mut self.changes.config;
        edits.push(ConfigEdit::TieWordEmbeddings(false));
    }

    /// The base has no head of its own.
    fn unstored(&mut self, embedding: &'a str, before: Tensor<'a>) -> Result<(), Failure> {
        let after = self.outcome(embedding, before);
        let is_tied_head = |added: &Added<'_>| is_head(&added.name) && added.from.name == embedding;
        self.changes.added.retain(|added| {
            let change = &added.change;
            let same = match change.replaced {
                _ if !change.loras.is_empty() || !change.rows.is_empty() => false,
                None => true,
                Some(head) => after.is_some_and(|after| {
                    after.shape == head.shape && same_within_types(&after, &head)
                }),
            };
            !is_tied_head(added) || !same
        });
        let changed = self.changed(embedding);
        let mut written = { self.changes.added.iter() }
            .any(|added| is_head(&added.name) && added.name.ends_with(".weight"));
        if !written && self.choices.untie {
            self.changes.added.push(Added::whole(
                head_name(embedding, default_head(embedding)),
                before,
            ));
            written = true;
        }
        if written {
            self.apart_if_added();
        } else if changed && self.tie.stated != Some(false) && self.tie.may_have_head {
            self.warn(format!(
                "{embedding} is changed, and the head with it, because the model ties them \
                 (tie_word_embeddings); --untie writes the head apart, as it was"
            ));
        }
        Ok(())
    }

    /// The base has a head. It may be a copy of the embedding, which readers that tie don't read.
    fn stored(
        &mut self,
        embedding: &'a str,
        before: Tensor<'a>,
        (head, head_before): (&'a str, Tensor<'a>),
    ) -> Result<(), Failure> {
        if self.tie.stated == Some(false) {
            return Ok(());
        }
        let (embedding_changed, head_changed) = (self.changed(embedding), self.changed(head));
        if !embedding_changed && !head_changed && !self.choices.untie {
            return Ok(());
        }
        let is_copy = head_before.shape == before.shape && same_within_types(&head_before, &before);
        let apart = match (head_changed, self.choices.untie) {
            (true, _) => {
                let ends = (
                    self.outcome(embedding, before),
                    self.outcome(head, head_before),
                );
                !matches!(ends, (Some(a), Some(b)) if a.shape == b.shape && same_within_types(&a, &b))
            }
            (false, untie) => untie,
        };
        if apart {
            self.changes
                .config
                .push(ConfigEdit::TieWordEmbeddings(false));
        } else if !head_changed && is_copy {
            let change = match self.in_base(embedding)? {
                Target::Base { shard, name, .. } => self.changes.of(shard, name).cloned(),
                Target::Added { .. } => None,
            };
            let target = self.in_base(head)?;
            *self.change(&target) = change.unwrap_or_default();
            self.warn(format!(
                "{embedding} is changed, and {head} with it, because it is a copy of it in BASE \
                 (tied embeddings); --untie keeps the head as it was"
            ));
        } else if !head_changed && self.tie.stated == Some(true) {
            self.warn(format!(
                "{embedding} is changed, and config.json says that the head is tied to it \
                 (tie_word_embeddings), while BASE has another {head}; --untie sets it to false"
            ));
        }
        Ok(())
    }

    /// What becomes of a tensor of the base, if that is a tensor as it is: the base's own, or one
    /// that replaces it.
    fn outcome(&self, name: &str, before: Tensor<'a>) -> Option<Tensor<'a>> {
        let Some(change) =
            { self.base.tensor(name) }.and_then(|(shard, _)| self.changes.of(shard, name))
        else {
            return Some(before);
        };
        let computed = !change.loras.is_empty() || !change.rows.is_empty();
        (!computed).then(|| change.replaced.unwrap_or(before))
    }

    fn changed(&self, name: &str) -> bool {
        { self.base.tensor(name) }.is_some_and(|(shard, _)| self.changes.of(shard, name).is_some())
    }
}

/// The head's usual name beside an embedding of this name.
fn default_head(embedding: &str) -> &'static str {
    let path = embedding.strip_suffix(".weight").unwrap_or(embedding);
    match path.rsplit('.').next() {
        Some("tok_embeddings") => "output.weight",
        Some("embed_in") => "embed_out.weight",
        _ if path.ends_with("bert.embeddings.word_embeddings") => "cls.predictions.decoder.weight",
        _ => "lm_head.weight",
    }
}

#[cfg(test)]
mod tests {
    use super::head_name;

    #[test]
    fn heads_are_named_as_their_models_name_them() {
        for (embedding, wanted, head) in [
            ("model.embed_tokens", "lm_head", "lm_head"),
            ("model.embed_tokens", "model.lm_head", "lm_head"),
            (
                "language_model.model.embed_tokens",
                "lm_head",
                "language_model.lm_head",
            ),
            ("model.language_model.embed_tokens", "lm_head", "lm_head"),
            (
                "model.language_model.embed_tokens",
                "language_model.lm_head",
                "lm_head",
            ),
            ("transformer.wte", "lm_head", "lm_head"),
            ("wte", "lm_head", "lm_head"),
            ("tok_embeddings", "output", "output"),
            ("llm.model.embed_tokens", "llm.lm_head", "llm.lm_head"),
            ("shared", "lm_head", "lm_head"),
            (
                "bert.embeddings.word_embeddings",
                "cls.predictions.decoder",
                "cls.predictions.decoder",
            ),
        ] {
            let named = head_name(&format!("{embedding}.weight"), &format!("{wanted}.weight"));
            assert_eq!(
                named,
                format!("{head}.weight"),
                "{wanted} beside {embedding}"
            );
        }
    }
}
