//! What a merge does to each tensor of a model.

use std::collections::BTreeMap;

use lora_kernels::WeightLayout;
use lora_kernels_adapters::Tensor;

/// All changes to a model.
#[derive(Default)]
pub struct Changes<'a> {
    /// Keyed by shard, then by name.
    pub tensors: BTreeMap<usize, BTreeMap<&'a str, Change<'a>>>,
    /// Tensors that the base model lacks. They are written behind those of the last shard.
    pub added: Vec<Added<'a>>,
    /// What config.json must say of the result.
    pub config: Vec<ConfigEdit>,
    /// What the report tells beside figures.
    pub remarks: Remarks,
}

/// A field of config.json that follows a change of the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigEdit {
    /// `vocab_size` is the number of rows of the embeddings.
    VocabSize {
        /// In the base.
        from: usize,
        to: usize,
    },
    /// `tie_word_embeddings`: whether the head is the embeddings.
    TieWordEmbeddings(bool),
}

/// What a merge tells its user. Each is a whole line.
#[derive(Debug, Default, Clone)]
pub struct Remarks {
    /// Where BASE and ADAPTERs were found, if not where they were named.
    pub followed: Vec<String>,
    /// Replacements of prefixes, as `--map` takes them.
    pub mapping: Vec<String>,
    /// The adapter's parts that belong to other components of a pipeline.
    pub other_components: Vec<String>,
    /// Modules and tensors of the adapters that `--skip` left out.
    pub skipped: Vec<String>,
    /// Things the user should check.
    pub warnings: Vec<String>,
}

impl<'a> Changes<'a> {
    /// The change of a tensor, or `None` if it stays as it is.
    pub fn of(&self, shard: usize, name: &str) -> Option<&Change<'a>> {
        self.tensors.get(&shard)?.get(name)
    }
}

/// A tensor that the base model lacks.
pub struct Added<'a> {
    pub name: String,
    /// What it is made from: it has this tensor's type, and its shape unless `change` replaces it.
    pub from: Tensor<'a>,
    pub change: Change<'a>,
}

impl<'a> Added<'a> {
    /// A tensor taken over as it is.
    pub fn whole(name: String, from: Tensor<'a>) -> Self {
        Self {
            name,
            from,
            change: Change::default(),
        }
    }
}

/// The change of one tensor. Its steps come in the order of the fields.
#[derive(Clone, Default)]
pub struct Change<'a> {
    /// A tensor that replaces the base's. Where its shape differs (a resized vocabulary), the
    /// result has its shape.
    pub replaced: Option<Tensor<'a>>,
    /// Adapters to add to W. A W of more than two dimensions is a stack of matrices, or a
    /// convolution's (out_features, in_features · kernel).
    pub loras: Vec<LoraPart<'a>>,
    /// Whether a matrix of W is (out_features, in_features) or transposed.
    pub layout: WeightLayout,
    /// DoRA's magnitudes, one for each out_feature: each is the norm of its row of the sum.
    pub magnitude: Option<Tensor<'a>>,
    /// Biases of lora_B to add to this bias, with their factors.
    pub biases: Vec<(f32, Tensor<'a>)>,
    /// Rows that are put in place of the sum's.
    pub rows: Vec<Rows<'a>>,
    /// Whether `rows` are put in place of W's instead, before adapters are added: those of a tied
    /// embedding, in its head.
    pub rows_first: bool,
}

/// Rows of a matrix, and their values.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// In the matrix.
    pub indices: &'a [usize],
    /// (indices, columns).
    pub values: Tensor<'a>,
}

/// The part of one adapter in a weight.
#[derive(Clone, Copy)]
pub struct LoraPart<'a> {
    pub rank: usize,
    /// scaling · the adapter's weight, negative when unmerging.
    pub factor: f32,
    pub stack: Stack,
    /// The only expert that the weight belongs to, where the adapter has several in a stack and the
    /// base has a tensor for each. Else the weight has as many matrices as the stack.
    pub expert: Option<usize>,
    /// The row of each expert's lora_B that belongs to the weight's first out_feature. It is more
    /// than 0 where the adapter was trained on one weight (gate_up_proj) that the base has as
    /// several.
    pub first_out: usize,
    pub a: Tensor<'a>,
    pub b: Tensor<'a>,
}

/// How lora_A and lora_B hold the parts of several experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// One matrix: lora_A (rank, in_features), lora_B (out_features, rank).
    One,
    /// lora_A (experts·rank, in_features), where each expert's rows lie together; lora_B
    /// (out_features, rank·experts), where column ρ·experts + e belongs to row ρ of expert e.
    Parameter { experts: usize },
    /// lora_A (experts, rank, in_features), lora_B (experts, out_features, rank).
    Leading { experts: usize },
}
