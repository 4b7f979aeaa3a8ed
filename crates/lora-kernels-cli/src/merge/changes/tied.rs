//! Heads that are tied to the embedding: the model stores one matrix and uses it as both.

use lora_kernels_adapters::{BaseModel, Tensor};

use super::head::{ends_with, has_head, head_name, known_head};
use super::vocabulary::{is_embedding, is_head};
use super::{Finder, Source, Target, names, refuse};
use crate::failure::Failure;
use crate::merge::Direction;
use crate::merge::change::{Added, Change, ConfigEdit, Rows};
use crate::merge::language::{self, MISTRALS_TIE, TIE, is_other_tower, tie_said};
use crate::merge::numbers::{is_float, same_within_types};
use crate::show::few;

/// What a base says of its embedding and its head.
pub struct Tie<'a> {
    /// `tie_word_embeddings` in config.json, or Mistral's field. transformers ties where it is
    /// absent.
    stated: Option<bool>,
    /// The field's name.
    field: &'static str,
    embedding: Option<(&'a str, Tensor<'a>)>,
    /// The stored head.
    head: Option<(&'a str, Tensor<'a>)>,
    /// Whether the model may have a head beyond its tensors: its config doesn't name a class
    /// without one.
    may_have_head: bool,
    /// Whether every adapter's config says that the head was trained with the embedding.
    trained_together: bool,
    /// The classes that config.json names.
    classes: Vec<&'a str>,
}

impl<'a> Tie<'a> {
    pub fn of(base: &'a BaseModel) -> Self {
        let config = base.config();
        let get = |path: &[&str]| {
            let mut keys = path.iter();
            keys.try_fold(config?, |value, key| value.get(key)).cloned()
        };
        let said = tie_said(get);
        let lies_there =
            |name: &str| { base.folder() }.is_some_and(|folder| folder.join(name).exists());
        let is_mistrals = lies_there("params.json") && !lies_there("config.json");
        let field = match said {
            Some((field, _)) => field,
            None if is_mistrals => MISTRALS_TIE,
            None => TIE,
        };
        let rows = language::said("vocab_size", |path| get(path)?.as_u64());
        let embedding = embedding(base, rows);
        let classes = { config }.and_then(|config| config.get("architectures")?.as_array());
        let classes: Option<Vec<&str>> =
            classes.map(|classes| classes.iter().filter_map(|class| class.as_str()).collect());
        Self {
            stated: said.map(|(_, ties)| ties),
            field,
            embedding,
            head: stored_head(base, embedding.map(|(_, embedding)| embedding)),
            may_have_head: { classes.as_deref() }
                .is_none_or(|classes| classes.iter().any(|class| has_head(class))),
            trained_together: false,
            classes: classes.unwrap_or_default(),
        }
    }

    /// The file that has `field`.
    fn file(&self) -> &'static str {
        match self.field {
            MISTRALS_TIE => "params.json",
            _ => "config.json",
        }
    }
}

/// The embedding of the language model's tokens. `rows` is `vocab_size` in the config.
fn embedding<'a>(base: &'a BaseModel, rows: Option<u64>) -> Option<(&'a str, Tensor<'a>)> {
    let matrices = { names(base) }.filter_map(|name| {
        let tensor = base.tensor(name)?.1;
        let is_of_text = is_embedding(name) && !name.split('.').any(is_other_tower);
        (is_of_text && tensor.shape.len() == 2).then_some((name, tensor))
    });
    let all: Vec<_> = matrices.collect();
    let only = |is: &dyn Fn(&str, Tensor<'a>) -> bool| {
        let mut found = { all.iter().copied() }.filter(|(name, tensor)| is(name, *tensor));
        found.next().filter(|_| found.next().is_none())
    };
    let has_rows = |tensor: Tensor<'a>| { tensor.shape.first() }.map(|&n| n as u64) == rows;
    // T5 and BART store the shared embedding once more for the encoder and the decoder.
    only(&|_, _| true)
        .or_else(|| only(&|name, _| name == "shared.weight" || name.ends_with(".shared.weight")))
        .or_else(|| only(&|name, tensor| has_rows(tensor) && name.ends_with("embed_tokens.weight")))
        .or_else(|| only(&|_, tensor| has_rows(tensor)))
        .or_else(|| only(&|name, _| name.ends_with("embed_tokens.weight")))
}

