//! An adapter that was read: its modules, and what was saved beside them.

use std::fmt;
use std::path::Path;

use crate::mapped::{MappedFile, Tensor};
use crate::{PeftConfig, ReadOptions, Result, read};

/// How an adapter lies on disk.
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

/// What kind of layer a module adapts. The matrices of an embedding and those of a linear layer
/// have the same names in loralib's format: there, all are [`Kind::Linear`], and the base weight's
/// shape tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A linear layer: W (out_features, in_features) += scaling·B·A, or its transpose.
    Linear,
    /// An embedding: W (in_features, out_features) += scaling·(B·A)ᵀ, where in_features is the
    /// number of tokens.
    Embedding,
    /// A convolution, of which lora_A has the kernel: in_features and out_features are its
    /// channels.
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
    /// Its path below the base model, such as `encoder.layer.0.attention.self.query`: without
    /// PEFT's `base_model.model.`.
    pub path: &'a str,
    /// What it adapts.
    pub kind: Kind,
    /// r.
    pub rank: usize,
    /// Columns of A: K.
    pub in_features: usize,
    /// Rows of B: N.
    pub out_features: usize,
    /// lora_alpha / r, or lora_alpha / √r with rsLoRA.
    pub scaling: f32,
    /// lora_A, (rank, in_features); of a convolution (rank, in_features, kernel ...). F32, F16 or
    /// BF16.
    pub a: Tensor<'a>,
    /// lora_B, (out_features, rank), of A's type; of a convolution with ones behind.
    pub b: Tensor<'a>,
    /// lora_B's bias (out_features), which is added to y times the scaling, where PEFT's
    /// `lora_bias` is set.
    pub bias: Option<Tensor<'a>>,
    /// DoRA's magnitude vector, as many elements as out_features.
    pub magnitude: Option<Tensor<'a>>,
}

/// A tensor of the base model that was trained whole, by `modules_to_save` or `bias`, or saved as
/// it was.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// Its name in the base model, such as `classifier.weight`: without PEFT's `base_model.model.`
    /// and `base_layer.`.
    pub name: &'a str,
    /// Its value.
    pub tensor: Tensor<'a>,
}

/// An adapter on disk, checked and memory-mapped.
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
    /// By path.
    pub(crate) modules: Vec<Parts>,
    /// Names in the base model and in the file.
    pub(crate) saved: Vec<(String, String)>,
    /// As `saved`.
    pub(crate) base_weights: Vec<(String, String)>,
    /// Names in the file.
    pub(crate) unknown: Vec<String>,
}

/// A module, its tensors by their names in the file.
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
    /// Reads an adapter: a folder, or the safetensors file itself. The format is found from what is
    /// there unless the options name it.
    ///
    /// # Errors
    /// Any of [`crate::Error`]'s: what is not a whole, consistent adapter is refused. Numbers are
    /// not looked at: a NaN in lora_A is found by whoever computes with it.
    pub fn read(path: &Path, options: &ReadOptions) -> Result<Self> {
        read::read(path, options)
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The file with the tensors.
    pub fn file(&self) -> &MappedFile {
        &self.file
    }

    /// Its config, in PEFT's format.
    pub fn config(&self) -> Option<&PeftConfig> {
        self.config.as_ref()
    }

    /// The adapted modules, by path.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Module<'_>> {
        self.modules.iter().map(|parts| self.module_of(parts))
    }

    /// One module, by its path.
    pub fn module(&self, path: &str) -> Option<Module<'_>> {
        let parts = self.modules.iter().find(|parts| parts.path == path)?;
        Some(self.module_of(parts))
    }

    /// What was saved beside the modules, by name.
    pub fn saved(&self) -> impl Iterator<Item = Saved<'_>> {
        self.named(&self.saved)
    }

    /// Weights of the adapted modules themselves, by name, which the adapter doesn't change: PEFT
    /// saves those of adapted embeddings and heads (`save_embedding_layers`), in case that they
    /// were resized.
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

    /// Tensors of other methods than LoRA, which this crate keeps and doesn't understand.
    pub fn unknown(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.unknown.iter().filter_map(|key| self.file.tensor(key))
    }

    fn module_of<'a>(&'a self, parts: &'a Parts) -> Module<'a> {
        // The names are the file's own.
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
