//! Embeddings and heads: their names, and a vocabulary that was resized.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lora_kernels_adapters::BaseModel;

use super::{Finder, names, refuse};
use crate::failure::Failure;
use crate::merge::change::ConfigEdit;
use crate::steps::step;

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

impl<'a> Finder<'a, '_> {
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
        if resized.is_empty() {
            return Ok(());
        }
        let vocabulary = Vocabulary::of(self.base);
        let mut heads = { self.changes.added.iter() }
            .filter(|added| is_head(&added.name))
            .map(|added| {
                let tensor = added.change.replaced.unwrap_or(added.from);
                (added.name.as_str(), tensor.shape.first().copied())
            });
        // One of an added head and the first with other rows differs from any number of rows.
        let head = heads.next();
        let other_head = head.and_then(|(_, rows)| heads.find(|(_, other)| *other != rows));
        for (old, tensors) in resized {
            let Some((first, new)) = tensors.first() else {
                continue;
            };
            let names: BTreeSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
            let kept = { vocabulary.matrices.get(&old).into_iter().flatten() }
                .inspect(|_| step())
                .filter(|name| !names.contains(*name))
                .map(|name| (*name, Some(old)));
            let others = tensors[1..]
                .iter()
                .map(|(name, rows)| (name.as_str(), Some(*rows)));
            let added = [head, other_head].into_iter().flatten();
            let odd = { others.chain(kept).chain(added) }.find(|(_, rows)| *rows != Some(*new));
            if let Some((other, rows)) = odd {
                return refuse(format!(
                    "the adapter has {new} rows for {first}, and {other} would have {}: a model's \
                     embeddings and its head have one vocabulary (resize the base, or --skip \
                     {first})",
                    rows.unwrap_or_default()
                ));
            }
            if let Some(other) = self.left_behind(&vocabulary, old, &names) {
                let shape = self.base.tensor(other).map(|(_, tensor)| tensor.shape);
                return refuse(format!(
                    "the adapter has {new} rows for {first} in place of {old}, and {other} of shape \
                     {:?} would keep one element for each of the {old} tokens: the model would \
                     not load (resize the base, or --skip {first})",
                    shape.unwrap_or_default()
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
    fn left_behind(
        &self,
        vocabulary: &Vocabulary<'a>,
        old: usize,
        resized: &BTreeSet<&str>,
    ) -> Option<&'a str> {
        let has_as_columns = |name: &&&str| {
            let shape = self.base.tensor(name).map(|(_, tensor)| tensor.shape);
            shape.is_some_and(|shape| shape.iter().skip(1).any(|size| *size == old))
        };
        if vocabulary.of_layers.contains(&old) || resized.iter().any(|name| has_as_columns(&name)) {
            return None;
        }
        // A model may have as many positions as tokens.
        let is_of_positions =
            |name: &str| name.contains("position") || last(split(name).0) == "wpe";
        let outside = vocabulary.outside.get(&old).into_iter().flatten();
        let mut outside = outside.inspect(|_| step());
        let left = outside.find(|name| !resized.contains(*name) && !is_of_positions(name));
        left.copied()
    }
}

/// A base's tensors by their sizes. A model may have several vocabularies, and each is looked for.
struct Vocabulary<'a> {
    /// Embeddings and heads by their rows, in the names' order.
    matrices: HashMap<usize, Vec<&'a str>>,
    /// Sizes of tensors of layers.
    of_layers: HashSet<usize>,
    /// Tensors outside of layers by each of their sizes, in the names' order.
    outside: HashMap<usize, Vec<&'a str>>,
}

impl<'a> Vocabulary<'a> {
    fn of(base: &'a BaseModel) -> Self {
        let mut vocabulary = Self {
            matrices: HashMap::new(),
            of_layers: HashSet::new(),
            outside: HashMap::new(),
        };
        for name in names(base) {
            let Some((_, tensor)) = base.tensor(name) else {
                continue;
            };
            if let Some(rows) = tensor.shape.first()
                && (is_embedding(name) || is_head(name))
            {
                vocabulary.matrices.entry(*rows).or_default().push(name);
            }
            if is_in_layer(name) {
                vocabulary.of_layers.extend(tensor.shape);
                continue;
            }
            for size in tensor.shape {
                let names = vocabulary.outside.entry(*size).or_default();
                if names.last() != Some(&name) {
                    names.push(name);
                }
            }
        }
        vocabulary
    }
}
