//! An adapter read from disk: its modules and the tensors saved beside them.

use std::fmt;
use std::path::Path;

use crate::tensor::Tensor;
use crate::tensor_file::TensorFile;
use crate::{PeftConfig, ReadOptions, Result, read, regular};

/// The format of an adapter on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Hugging Face PEFT: a folder with `adapter_config.json` and `adapter_model.safetensors`, or a
    /// safetensors file with PEFT's names and an `alpha` tensor for each module.
    Peft,
    /// Mistral: `lora.safetensors` with keys such as `layers.0.attention.wq.lora_A.weight`, and no
    /// config.
    Mistral,
    /// loralib's `lora_state_dict` as safetensors: keys such as `encoder.query.lora_A`, and no
    /// config.
    Loralib,
    /// diffusers' and ComfyUI's: one safetensors file whose names begin with a part of a pipeline,
    /// such as `transformer.blocks.0.to_q.lora_A.weight` or `diffusion_model.` ..., with
    /// `lora_A`/`lora_B` or `lora_down`/`lora_up`. The scaling is in scalars `X.alpha` or in the
    /// header.
    Diffusers,
    /// sd-scripts' (kohya): one safetensors file with keys such as
    /// `lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight`, and scalars `X.alpha`.
    Kohya,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Peft => "PEFT",
            Format::Mistral => "Mistral",
            Format::Loralib => "loralib",
            Format::Diffusers => "diffusers",
            Format::Kohya => "kohya",
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

/// Where a module's scaling comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScalingSource {
    /// `adapter_config.json`.
    Config,
    /// The config in the header of the safetensors file (diffusers' `lora_adapter_metadata`).
    Header,
    /// A scalar `X.alpha` beside lora_A and lora_B: alpha / r.
    AlphaTensor,
    /// `lora.scaling` in the `params.json` that mistral-finetune writes beside its file.
    Params,
    /// [`ReadOptions::scaling`].
    Given,
    /// Nothing in the file: kohya's format takes alpha = r then, which is a scaling of 1.
    Default,
}

impl fmt::Display for ScalingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScalingSource::Config => "config",
            ScalingSource::Header => "header",
            ScalingSource::AlphaTensor => "alpha tensor",
            ScalingSource::Params => "params.json",
            ScalingSource::Given => "given",
            ScalingSource::Default => "default",
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
    /// the names of a file without `adapter_config.json` begin with it. It may be the first part of
    /// the path as well (`transformer.h.0` in GPT-2), so a base model may hold either `path` or
    /// `component.path`. kohya's names are flattened and have their component in other words
    /// (`lora_te1_`): there, only `path` counts.
    pub component: Option<&'a str>,
    /// Whether the path has underscores in place of its dots, as kohya's names have:
    /// `down_blocks_0_attentions_0_proj_in`.
    pub flattened: bool,
    /// The kind of layer it adapts.
    pub kind: Kind,
    /// The number of matrices that it adapts: more than 1 for fused experts.
    pub experts: usize,
    /// How many other adapted parameters PEFT wraps inside of this one, where several parameters of
    /// one module are adapted: its name has as many `base_layer` segments fewer. PEFT wraps them in
    /// the order in which the module defines them, so 0 is the first of them (`gate_up_proj`) and 1
    /// the second (`down_proj`).
    pub nesting: usize,
    /// The rank r.
    pub rank: usize,
    /// Columns of A: K.
    pub in_features: usize,
    /// Rows of B: N.
    pub out_features: usize,
    /// lora_alpha / r, or lora_alpha / √r with rsLoRA.
    pub scaling: f32,
    /// Where the scaling comes from.
    pub scaled_by: ScalingSource,
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

/// A tensor that this crate doesn't understand. Nothing may be computed from it or added to a
/// model.
#[derive(Debug, Clone, Copy)]
pub struct Unknown<'a> {
    /// The tensor, by its name in the file.
    pub tensor: Tensor<'a>,
    /// Why it isn't understood, and what to do.
    pub reason: &'a str,
}

