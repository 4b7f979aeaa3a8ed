//! An adapter read from disk: its modules and the tensors saved beside them.

use std::fmt;
use std::path::Path;

use crate::mapped::{MappedFile, Tensor};
use crate::{PeftConfig, ReadOptions, Result, read};

/// The format of an adapter on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Hugging Face PEFT: a folder with `adapter_config.json` and `adapter_model.safetensors`.
    Peft,
    /// Mistral: `lora.safetensors` with keys such as `layers.0.attention.wq.lora_A.weight`, and no
    /// config.
    Mistral,
    /// loralib's `lora_state_dict` as safetensors: keys such as `encoder.query.lora_A`, and no
    /// config.
    Loralib,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Peft => "PEFT",
            Format::Mistral => "Mistral",
            Format::Loralib => "loralib",
        })
    }
}

/// The kind of layer that a module adapts. loralib's format names the matrices of an embedding and
/// of a linear layer alike, so every module read from it is [`Kind::Linear`]; the shape of the base
/// weight tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A linear layer: W (out_features, in_features) += scaling·B·A, or its transpose.
    Linear,
    /// An embedding: W (in_features, out_features) += scaling·(B·A)ᵀ, where in_features is the
    /// number of tokens.
    Embedding,
    /// A convolution. lora_A holds its kernel, and in_features and out_features are its channels.
    Convolution,
    /// A bare parameter of its module (PEFT's `target_parameters`), such as the fused weights of
    /// several experts. lora_A is (experts·rank, in_features) with each expert's rows together;
    /// lora_B is (out_features, rank·experts), and its column ρ·experts + e belongs to row ρ of
    /// expert e.
    Parameter,
    /// A stack of linear layers: lora_A is (experts, rank, in_features) and lora_B (experts,
    /// out_features, rank).
    Stacked,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Linear => "linear",
            Kind::Embedding => "embedding",
            Kind::Convolution => "convolution",
            Kind::Parameter => "parameter",
            Kind::Stacked => "stacked",
        })
    }
}

/// One adapted module: y += scaling·B·A·x.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Module<'a> {
    /// Its path in the base model, such as `encoder.layer.0.attention.self.query`, without PEFT's
    /// prefix `base_model.model.` and without its component's.
    pub path: &'a str,
    /// The part of a pipeline that it belongs to, such as `transformer` or `text_encoder`, where
    /// the file's names say so.
    pub component: Option<&'a str>,
    /// Whether the path has underscores in place of its dots, as kohya's names have.
    pub flattened: bool,
    /// The kind of layer it adapts.
    pub kind: Kind,
    /// The number of matrices that it adapts: more than 1 for fused experts.
    pub experts: usize,
    /// How many other adapted parameters PEFT wraps inside of this one, where several parameters of
    /// one module are adapted: its name has as many `base_layer` segments fewer.
    pub nesting: usize,
    /// The rank r.
    pub rank: usize,
    /// Columns of A: K.
    pub in_features: usize,
    /// Rows of B: N.
    pub out_features: usize,
    /// lora_alpha / r, or lora_alpha / √r with rsLoRA.
    pub scaling: f32,
    /// lora_A, (rank, in_features), or (rank, in_features, kernel ...) for a convolution; see
    /// [`Kind`] for experts. F64, F32, F16 or BF16.
    pub a: Tensor<'a>,
    /// lora_B, (out_features, rank); its type may differ from A's. A convolution's has further
    /// dimensions of size 1.
    pub b: Tensor<'a>,
    /// The bias of lora_B, (out_features), present where PEFT's `lora_bias` is set. scaling·bias is
    /// added to y.
    pub bias: Option<Tensor<'a>>,
    /// DoRA's magnitude vector, with out_features elements.
    pub magnitude: Option<Tensor<'a>>,
}

/// A tensor of the base model that the adapter's files hold: trained in full (`modules_to_save`,
/// `bias`), or saved unchanged.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// Its name in the base model, such as `classifier.weight`, without PEFT's `base_model.model.`
    /// and wrappers (`base_layer`, `modules_to_save`).
    pub name: &'a str,
    /// The part of a pipeline that it belongs to; see [`Module::component`].
    pub component: Option<&'a str>,
    /// Its value.
    pub tensor: Tensor<'a>,
}

/// Rows of an embedding that were trained in full (PEFT's `trainable_token_indices`): they replace
/// the base's rows.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// The path of the embedding.
    pub path: &'a str,
    /// The part of a pipeline that it belongs to; see [`Module::component`].
    pub component: Option<&'a str>,
    /// The rows' indices in the embedding, from the config.
    pub indices: &'a [usize],
    /// (indices, columns of the embedding).
    pub rows: Tensor<'a>,
}

/// A tensor that this crate doesn't understand. Nothing may be computed from it or added to a model.
#[derive(Debug, Clone, Copy)]
pub struct Unknown<'a> {
    /// The tensor, by its name in the file.
    pub tensor: Tensor<'a>,
    /// Why it isn't understood, and what to do.
    pub reason: &'a str,
}

