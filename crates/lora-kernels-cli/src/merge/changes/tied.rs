//! Heads that are tied to the embedding: the model stores one matrix and uses it as both.

use lora_kernels_adapters::{BaseModel, Tensor};

use super::vocabulary::{is_embedding, is_head};
use super::{Finder, Source, Target, refuse};
use crate::failure::Failure;
use crate::merge::Direction;
use crate::merge::change::{Added, Change, ConfigEdit, Rows};
use crate::merge::numbers::same_within_types;
use crate::show::few;

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
    /// Whether every adapter's config says that the head was trained with the embedding.
    trained_together: bool,
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
            trained_together: false,
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
    const LONG: [&str; 3] = [
        "cls.predictions.decoder",
        "predictions.decoder",
        "lm_head.decoder",
    ];
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
    pub(super) fn tied(&mut self, sources: &[Source<'a, '_>]) -> Result<(), Failure> {
        self.tie.trained_together = sources.iter().all(|source| {
            let config = source.selected.adapter.config();
            config.is_some_and(|config| config.field("ensure_weight_tying") == Some("true"))
        });
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
                false => self.apart_if_added(),
            };
        };
        match self.tie.head {
            Some(head) => self.stored(embedding, before, head),
            None => self.unstored(embedding, before),
        }
    }

    /// A head that was added is no embedding.
    fn apart_if_added(&mut self) -> Result<(), Failure> {
        let is_matrix =
            |added: &&Added<'_>| is_head(&added.name) && added.name.ends_with(".weight");
        let head = self.changes.added.iter().find(is_matrix);
        let Some(head) = head.filter(|_| self.tie.stated != Some(false)) else {
            return Ok(());
        };
        let head = head.name.clone();
        self.warn(format!(
            "{head} is stored apart from the embeddings from now on, so tie_word_embeddings \
             becomes false"
        ));
        self.set_apart(&head)
    }

    /// Has config.json say that the head is apart. That unties a model's other tensors as well.
    fn set_apart(&mut self, head: &str) -> Result<(), Failure> {
        let shared =
            { self.tie.embedding }.and_then(|(name, _)| name.strip_suffix("shared.weight"));
        if let Some(front) = shared {
            let copies =
                ["encoder", "decoder"].map(|part| format!("{front}{part}.embed_tokens.weight"));
            let missing = { copies.iter() }.filter(|name| self.base.tensor(name).is_none());
            let missing: Vec<&str> = missing.map(String::as_str).collect();
            let reason = match self.scales_by_tie() {
                Some(model) => Some(format!(
                    "{model} computes otherwise without tied embeddings"
                )),
                None if missing.is_empty() => None,
                None => Some(format!(
                    "that unties {} too, which BASE doesn't store",
                    few(missing)
                )),
            };
            if let Some(reason) = reason {
                return refuse(format!(
                    "{head} can't be written apart from {front}shared.weight, because \
                     tie_word_embeddings in config.json would have to be false, and {reason}: untie \
                     the model and save it before it is trained and merged, or leave the head out \
                     (without --untie, with --skip {})",
                    head.strip_suffix(".weight").unwrap_or(head)
                ));
            }
        }
        self.keep_bias(head);
        { &mut self.changes.config }.push(ConfigEdit::TieWordEmbeddings(false));
        Ok(())
    }

    /// The kind of model, if it is one of T5's family. These scale what their head is given where
    /// it is tied.
    fn scales_by_tie(&self) -> Option<&'a str> {
        const SCALING: [&str; 7] = [
            "t5",
            "mt5",
            "umt5",
            "longt5",
            "switch_transformers",
            "pop2piano",
            "udop",
        ];
        let kind = self.base.config()?.get("model_type")?.as_str()?;
        SCALING.contains(&kind).then_some(kind)
    }

    /// BERT's head has the bias of the module that it lies in (`cls.predictions.bias`), unless the
    /// head is apart: then a bias of its own is read, which gets the same values.
    fn keep_bias(&mut self, head: &str) {
        let Some(outer) = head.strip_suffix(".decoder.weight") else {
            return;
        };
        let own = format!("{outer}.decoder.bias");
        let is_there = self.base.tensor(&own).is_some() || { self.changes.added.iter() }
            .any(|added| added.name == own);
        if let Some((shard, bias)) = self.base.tensor(&format!("{outer}.bias"))
            && !is_there
        {
            let change = self.changes.of(shard, bias.name).cloned();
            self.changes.added.push(Added {
                name: own,
                from: bias,
                change: change.unwrap_or_default(),
            });
        }
    }

    /// The single rows that replace the embedding's, and the matrix that they are put into.
    fn rows_of(&self, embedding: &str, before: Tensor<'a>) -> (Vec<Rows<'a>>, Tensor<'a>) {
        let change = { self.base.tensor(embedding) }
            .and_then(|(shard, _)| self.changes.of(shard, embedding));
        match change {
            Some(change) => (change.rows.clone(), change.replaced.unwrap_or(before)),
            None => (Vec::new(), before),
        }
    }

    /// The base has no head of its own.
    fn unstored(&mut self, embedding: &'a str, before: Tensor<'a>) -> Result<(), Failure> {
        // Rows of the embedding are the head's, too, so a head that is the same without them is tied.
        let (rows, matrix) = self.rows_of(embedding, before);
        let after = self.outcome(embedding, before);
        let after = after.or((self.only_rows(embedding)).then_some(matrix));
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
        for added in self
            .changes
            .added
            .iter_mut()
            .filter(|added| is_tied_head(added))
        {
            give_rows(&mut added.change, &rows, &matrix);
        }
        let changed = self.changed(embedding);
        let mut written = { self.changes.added.iter() }
            .any(|added| is_head(&added.name) && added.name.ends_with(".weight"));
        if !written && self.choices.untie {
            let mut head = Added::whole(head_name(embedding, default_head(embedding)), before);
            give_rows(&mut head.change, &rows, &matrix);
            self.changes.added.push(head);
            written = true;
        }
        if written {
            self.apart_if_added()?;
        } else if changed && self.tie.stated != Some(false) && self.tie.may_have_head {
            let end = self.how_trained(embedding);
            self.warn(format!(
                "{embedding} is changed, and the head with it, because the model ties them \
                 (tie_word_embeddings){end}"
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
        if !is_copy && self.base.config().is_none() {
            return Ok(());
        }
        let (rows, matrix) = self.rows_of(embedding, before);
        if is_copy && !rows.is_empty() && (head_changed || self.choices.untie) {
            let target = self.in_base(head)?;
            give_rows(self.change(&target), &rows, &matrix);
        }
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
            self.set_apart(head)?;
        } else if !head_changed && is_copy {
            let change = match self.in_base(embedding)? {
                Target::Base { shard, name, .. } => self.changes.of(shard, name).cloned(),
                Target::Added { .. } => None,
            };
            let target = self.in_base(head)?;
            *self.change(&target) = change.unwrap_or_default();
            let end = self.how_trained(embedding);
            self.warn(format!(
                "{embedding} is changed, and {head} with it, because it is a copy of it in BASE \
                 (tied embeddings){end}"
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

    /// The end of a warning of a tied head that changes with the embedding: what training did.
    fn how_trained(&self, embedding: &str) -> &'static str {
        match (self.only_rows(embedding), self.tie.trained_together) {
            (true, _) => ", as in training: rows of tokens are trained in both",
            (false, true) => ", as in training (ensure_weight_tying)",
            (false, false) => ", but training left the head as it was: --untie gives that model",
        }
    }

    /// Whether single rows are all that changes of the embedding.
    fn only_rows(&self, embedding: &str) -> bool {
        { self.base.tensor(embedding) }
            .and_then(|(shard, _)| self.changes.of(shard, embedding))
            .is_some_and(|change| change.loras.is_empty() && !change.rows.is_empty())
    }

    fn changed(&self, name: &str) -> bool {
        { self.base.tensor(name) }.is_some_and(|(shard, _)| self.changes.of(shard, name).is_some())
    }
}

/// Puts the rows of an embedding into its head, which is `matrix` without them, unless the head has
/// rows of its own or was trained whole.
fn give_rows<'a>(head: &mut Change<'a>, rows: &[Rows<'a>], matrix: &Tensor<'a>) {
    let is_tied = { head.replaced }
        .is_none_or(|own| own.shape == matrix.shape && same_within_types(&own, matrix));
    if is_tied && head.rows.is_empty() && !rows.is_empty() {
        head.rows = rows.to_vec();
        head.rows_first = true;
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
