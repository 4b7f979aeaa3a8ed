//! Random models: their modules, and the files that hold them.

use std::path::PathBuf;

use lora_kernels_fuzz::Random;
use serde_json::json;

use super::case::{Content, File};
use super::tensors::{FLOATS, Tensor, file};

/// A part of a model that an adapter can change.
#[derive(Clone, Debug)]
pub struct Module {
    /// The path behind the tree's prefix, such as `layers.0.self_attn.q_proj`.
    pub path: String,
    /// The tensor's name is the path with this behind it: `.weight`, or nothing for a parameter.
    pub suffix: &'static str,
    pub kind: Kind,
    pub shape: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Linear,
    Convolution,
    Embedding,
    Head,
    /// Experts in one tensor.
    Experts,
    Norm,
}

#[derive(Clone, Debug)]
pub struct Model {
    /// What stands before the modules' paths.
    pub prefix: &'static str,
    pub modules: Vec<Module>,
    pub tensors: Vec<Tensor>,
    pub tied: bool,
}

/// Prefixes of trees. Adapters may have another one than the base.
pub const PREFIXES: [&str; 8] = [
    "model.",
    "",
    "model.language_model.",
    "language_model.model.",
    "backbone.",
    "transformer.",
    "encoder.",
    "base.model.deep.",
];

const LINEARS: [&str; 8] = [
    "self_attn.q_proj",
    "self_attn.v_proj",
    "mlp.gate_proj",
    "mlp.down_proj",
    "attn.c_attn",
    "attn.to_out.0",
    "mlp.experts.0.w1",
    "mlp.experts.1.w1",
];
const SIZES: [usize; 6] = [1, 2, 3, 4, 6, 8];

impl Model {
    pub fn new(random: &mut Random) -> Self {
        let prefix = random.of(&PREFIXES);
        let dtype = random.of(&FLOATS[..3]);
        let hidden = random.of(&SIZES[2..]);
        let rows = 5 + random.below(4);
        let tied = random.once_in(3);
        let mut modules = Vec::new();
        let mut add = |path: &str, suffix, kind, shape: &[usize]| {
            modules.push(Module {
                path: path.to_owned(),
                suffix,
                kind,
                shape: shape.to_vec(),
            });
        };
        if random.below(4) != 0 {
            add("embed_tokens", ".weight", Kind::Embedding, &[rows, hidden]);
        }
        for layer in 0..1 + random.below(2) {
            for name in LINEARS {
                if random.once_in(2) {
                    let shape = [random.of(&SIZES), hidden];
                    add(
                        &format!("layers.{layer}.{name}"),
                        ".weight",
                        Kind::Linear,
                        &shape,
                    );
                }
            }
            if random.once_in(4) {
                let shape = [[3, 2, 3, 3], [4, 4, 1, 1], [2, 3, 1, 5]][random.below(3)];
                let shape = &shape[..3 + random.below(2)];
                add(
                    &format!("layers.{layer}.conv"),
                    ".weight",
                    Kind::Convolution,
                    shape,
                );
            }
            if random.once_in(4) {
                let shape = [2, random.of(&SIZES), random.of(&SIZES)];
                let path = format!("layers.{layer}.mlp.experts.gate_up_proj");
                add(&path, "", Kind::Experts, &shape);
            }
            add(
                &format!("layers.{layer}.norm"),
                ".weight",
                Kind::Norm,
                &[hidden],
            );
        }
        let mut tensors: Vec<Tensor> = modules
            .iter()
            .map(|module| {
                let name = format!("{prefix}{}{}", module.path, module.suffix);
                // A few weights have another type than the rest.
                let other = random.of(&["F64", "I8", "F8_E4M3", "F32"]);
                let dtype = if random.once_in(60) { other } else { dtype };
                Tensor::new(random, name, dtype, &module.shape)
            })
            .collect();
        if !tied && random.below(4) != 0 {
            let shape = [rows, hidden];
            let name = random.of(&["lm_head", "lm_head", "language_model.lm_head", "score"]);
            tensors.push(Tensor::new(random, format!("{name}.weight"), dtype, &shape));
            modules.push(Module {
                path: name.to_owned(),
                suffix: ".weight",
                kind: Kind::Head,
                shape: shape.to_vec(),
            });
        }
        if random.once_in(20) {
            // As a quantised model has it.
            let name = format!("{prefix}layers.0.self_attn.k_proj.qweight");
            tensors.push(Tensor::new(random, name, "I32", &[2, 2]));
        }
        Self {
            prefix,
            modules,
            tensors,
            tied,
        }
    }

