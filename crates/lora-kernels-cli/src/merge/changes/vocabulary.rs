//! Embeddings and heads: their names, and a vocabulary that was resized.

use std::collections::BTreeMap;

use super::{Finder, refuse};
use crate::failure::Failure;
use crate::merge::change::ConfigEdit;

/// The last parts of the paths of embeddings.
const EMBEDDINGS: [&str; 10] = [
    "embed_tokens",
    "wte",
    "word_embeddings",
    "tok_embeddings",
    "shared",
    "embed_in",
    "embeddings",
    "embedding",
    "token_embedding",
    "tokens_embed",
];
/// The last parts of the paths of heads. BERT's are a `decoder` in `cls.predictions` or `lm_head`.
const HEADS: [&str; 6] = [
    "lm_head",
    "embed_out",
    "output",
    "output_layer",
    "decoder",
    "predictions",
];

/// The path of a tensor's module, and the tensor's name in it.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Whether a path has a number, as a layer's has. A vocabulary's matrices stand outside of layers.
fn is_in_layer(path: &str) -> bool {
    path.split('.')
        .any(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether this is the matrix of an embedding.
pub fn is_embedding(name: &str) -> bool {
    let (path, tensor) = split(name);
    tensor == "weight" && EMBEDDINGS.contains(&last(path)) && !is_in_layer(path)
}

/// Whether this is the matrix or the bias of a head.
pub fn is_head(name: &str) -> bool {
    let (path, tensor) = split(name);
    matches!(tensor, "weight" | "bias") && HEADS.contains(&last(path)) && !is_in_layer(path)
}

/// Whether a tensor of an embedding or a head has another number of rows and is alike otherwise.
pub fn is_resized(name: &str, new: &[usize], old: &[usize]) -> bool {
    let alike = match (new, old) {
        ([new, ..], [old, ..]) if *new == 0 || *old == 0 => false,
        ([_, new @ ..], [_, old @ ..]) => new == old && new.len() <= 1,
        _ => false,
    };
    alike && (is_embedding(name) || is_head(name))
}

impl Finder<'_, '_> {
    /// Checks that a resized vocabulary has one size everywhere, and has config.json follow it.
    pub(super) fn vocabulary(&mut self) -> Result<(), Failure> {
        // The tensors of each old size, with their new sizes.
        let mut resized: BTreeMap<usize, Vec<(String, usize)>> = BTreeMap::new();
        for (name, change) in self.changes.tensors.values().flatten() {
            let old = self.base.tensor(name).map(|(_, tensor)| tensor.shape);
            let new = change.replaced.map(|tensor| tensor.shape);
            if let (Some([old, ..]), Some([new, ..])) = (old, new)
                && old != new
            {
                let sizes = resized.entry(*old).or_default();
                sizes.push(((*name).to_owned(), *new));
            }
        }
        for added in &self.changes.added {
            let new = added.change.replaced.map(|tensor| tensor.shape);
            if let (Some([new, ..]), [old, ..]) = (new, added.from.shape)
                && old != new
            {
                let sizes = resized.entry(*old).or_default();
                sizes.push((added.name.clone(), *new));
            }
        }
        for (old, tensors) in resized {
            let Some((first, new)) = tensors.first() else {
                continue;
            };
            let added = { self.changes.added.iter() }
                .filter(|added| is_head(&added.name))
                .map(|added| {
                    let tensor = added.change.replaced.unwrap_or(added.from);
                    (added.name.clone(), tensor.shape.first().copied())
                });
            let kept = { self.base.names() }
                .filter(|name| is_embedding(name) || is_head(name))
                .filter(|name| tensors.iter().all(|(resized, _)| resized != name))
                .filter_map(|name| Some((name, self.base.tensor(name)?.1.shape)))
                .filter(|(_, shape)| shape.first() == Some(&old))
                .map(|(name, _)| (name.to_owned(), Some(old)));
            let others = tensors[1..]
                .iter()
                .map(|(name, rows)| (name.clone(), Some(*rows)));
            let odd = { others.chain(kept).chain(added) }.find(|(_, rows)| *rows != Some(*new));
            if let Some((other, rows)) = odd {
                return refuse(format!(
                    "the adapter has {new} rows for {first}, and {other} would have {}: a model's \
                     embeddings and its head have one vocabulary (resize the base, or --skip \
                     {first})",
                    rows.unwrap_or_default()
                ));
            }
            if let Some((other, shape)) = self.left_behind(old, &tensors) {
                return refuse(format!(
                    "the adapter has {new} rows for {first} in place of {old}, and {other} of shape \
                     {shape:?} would keep one element for each of the {old} tokens: the model would \
                     not load (resize the base, or --skip {first})"
                ));
            }
            self.changes.config.push(ConfigEdit::VocabSize {
                from: old,
                to: *new,
            });
        }
        Ok(())
    }

    /// A tensor that keeps a dimension of the old vocabulary, such as BART's final_logits_bias.
    /// Where layers or the embedding's columns have that size, too, it says nothing about tensors.
    fn left_behind(&self, old: usize, resized: &[(String, usize)]) -> Option<(&str, &[usize])> {
        let shapes = || {
            { self.base.names() }.filter_map(|name| Some((name, self.base.tensor(name)?.1.shape)))
        };
        let is_resized = |name: &str| resized.iter().any(|(resized, _)| resized == name);
        let is_common = shapes().any(|(name, shape)| match is_in_layer(name) {
            true => shape.contains(&old),
            false => is_resized(name) && shape.iter().skip(1).any(|size| *size == old),
        });
        // A model may have as many positions as tokens.
        let is_of_positions =
            |name: &str| name.contains("position") || last(split(name).0) == "wpe";
        { shapes() }
            .filter(|_| !is_common)
            .filter(|(name, shape)| !is_in_layer(name) && shape.contains(&old))
            .find(|(name, _)| !is_resized(name) && !is_of_positions(name))
    }
}
