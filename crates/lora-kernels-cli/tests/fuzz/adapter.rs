//! Random adapters for a model.

use std::path::PathBuf;

use lora_kernels_fuzz::Random;
use serde_json::{Map, Value, json};

use super::case::{Content, File};
use super::disturb::disturb;
use super::model::{Kind, Model, Module, PREFIXES};
use super::tensors::{FLOATS, Tensor, file};

/// An adapter's files and what is known about it.
pub struct Adapter {
    pub files: Vec<File>,
    /// What is given as ADAPTER.
    pub path: PathBuf,
    /// Options that it needs.
    pub options: Vec<String>,
    /// What it has, of [`super::case::KINDS`].
    pub kinds: Vec<&'static str>,
    /// Its tensors' names.
    pub names: Vec<String>,
    /// The tensors of the base that it is for, and whether it changes them for sure.
    pub targets: Vec<Target>,
    /// Whether tensors were renamed, lost, or given other shapes and types.
    pub disturbed: bool,
}

/// A tensor of the base that an adapter is for.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    /// Whether the change is large enough to be seen in each type.
    pub sure: bool,
}

/// How tensors of an adapter are called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Peft,
    /// PEFT's, with the adapter's name in the keys.
    Named,
    /// One file with diffusers' header, or with none.
    Diffusers,
    Mistral,
    Kohya,
}

struct Writer<'r> {
    random: &'r mut Random,
    style: Style,
    dtype: &'static str,
    rank: usize,
    tensors: Vec<Tensor>,
    modules: Vec<String>,
    targets: Vec<Target>,
    parameters: Vec<String>,
    saved: Vec<String>,
    tokens: Option<Vec<usize>>,
    dora: bool,
    bias: bool,
    kinds: Vec<&'static str>,
}

impl Adapter {
    /// An adapter in the folder or file `name`.
    pub fn new(random: &mut Random, model: &Model, name: &str) -> Self {
        let style = match random.below(12) {
            0..6 => Style::Peft,
            6..8 => Style::Named,
            8..10 => Style::Diffusers,
            10 => Style::Mistral,
            _ => Style::Kohya,
        };
        let prefix = match random.below(4) {
            0 => random.of(&PREFIXES),
            _ => model.prefix,
        };
        let dora = style == Style::Peft && random.once_in(6);
        let mut writer = Writer {
            style,
            dtype: random.of(&FLOATS),
            rank: 1 + random.below(4),
            tensors: Vec::new(),
            modules: Vec::new(),
            targets: Vec::new(),
            parameters: Vec::new(),
            saved: Vec::new(),
            tokens: None,
            dora,
            bias: false,
            kinds: Vec::new(),
            random,
        };
        for module in &model.modules {
            writer.module(model, prefix, module);
        }
        if writer.tensors.is_empty() {
            // Something at least.
            let module = model
                .modules
                .iter()
                .find(|module| module.kind == Kind::Linear);
            if let Some(module) = module {
                let path = model.name(module);
                writer.linear(model, &path, module);
            }
        }
        writer.finish(name)
    }
}

