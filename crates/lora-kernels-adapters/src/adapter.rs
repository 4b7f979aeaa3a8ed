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
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Linear => "linear",
            Kind::Embedding => "embedding",
            Kind::Convolution => "convolution",
        })
    }
}

/// One adapted module: y += scaling·B·A·x.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Module<'a> {
    /// Its path in the base model, such as `encoder.layer.0.attention.self.query`, without PEFT's
    /// prefix `base_model.model.`.
    pub path: &'a str,
    /// The kind of layer it adapts.
    pub kind: Kind,
    /// The rank r.
    pub rank: usize,
    /// Columns of A: K.
    pub in_features: usize,
    /// Rows of B: N.
    pub out_features: usize,
    /// lora_alpha / r, or lora_alpha / √r with rsLoRA.
    pub scaling: f32,
    /// lora_A, (rank, in_features), or (rank, in_features, kernel ...) for a convolution. F32, F16
    /// or BF16.
    pub a: Tensor<'a>,
    /// lora_B, (out_features, rank), with A's type. A convolution's has further dimensions of
    /// size 1.
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
    /// and `base_layer.`.
    pub name: &'a str,
    /// Its value.
    pub tensor: Tensor<'a>,
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
    /// Names in the file.
    pub(crate) unknown: Vec<String>,
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
                tensor: self.file.tensor(key)?,
            })
        })
    }

    /// Tensors of methods other than LoRA, which this crate keeps without interpreting them.
    pub fn unknown(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.unknown.iter().filter_map(|key| self.file.tensor(key))
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
            kind: parts.kind,
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