/// A head that a model stores, also as a quantised module. Of several it is the one like the
/// embedding.
fn stored_head<'a>(
    base: &'a BaseModel,
    embedding: Option<Tensor<'a>>,
) -> Option<(&'a str, Tensor<'a>)> {
    let heads = { names(base) }.filter_map(|name| {
        let (path, tensor) = name.rsplit_once('.')?;
        let is_whole = tensor != "bias"
            && is_head(&format!("{path}.weight"))
            && !name.split('.').any(is_other_tower);
        is_whole.then_some((name, base.tensor(name)?.1))
    });
    let heads: Vec<_> = heads.collect();
    let is_like = |head: &Tensor<'_>| embedding.is_some_and(|like| like.shape == head.shape);
    // Decoders and outputs of other kinds are no heads.
    let is_sure = |(name, head): &(&str, Tensor<'a>)| {
        let path = name.rsplit_once('.').map_or("", |(path, _)| path);
        ["lm_head", "embed_out"]
            .iter()
            .any(|end| ends_with(path, end))
            || (head.shape.len() == 2
                && embedding.is_none_or(|like| like.shape.get(1) == head.shape.get(1)))
    };
    { heads.iter().find(|(_, head)| is_like(head)) }
        .or_else(|| heads.iter().find(|head| is_sure(head)))
        .copied()
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
        Ok(Some(match self.places_of_added.get(&name) {
            Some(&at) => Target::Added { name, at },
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
            let Tie { field, .. } = self.tie;
            return refuse(format!(
                "--untie: {} says {field} is false, so the head is apart already",
                self.tie.file()
            ));
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
            "{head} is stored apart from the embeddings from now on, so {} becomes false",
            self.tie.field
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
        // Rows of the embedding are the head's, too, so a head that is the same without them is
        // tied.
        let (rows, matrix) = self.rows_of(embedding, before);
        let after = self.outcome(embedding, before);
        let after = after.or((self.only_rows(embedding)).then_some(matrix));
        let is_tied_head = |added: &Added<'_>| is_head(&added.name) && added.from.name == embedding;
        let mut same = Vec::with_capacity(self.changes.added.len());
        for added in &self.changes.added {
            let change = &added.change;
            let is_computed = !change.loras.is_empty() || !change.rows.is_empty();
            same.push(match (change.replaced, after) {
                _ if is_computed || !is_tied_head(added) => false,
                (None, _) => true,
                (Some(_), None) => false,
                (Some(head), Some(after)) => {
                    after.shape == head.shape && same_within_types(&after, &head)?
                }
            });
        }
        let mut same = same.into_iter();
        { &mut self.changes.added }.retain(|_| same.next() != Some(true));
        for added in self
            .changes
            .added
            .iter_mut()
            .filter(|added| is_tied_head(added))
        {
            give_rows(&mut added.change, &rows, &matrix)?;
        }
        let changed = self.changed(embedding);
        let mut written = { self.changes.added.iter() }
            .any(|added| is_head(&added.name) && added.name.ends_with(".weight"));
        if !written && self.choices.untie {
            let Some(head) = known_head(embedding, &self.tie.classes) else {
                let classes = match self.tie.classes[..] {
                    [] => String::new(),
                    _ => format!(" ({})", self.tie.classes.join(", ")),
                };
                return refuse(format!(
                    "--untie: the name under which this model{classes} reads a head apart from \
                     {embedding} isn't known here; without --untie the head stays tied"
                ));
            };
            let mut head = Added::whole(head, before);
            give_rows(&mut head.change, &rows, &matrix)?;
            self.changes.added.push(head);
            written = true;
        }
        if written {
            self.apart_if_added()?;
        } else if changed && self.tie.stated != Some(false) && self.tie.may_have_head {
            let end = self.how_trained(embedding);
            self.warn(format!(
                "{embedding} is changed, and the head with it, because the model ties them \
                 ({}){end}",
                self.tie.field
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
        let is_copy =
            head_before.shape == before.shape && same_within_types(&head_before, &before)?;
        if self.choices.untie
            && is_float(head_before.dtype)
            && head_before.shape.first() != before.shape.first()
        {
            return refuse(format!(
                "--untie: {embedding} has shape {:?}, and {head} {:?}: a model's embedding and its \
                 head have one vocabulary",
                before.shape, head_before.shape
            ));
        }
        if !is_copy && self.base.config().is_none() {
            return Ok(());
        }
        let is_computed = { self.base.tensor(head) }
            .and_then(|(shard, _)| self.changes.of(shard, head))
            .is_some_and(|change| {
                change.replaced.is_none() && !(change.loras.is_empty() && change.rows.is_empty())
            });
        if is_computed
            && !is_copy
            && self.tie.stated == Some(true)
            && self.choices.direction == Direction::Merge
            && !self.trained_on.contains(head)
        {
            let (file, field) = (self.tie.file(), self.tie.field);
            return refuse(format!(
                "the adapter changes {head}, which {file} says is tied to {embedding} ({field}), \
                 while BASE has another {head}: set {field} to false in BASE's {file} if the \
                 adapter was trained on the stored {head}, or take {head} out of BASE if it was \
                 trained on the embedding"
            ));
        }
        let (rows, matrix) = self.rows_of(embedding, before);
        if is_copy && !rows.is_empty() && (head_changed || self.choices.untie) {
            let target = self.in_base(head)?;
            give_rows(self.change(&target), &rows, &matrix)?;
        }
        let apart = match (head_changed, self.choices.untie) {
            (true, _) => {
                let ends = { self.outcome(embedding, before) }.zip(self.outcome(head, head_before));
                match ends {
                    Some((a, b)) => a.shape != b.shape || !same_within_types(&a, &b)?,
                    None => true,
                }
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
                "{embedding} is changed, and {} says that the head is tied to it ({}), while BASE \
                 has another {head}; --untie sets it to false",
                self.tie.file(),
                self.tie.field
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
fn give_rows<'a>(
    head: &mut Change<'a>,
    rows: &[Rows<'a>],
    matrix: &Tensor<'a>,
) -> Result<(), Failure> {
    let is_tied = match &head.replaced {
        Some(own) => own.shape == matrix.shape && same_within_types(own, matrix)?,
        None => true,
    };
    if is_tied && head.rows.is_empty() && !rows.is_empty() {
        head.rows = rows.to_vec();
        head.rows_first = true;
    }
    Ok(())
}