    /// The path as the base has it. Heads don't stand behind the tree's prefix.
    pub fn name(&self, module: &Module) -> String {
        match module.kind {
            Kind::Head => module.path.clone(),
            _ => format!("{}{}", self.prefix, module.path),
        }
    }

    fn config(&self, random: &mut Random) -> String {
        let embedding = self
            .modules
            .iter()
            .find(|module| module.kind == Kind::Embedding);
        let mut config = json!({
            "architectures": [random.of(&["LlamaForCausalLM", "GPT2LMHeadModel", "BertModel"])],
            "model_type": "llama",
            "vocab_size": embedding.map_or(8, |module| module.shape[0]),
        });
        if self.tied || random.once_in(2) {
            config["tie_word_embeddings"] = self.tied.into();
        }
        if random.once_in(4) {
            config = json!({"model_type": "wrapper", "text_config": config});
        }
        if random.once_in(30) {
            config["quantization_config"] = json!({"quant_method": "gptq", "bits": 4});
        }
        config.to_string()
    }

    /// The base as files below `base`, and the path that is given as BASE.
    pub fn files(&self, random: &mut Random) -> (Vec<File>, PathBuf) {
        let one = |path: &str, tensors: &[Tensor]| File {
            path: path.into(),
            content: Content::Bytes(file(tensors, &[("format", "pt".to_owned())])),
        };
        let text = |path: &str, text: String| File {
            path: path.into(),
            content: Content::Bytes(text.into_bytes()),
        };
        let config = self.config(random);
        let mut files = Vec::new();
        let kind = random.below(12);
        match kind {
            0..2 => {
                return (
                    vec![one("base.safetensors", &self.tensors)],
                    "base.safetensors".into(),
                );
            }
            2..5 => files.push(one("base/model.safetensors", &self.tensors)),
            5 => files.push(one(
                "base/diffusion_pytorch_model.safetensors",
                &self.tensors,
            )),
            6 => files.push(one(
                "base/transformer/diffusion_pytorch_model.safetensors",
                &self.tensors,
            )),
            7 => {
                // As the cache has it: links to blobs.
                let snapshot = "base/snapshots/0123456789abcdef";
                files.push(one("base/blobs/aa", &self.tensors));
                files.push(text("base/blobs/bb", config.clone()));
                files.push(text("base/refs/main", "0123456789abcdef".into()));
                for (name, blob) in [("model.safetensors", "aa"), ("config.json", "bb")] {
                    files.push(File {
                        path: format!("{snapshot}/{name}").into(),
                        content: Content::Link(format!("../../blobs/{blob}").into()),
                    });
                }
                let path = random.of(&[snapshot, "base"]);
                return (files, path.into());
            }
            _ => {
                let cut = random.below(self.tensors.len() + 1);
                let (first, second) = self.tensors.split_at(cut);
                let mut map = serde_json::Map::new();
                for (shard, tensors) in [("one", first), ("two", second)] {
                    let shard = format!("{shard}.safetensors");
                    files.push(one(&format!("base/{shard}"), tensors));
                    for tensor in tensors {
                        map.insert(tensor.name.clone(), shard.clone().into());
                    }
                }
                let total: usize = self.tensors.iter().map(|tensor| tensor.data.len()).sum();
                let index = json!({"metadata": {"total_size": total}, "weight_map": map});
                files.push(text("base/model.safetensors.index.json", index.to_string()));
                if kind == 11 {
                    let name = "tok_embeddings.weight".to_owned();
                    let other = Tensor::new(random, name, "BF16", &[2, 2]);
                    files.push(one("base/consolidated.safetensors", &[other]));
                }
            }
        }
        if random.below(8) != 0 {
            files.push(text("base/config.json", config));
        }
        if random.once_in(4) {
            files.push(text(
                "base/tokenizer.json",
                r#"{"model": {"vocab": {"a": 0}}}"#.into(),
            ));
        }
        if random.once_in(8) {
            files.push(text("base/generation_config.json", "{}".into()));
        }
        let index = "base/model.safetensors.index.json";
        if kind > 7 && random.once_in(10) {
            return (files, index.into());
        }
        (files, "base".into())
    }
}