/// A checked, memory-mapped adapter.
///
/// ```no_run
/// use lora_kernels_adapters::{Adapter, ReadOptions};
/// let adapter = Adapter::read("my-adapter".as_ref(), &ReadOptions::default())?;
/// for module in adapter.modules() {
///     println!("{}: rank {}, scaling {}", module.path, module.rank, module.scaling);
/// }
/// # Ok::<(), lora_kernels_adapters::Error>(())
/// ```
#[derive(Debug)]
pub struct Adapter {
    pub(crate) format: Format,
    pub(crate) file: MappedFile,
    pub(crate) config: Option<PeftConfig>,
    /// Sorted by path.
    pub(crate) modules: Vec<Parts>,
    /// (name in the base model, name in the file).
    pub(crate) saved: Vec<(String, String)>,
    /// Pairs of names as in `saved`.
    pub(crate) base_weights: Vec<(String, String)>,
    pub(crate) tokens: Vec<TokenParts>,
    pub(crate) unknown: Vec<UnknownPart>,
}

/// Rows of an embedding, whose tensor is given by its name in the file.
#[derive(Debug)]
pub(crate) struct TokenParts {
    pub path: String,
    pub indices: Vec<usize>,
    pub rows: String,
}

/// A tensor that isn't understood, by its name in the file.
#[derive(Debug)]
pub(crate) struct UnknownPart {
    pub name: String,
    pub reason: String,
}

/// A module whose tensors are given by their names in the file.
#[derive(Debug)]
pub(crate) struct Parts {
    pub path: String,
    pub kind: Kind,
    pub rank: usize,
    pub in_features: usize,
    pub out_features: usize,
    pub scaling: f32,
    pub a: String,
    pub b: String,
    pub bias: Option<String>,
    pub magnitude: Option<String>,
}

impl Adapter {
    /// Reads an adapter from a folder or from the safetensors file itself. The format is detected
    /// unless the options name it.
    ///
    /// # Errors
    /// Any [`crate::Error`]: an incomplete or inconsistent adapter is refused. The values of the
    /// tensors are not checked, so a NaN in lora_A passes.
    pub fn read(path: &Path, options: &ReadOptions) -> Result<Self> {
        read::read(path, options)
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The file that holds the tensors.
    pub fn file(&self) -> &MappedFile {
        &self.file
    }

    /// Its config, in PEFT's format.
    pub fn config(&self) -> Option<&PeftConfig> {
        self.config.as_ref()
    }

    /// The adapted modules, sorted by path.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Module<'_>> {
        self.modules.iter().map(|parts| self.module_of(parts))
    }

    /// One module, by its path.
    pub fn module(&self, path: &str) -> Option<Module<'_>> {
        let parts = self.modules.iter().find(|parts| parts.path == path)?;
        Some(self.module_of(parts))
    }

    /// The tensors saved beside the modules, sorted by name.
    pub fn saved(&self) -> impl Iterator<Item = Saved<'_>> {
        self.named(&self.saved)
    }

    /// Base weights of the adapted modules, sorted by name. The adapter doesn't change them: PEFT
    /// saves those of adapted embeddings and heads (`save_embedding_layers`) in case they were
    /// resized.
    pub fn base_weights(&self) -> impl Iterator<Item = Saved<'_>> {
        self.named(&self.base_weights)
    }

    fn named<'a>(&'a self, names: &'a [(String, String)]) -> impl Iterator<Item = Saved<'a>> {
        names.iter().filter_map(|(name, key)| {
            Some(Saved {
                name,
                component: None,
                tensor: self.file.tensor(key)?,
            })
        })
    }

    /// Rows of embeddings that were trained in full.
    pub fn tokens(&self) -> impl Iterator<Item = Tokens<'_>> {
        self.tokens.iter().filter_map(|parts| {
            Some(Tokens {
                path: &parts.path,
                component: None,
                indices: &parts.indices,
                rows: self.file.tensor(&parts.rows)?,
            })
        })
    }

    /// Tensors that this crate keeps without interpreting them.
    pub fn unknown(&self) -> impl Iterator<Item = Unknown<'_>> {
        self.unknown.iter().filter_map(|part| {
            Some(Unknown {
                tensor: self.file.tensor(&part.name)?,
                reason: &part.reason,
            })
        })
    }

    /// The folder that the adapter was read from, if its files lie in one of their own: where its
    /// config is. A tokenizer may lie there, too.
    pub fn folder(&self) -> Option<&Path> {
        self.config.as_ref().and(self.file.path().parent())
    }

    fn module_of<'a>(&'a self, parts: &'a Parts) -> Module<'a> {
        // Every name in `Parts` was found in this file.
        let tensor = |key: &'a str| self.file.tensor(key);
        let named = |key: &'a str| {
            tensor(key).unwrap_or(Tensor {
                name: key,
                dtype: safetensors::Dtype::F32,
                shape: &[],
                data: &[],
            })
        };
        Module {
            path: &parts.path,
            component: None,
            flattened: false,
            kind: parts.kind,
            experts: 1,
            nesting: 0,
            rank: parts.rank,
            in_features: parts.in_features,
            out_features: parts.out_features,
            scaling: parts.scaling,
            a: named(&parts.a),
            b: named(&parts.b),
            bias: parts.bias.as_deref().and_then(tensor),
            magnitude: parts.magnitude.as_deref().and_then(tensor),
        }
    }
}