/// A tensor that was left out on purpose, because it changes nothing or belongs to an adapter that
/// wasn't asked for.
#[derive(Debug, Clone, Copy)]
pub struct LeftOut<'a> {
    /// The tensor, by its name in the file.
    pub tensor: Tensor<'a>,
    /// Why it is left out.
    pub reason: &'a str,
}

/// A checked adapter. Its tensors are read when they are asked for.
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
    pub(crate) name: Option<String>,
    pub(crate) followed: Option<String>,
    pub(crate) file: TensorFile,
    /// `adapter_config.json`.
    pub(crate) config: Option<PeftConfig>,
    /// The header's configs by component; that of a header without components has none.
    pub(crate) header: Vec<(Option<String>, PeftConfig)>,
    /// Sorted by path.
    pub(crate) modules: Vec<Parts>,
    pub(crate) saved: Vec<SavedPart>,
    pub(crate) base_weights: Vec<SavedPart>,
    pub(crate) tokens: Vec<TokenParts>,
    pub(crate) unknown: Vec<UnknownPart>,
    pub(crate) left_out: Vec<UnknownPart>,
}

/// A tensor of the base model.
#[derive(Debug)]
pub(crate) struct SavedPart {
    /// In the base model.
    pub name: String,
    pub component: Option<String>,
    /// Its name in the file.
    pub key: String,
}

/// Rows of an embedding, whose tensor is given by its name in the file.
#[derive(Debug)]
pub(crate) struct TokenParts {
    pub path: String,
    pub component: Option<String>,
    pub indices: Vec<usize>,
    pub rows: String,
}

/// A tensor that isn't understood or is left out, by its name in the file.
#[derive(Debug)]
pub(crate) struct UnknownPart {
    pub name: String,
    pub reason: String,
}

/// A module whose tensors are given by their names in the file.
#[derive(Debug)]
pub(crate) struct Parts {
    pub path: String,
    pub component: Option<String>,
    pub flattened: bool,
    pub kind: Kind,
    pub experts: usize,
    pub nesting: usize,
    pub rank: usize,
    pub in_features: usize,
    pub out_features: usize,
    pub scaling: f32,
    pub scaled_by: ScalingSource,
    pub a: String,
    pub b: String,
    pub bias: Option<String>,
    pub magnitude: Option<String>,
}