impl Writer<'_> {
    fn module(&mut self, model: &Model, prefix: &str, module: &Module) {
        let path = match module.kind {
            Kind::Head => module.path.clone(),
            _ => format!("{prefix}{}", module.path),
        };
        let peft = matches!(self.style, Style::Peft | Style::Named);
        match module.kind {
            Kind::Linear if self.random.below(3) != 0 => self.linear(model, &path, module),
            Kind::Convolution if peft && self.random.once_in(2) => {
                self.convolution(model, &path, module)
            }
            Kind::Experts if peft && self.random.once_in(2) => self.experts(model, &path, module),
            Kind::Embedding if peft && self.random.once_in(3) => match self.random.below(3) {
                0 => self.embedding(model, &path, module),
                1 => self.tokens(model, &path, module),
                _ => self.save(model, &path, module),
            },
            Kind::Head if peft && self.random.once_in(4) => match self.random.below(2) {
                0 => self.linear(model, &path, module),
                _ => self.save(model, &path, module),
            },
            Kind::Norm if peft && self.random.once_in(8) => self.save(model, &path, module),
            _ => {}
        }
    }

    fn name(&self, path: &str, part: &str) -> String {
        match self.style {
            Style::Peft => format!("base_model.model.{path}.{part}.weight"),
            Style::Named => format!("base_model.model.{path}.{part}.default.weight"),
            Style::Diffusers => format!("transformer.{path}.{part}.weight"),
            Style::Mistral => format!("{path}.{part}.weight"),
            Style::Kohya => {
                let part = match part {
                    "lora_A" => "lora_down",
                    _ => "lora_up",
                };
                format!("lora_transformer_{}.{part}.weight", path.replace('.', "_"))
            }
        }
    }

    fn add(&mut self, name: String, shape: &[usize]) {
        let dtype = if self.random.once_in(30) {
            self.random.of(&FLOATS)
        } else {
            self.dtype
        };
        self.tensors
            .push(Tensor::new(self.random, name, dtype, shape));
    }

    /// Notes what the last `count` tensors change.
    fn target(&mut self, model: &Model, module: &Module, path: &str, count: usize) {
        let tensors = &self.tensors[self.tensors.len() - count..];
        let large = module.shape.iter().product::<usize>() > 3;
        let name = format!("{}{}", model.name(module), module.suffix);
        let base = model.tensors.iter().find(|tensor| tensor.name == name);
        let mut parts = tensors.iter().chain(base);
        let sure = large && parts.all(|tensor| tensor.ordinary);
        self.targets.push(Target { name, sure });
        let last = path.rsplit('.').next().unwrap_or(path).to_owned();
        if !self.modules.contains(&last) {
            self.modules.push(last);
        }
    }

    fn linear(&mut self, model: &Model, path: &str, module: &Module) {
        let (n, k) = match (module.shape[0], module.shape[1]) {
            // As GPT-2's Conv1D has it.
            (n, k) if self.random.once_in(12) => (k, n),
            sizes => sizes,
        };
        let r = self.rank;
        self.add(self.name(path, "lora_A"), &[r, k]);
        self.add(self.name(path, "lora_B"), &[n, r]);
        self.target(model, module, path, 2);
        self.kinds.push(match self.style {
            Style::Peft => "linear",
            Style::Named => "an adapter's name in the keys",
            Style::Diffusers => "diffusers",
            Style::Mistral => "Mistral",
            Style::Kohya => "kohya",
        });
        if self.style == Style::Kohya && self.random.below(3) != 0 {
            let name = format!("lora_transformer_{}.alpha", path.replace('.', "_"));
            self.tensors.push(Tensor::scalar(name, 2.0));
        }
        if self.style == Style::Peft && self.random.once_in(20) {
            let name = self.random.of(&["lora_B.bias", "bias"]);
            self.add(format!("base_model.model.{path}.{name}"), &[n]);
            self.bias = true;
        }
        if self.dora {
            let name = format!("base_model.model.{path}.lora_magnitude_vector");
            self.add(name, &[n]);
            self.kinds.push("DoRA");
        }
    }

    fn convolution(&mut self, model: &Model, path: &str, module: &Module) {
        let (shape, r) = (module.shape.clone(), self.rank);
        let mut down = shape.clone();
        down[0] = r;
        let mut up = vec![1; shape.len()];
        (up[0], up[1]) = (shape[0], r);
        self.add(self.name(path, "lora_A"), &down);
        self.add(self.name(path, "lora_B"), &up);
        self.target(model, module, path, 2);
        self.kinds.push("a convolution");
    }

    fn experts(&mut self, model: &Model, path: &str, module: &Module) {
        let [experts, first, second] = module.shape[..] else {
            return;
        };
        let (k, n) = match self.random.below(2) {
            0 => (first, second),
            _ => (second, first),
        };
        let r = self.rank;
        if self.random.once_in(3) {
            // One matrix for each expert, stacked.
            self.add(self.name(path, "lora_A"), &[experts, r, k]);
            self.add(self.name(path, "lora_B"), &[experts, n, r]);
            self.target(model, module, path, 2);
            self.kinds.push("stacked experts");
            return;
        }
        let layer = path.rsplit_once('.').map_or(path, |(layer, _)| layer);
        self.add(self.name(layer, "lora_A"), &[experts * r, k]);
        self.add(self.name(layer, "lora_B"), &[n, r * experts]);
        self.target(model, module, layer, 2);
        self.parameters.push("experts.gate_up_proj".to_owned());
        self.kinds.push("experts");
    }

    fn embedding(&mut self, model: &Model, path: &str, module: &Module) {
        let (rows, hidden, r) = (module.shape[0], module.shape[1], self.rank);
        let end = match self.style {
            Style::Named => ".default",
            _ => "",
        };
        let path_of = |part: &str| format!("base_model.model.{path}.{part}{end}");
        self.add(path_of("lora_embedding_A"), &[r, rows]);
        self.add(path_of("lora_embedding_B"), &[hidden, r]);
        self.target(model, module, path, 2);
        self.kinds.push("an embedding");
    }

    fn tokens(&mut self, model: &Model, path: &str, module: &Module) {
        let count = 1 + self.random.below(2);
        let name = format!("base_model.model.{path}.token_adapter.trainable_tokens_delta");
        self.add(name, &[count, module.shape[1]]);
        self.target(model, module, path, 1);
        let first = self.random.below(module.shape[0] + 1 - count);
        self.tokens = Some((first..first + count).collect());
        self.kinds.push("trained tokens");
    }

    /// A module trained whole, and the rows of an embedding grown at times.
    fn save(&mut self, model: &Model, path: &str, module: &Module) {
        let mut shape = module.shape.clone();
        if module.kind == Kind::Embedding && model.tied && self.random.once_in(2) {
            shape[0] += 2;
            self.kinds.push("a grown vocabulary");
        }
        let segment = self
            .random
            .of(&["", "", ".modules_to_save", ".modules_to_save.default"]);
        self.add(format!("base_model.model.{path}{segment}.weight"), &shape);
        self.target(model, module, path, 1);
        if !segment.is_empty() && self.random.once_in(2) {
            // The base's own tensor, as PEFT keeps it.
            let name = format!("{}{}", model.name(module), module.suffix);
            let base = model.tensors.iter().find(|tensor| tensor.name == name);
            self.tensors.extend(base.map(|base| Tensor {
                name: format!("base_model.model.{path}.original_module.weight"),
                ..base.clone()
            }));
        }
        let last = path.rsplit('.').next().unwrap_or(path).to_owned();
        self.saved.push(last);
        self.kinds.push("a module trained whole");
    }

    fn config(&mut self) -> Map<String, Value> {
        let alpha: Value = match self.random.below(24) {
            0 => Value::Null,
            1 => json!(0.5),
            _ => json!(2 * self.rank),
        };
        let mut config = json!({
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": alpha,
            "target_modules": self.modules,
            "use_rslora": self.random.once_in(8),
            "use_dora": self.dora,
            "bias": if self.bias { "all" } else { "none" },
            "lora_bias": self.bias && self.random.once_in(2),
        });
        if !self.saved.is_empty() && self.random.below(4) != 0 {
            config["modules_to_save"] = json!(self.saved);
        }
        if !self.parameters.is_empty() {
            config["target_parameters"] = json!(self.parameters);
        }
        if let Some(tokens) = &self.tokens {
            config["trainable_token_indices"] = json!(tokens);
        }
        if self.random.once_in(20) {
            config["rank_pattern"] = json!({"q_proj": self.rank});
        }
        match config {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// What stands beside the adapter in its file, and what stands around its names.
    fn others(&mut self, options: &mut Vec<String>) {
        match self.style {
            Style::Diffusers if self.random.once_in(3) => {
                let path = "text_encoder.text_model.layers.0.q_proj";
                self.add(format!("{path}.lora_A.weight"), &[2, 3]);
                self.add(format!("{path}.lora_B.weight"), &[3, 2]);
                self.kinds.push("another component");
            }
            Style::Named if self.random.once_in(3) => {
                let other = |tensor: &Tensor| Tensor {
                    name: tensor.name.replace(".default", ".other"),
                    ..tensor.clone()
                };
                let others: Vec<Tensor> = { self.tensors.iter() }
                    .filter(|tensor| tensor.name.contains(".default"))
                    .map(other)
                    .collect();
                self.tensors.extend(others);
                options.extend(["--adapter", "default"].map(str::to_owned));
                self.kinds.push("two adapters in a file");
            }
            Style::Peft if self.random.once_in(10) => {
                let wrapper = self
                    .random
                    .of(&["_orig_mod.", "module.", "module._orig_mod."]);
                for tensor in &mut self.tensors {
                    tensor.name.insert_str(0, wrapper);
                }
                self.kinds.push("wrappers");
            }
            _ => {}
        }
    }

    fn finish(mut self, name: &str) -> Adapter {
        let config = self.config();
        let mut options = Vec::new();
        let names = self
            .tensors
            .iter()
            .map(|tensor| tensor.name.clone())
            .collect();
        self.others(&mut options);
        let disturbed = self.random.once_in(5);
        if disturbed {
            disturb(self.random, &mut self.tensors);
        }
        let mut files = Vec::new();
        let mut add = |path: String, bytes: Vec<u8>| {
            files.push(File {
                path: path.into(),
                content: Content::Bytes(bytes),
            });
        };
        let path = match self.style {
            Style::Peft | Style::Named => {
                let below = self
                    .random
                    .of(&["", "", "", "", "/checkpoint-10", "/default"]);
                let folder = format!("{name}{below}");
                add(
                    format!("{folder}/adapter_model.safetensors"),
                    file(&self.tensors, &[]),
                );
                let config = Value::Object(config).to_string();
                add(format!("{folder}/adapter_config.json"), config.into_bytes());
                if self.random.once_in(6) {
                    let vocabulary = br#"{"model": {"vocab": {"a": 0, "b": 1}}}"#;
                    add(format!("{folder}/tokenizer.json"), vocabulary.to_vec());
                    add(format!("{folder}/chat_template.jinja"), b"{{ x }}".to_vec());
                }
                name.to_owned()
            }
            _ => {
                let path = format!("{name}.safetensors");
                let mut metadata = Vec::new();
                if self.style == Style::Diffusers && self.random.once_in(2) {
                    let config: Map<String, Value> = config
                        .into_iter()
                        .map(|(key, value)| (format!("transformer.{key}"), value))
                        .collect();
                    let config = Value::Object(config).to_string();
                    metadata.push(("lora_adapter_metadata", config));
                } else if self.style != Style::Kohya {
                    options.extend(["--scaling", "0.5"].map(str::to_owned));
                }
                add(path.clone(), file(&self.tensors, &metadata));
                path
            }
        };
        Adapter {
            files,
            path: path.into(),
            options,
            kinds: self.kinds,
            names,
            targets: self.targets,
            disturbed,
        }
    }
}