/// The config that a file's header holds for a component, or for all of them.
pub(crate) fn config_in_header<'a>(
    header: &'a [(Option<String>, PeftConfig)],
    component: Option<&str>,
) -> Option<&'a PeftConfig> {
    let of = |wanted: Option<&str>| {
        let found = header.iter().find(|(name, _)| name.as_deref() == wanted)?;
        Some(&found.1)
    };
    of(component).or_else(|| of(None))
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

    /// The adapter's name in the tensors' names (`default` in `lora_A.default.weight`), if they
    /// hold one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The file that holds the tensors.
    pub fn file(&self) -> &TensorFile {
        &self.file
    }

    /// What was read: the folder if the adapter has an `adapter_config.json`, else the file. It
    /// differs from the path given to [`Adapter::read`] where that led to another: a cache's root,
    /// or a folder with one checkpoint below.
    pub fn path(&self) -> &Path {
        self.folder().unwrap_or(self.file.path())
    }

    /// How the path given to [`Adapter::read`] led to another folder, as a sentence without
    /// subject: `leads to checkpoint-10, the only folder with an adapter there`.
    pub fn followed(&self) -> Option<&str> {
        self.followed.as_deref()
    }

    /// The config, in PEFT's format: `adapter_config.json`, or the one in the file's header if it
    /// holds one alone. See [`Adapter::config_of`] for several.
    pub fn config(&self) -> Option<&PeftConfig> {
        match (&self.config, &self.header[..]) {
            (Some(config), _) => Some(config),
            (None, [(_, config)]) => Some(config),
            _ => None,
        }
    }

    /// The config of a component: `adapter_config.json`, or the one in the file's header.
    pub fn config_of(&self, component: Option<&str>) -> Option<&PeftConfig> {
        self.config
            .as_ref()
            .or_else(|| config_in_header(&self.header, component))
    }

    /// All configs, with the component of each: `adapter_config.json`, which is for all of them, or
    /// those in the file's header.
    pub fn configs(&self) -> impl Iterator<Item = (Option<&str>, &PeftConfig)> {
        let header = self.header.iter();
        let header = header.map(|(component, config)| (component.as_deref(), config));
        self.config
            .iter()
            .map(|config| (None, config))
            .chain(header)
    }

    /// The adapted modules, sorted by path.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Module<'_>> {
        self.modules.iter().map(|parts| self.module_of(parts))
    }

    /// The module at this path. Components may share a path, and so may the adapted parameters of
    /// one module: this is the first of them, in the order of [`Adapter::modules`].
    pub fn module(&self, path: &str) -> Option<Module<'_>> {
        let first = self
            .modules
            .partition_point(|parts| parts.path.as_str() < path);
        let parts = self.modules.get(first).filter(|parts| parts.path == path)?;
        Some(self.module_of(parts))
    }

    /// The tensors saved beside the modules, sorted by name.
    pub fn saved(&self) -> impl Iterator<Item = Saved<'_>> {
        self.named(&self.saved)
    }

    /// Base weights of adapted or wholly trained modules, sorted by name. The adapter doesn't
    /// change them: PEFT saves those of adapted embeddings and heads (`save_embedding_layers`) in
    /// case they were resized.
    pub fn base_weights(&self) -> impl Iterator<Item = Saved<'_>> {
        self.named(&self.base_weights)
    }

    fn named<'a>(&'a self, parts: &'a [SavedPart]) -> impl Iterator<Item = Saved<'a>> {
        parts.iter().filter_map(|part| {
            Some(Saved {
                name: &part.name,
                component: part.component.as_deref(),
                tensor: self.file.tensor(&part.key)?,
            })
        })
    }

    /// Rows of embeddings that were trained in full.
    pub fn tokens(&self) -> impl Iterator<Item = Tokens<'_>> {
        self.tokens.iter().filter_map(|parts| {
            Some(Tokens {
                path: &parts.path,
                component: parts.component.as_deref(),
                indices: &parts.indices,
                rows: self.file.tensor(&parts.rows)?,
            })
        })
    }

    /// Tensors that this crate doesn't understand. An adapter that has some can't be merged as a
    /// whole.
    pub fn unknown(&self) -> impl Iterator<Item = Unknown<'_>> {
        self.unknown.iter().filter_map(|part| {
            Some(Unknown {
                tensor: self.file.tensor(&part.name)?,
                reason: &part.reason,
            })
        })
    }

    /// Tensors that are understood and left out: those of other adapters in the same file
    /// ([`ReadOptions::adapter`]), and copies of the base's values that PEFT keeps for itself.
    pub fn left_out(&self) -> impl Iterator<Item = LeftOut<'_>> {
        self.left_out.iter().filter_map(|part| {
            Some(LeftOut {
                tensor: self.file.tensor(&part.name)?,
                reason: &part.reason,
            })
        })
    }

    /// The folder that the adapter was read from, if its files lie in one of their own: where its
    /// `adapter_config.json` is. A tokenizer may lie there, too.
    pub fn folder(&self) -> Option<&Path> {
        let file = self.config.as_ref().map(|_| self.file.path())?;
        Some(regular::folder_of(file))
    }

    fn module_of<'a>(&'a self, parts: &'a Parts) -> Module<'a> {
        // Every name in `Parts` was found in this file.
        let tensor = |key: &'a str| self.file.tensor(key);
        let named = |key: &'a str| {
            tensor(key).unwrap_or(Tensor::named(key, safetensors::Dtype::F32, &[], &[]))
        };
        Module {
            path: &parts.path,
            component: parts.component.as_deref(),
            flattened: parts.flattened,
            kind: parts.kind,
            experts: parts.experts,
            nesting: parts.nesting,
            rank: parts.rank,
            in_features: parts.in_features,
            out_features: parts.out_features,
            scaling: parts.scaling,
            scaled_by: parts.scaled_by,
            a: named(&parts.a),
            b: named(&parts.b),
            bias: parts.bias.as_deref().and_then(tensor),
            magnitude: parts.magnitude.as_deref().and_then(tensor),
        }
    }
}
