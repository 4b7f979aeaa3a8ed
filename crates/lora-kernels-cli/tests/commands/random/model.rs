//! Random base models.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::Expected;
use super::draw::Draw;
use crate::scene::{Numbers, Scene};

/// What a weight's layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// (out_features, in_features).
    Linear,
    /// (in_features, out_features), as GPT-2's Conv1D.
    Transposed,
    /// (tokens, columns).
    Embedding,
    /// (out, in, kernel ...), with so many dimensions of the kernel.
    Convolution(usize),
    /// (experts, out_features, in_features), a bare parameter.
    Experts,
}

pub struct Weight {
    /// Its module's path in the base and in the adapter.
    pub path: String,
    pub adapters_path: String,
    pub kind: Kind,
    pub value: Numbers,
    pub bias: Option<Numbers>,
}

impl Weight {
    /// The tensor's name in the base.
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Experts => format!("{}.{PARAMETER}", self.path),
            _ => format!("{}.weight", self.path),
        }
    }

    /// (out_features, in_features) as the adapter has them. A kernel's elements count as inputs.
    pub fn sizes(&self) -> (usize, usize) {
        let shape = &self.value.shape;
        match self.kind {
            Kind::Linear => (shape[0], shape[1]),
            Kind::Transposed | Kind::Embedding => (shape[1], shape[0]),
            Kind::Convolution(_) => (shape[0], shape[1..].iter().product()),
            Kind::Experts => (shape[1], shape[2]),
        }
    }
}

/// The parameter of fused experts.
pub const PARAMETER: &str = "down_proj";

/// A part of a model: its prefix in the base and in the adapter.
type Tower = (&'static str, &'static str);

/// How a base and the runtime's tree differ: the towers' prefixes, and the head's names.
const TREES: [(&[Tower], Tower); 9] = [
    (&[("model.", "model.")], ("lm_head", "lm_head")),
    (&[("", "model.")], ("score", "score")),
    (&[("model.", "")], ("lm_head", "lm_head")),
    (&[("backbone.", "model.")], ("lm_head", "lm_head")),
    (&[("transformer.", "transformer.")], ("lm_head", "lm_head")),
    (&[("", "transformer.")], ("classifier", "classifier")),
    (
        &[
            ("language_model.model.", "model.language_model."),
            ("vision_tower.", "model.vision_tower."),
        ],
        ("language_model.lm_head", "lm_head"),
    ),
    (
        &[
            ("model.language_model.", "model."),
            ("model.visual.", "visual."),
        ],
        ("lm_head", "lm_head"),
    ),
    (
        &[
            ("model.", "model.language_model."),
            ("visual.", "model.visual."),
        ],
        ("lm_head", "lm_head"),
    ),
];

pub struct Model {
    pub weights: Vec<Weight>,
    /// Norms: the base's name, the adapter's name, and the value.
    pub norms: Vec<(String, String, Numbers)>,
    /// The name of the head's module in the adapter.
    pub towers: &'static [Tower],
    others: Vec<(String, Numbers)>,
    /// The names of its files, 0 for a single file, and the tensors of each.
    shards: usize,
    is_folder: bool,
}

impl Model {
    pub fn draw(draw: &mut Draw) -> Self {
        let (towers, head) = draw.pick(&TREES);
        let mut weights = Vec::new();
        let mut norms = Vec::new();
        let hidden = draw.between(2, 7);
        let projections = [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "mlp.up_proj",
            "attn.qkv",
            "fc1",
        ];
        let conventional = draw.chance(70);
        let transposed = draw.chance(15);
        for (base, adapter) in towers {
            let names: Vec<String> = (0..draw.between(1, 3))
                .map(|at| match conventional {
                    true => projections[at].to_owned(),
                    false => draw.word(),
                })
                .collect();
            // Sizes differ, so that the layout of transposed weights is certain.
            let sizes: Vec<usize> = names.iter().map(|_| other(draw, hidden)).collect();
            let dtype = draw.float();
            for layer in 0..draw.between(1, 3) {
                for (name, &size) in names.iter().zip(&sizes) {
                    let tail = format!("layers.{layer}.{name}");
                    let kind = if transposed {
                        Kind::Transposed
                    } else {
                        Kind::Linear
                    };
                    let shape = if transposed {
                        [hidden, size]
                    } else {
                        [size, hidden]
                    };
                    weights.push(Weight {
                        path: format!("{base}{tail}"),
                        adapters_path: format!("{adapter}{tail}"),
                        kind,
                        value: draw.numbers(dtype, &shape),
                        bias: draw.chance(40).then(|| draw.numbers(dtype, &[size])),
                    });
                }
                let norm = format!("layers.{layer}.norm.weight");
                norms.push((
                    format!("{base}{norm}"),
                    format!("{adapter}{norm}"),
                    draw.numbers(dtype, &[hidden]),
                ));
                if draw.chance(15) && !transposed {
                    let tail = format!("layers.{layer}.mlp.experts");
                    let experts = draw.between(2, 3);
                    let size = other(draw, hidden);
                    weights.push(Weight {
                        path: format!("{base}{tail}"),
                        adapters_path: format!("{adapter}{tail}"),
                        kind: Kind::Experts,
                        value: draw.numbers(dtype, &[experts, size, hidden]),
                        bias: None,
                    });
                }
            }
            if draw.chance(25) && !transposed {
                let kernel = draw.between(1, 3);
                let mut shape = vec![draw.between(2, 5), draw.between(2, 4)];
                shape.extend((0..kernel).map(|_| draw.between(1, 3)));
                weights.push(Weight {
                    path: format!("{base}patch_embed.proj"),
                    adapters_path: format!("{adapter}patch_embed.proj"),
                    kind: Kind::Convolution(kernel),
                    value: draw.numbers(dtype, &shape),
                    bias: None,
                });
            }
        }
        let (base, adapter) = towers[0];
        let tokens = hidden + draw.between(1, 9);
        let dtype = draw.float();
        weights.push(Weight {
            path: format!("{base}embed_tokens"),
            adapters_path: format!("{adapter}embed_tokens"),
            kind: Kind::Embedding,
            value: draw.numbers(dtype, &[tokens, hidden]),
            bias: None,
        });
        weights.push(Weight {
            path: head.0.to_owned(),
            adapters_path: head.1.to_owned(),
            kind: Kind::Linear,
            value: draw.numbers(dtype, &[tokens, hidden]),
            bias: None,
        });
        let others = vec![
            (
                format!("{base}rotary.inv_freq"),
                draw.numbers(Dtype::F32, &[3]),
            ),
            (
                format!("{base}position_ids"),
                Numbers::new(Dtype::I64, &[2], vec![0.0, 1.0]),
            ),
        ];
        Self {
            weights,
            norms,
            towers,
            others,
            shards: draw.pick(&[1, 1, 2, 3]),
            is_folder: draw.chance(60),
        }
    }

    pub fn is_layer_of_trunk(&self, weight: &Weight) -> bool {
        weight
            .path
            .starts_with(&format!("{}layers.", self.towers[0].0))
            && weight.kind != Kind::Experts
    }

    fn tensors(&self) -> Vec<(String, &Numbers)> {
        let mut all = Vec::new();
        for weight in &self.weights {
            all.push((weight.name(), &weight.value));
            all.extend(
                weight
                    .bias
                    .as_ref()
                    .map(|bias| (format!("{}.bias", weight.path), bias)),
            );
        }
        all.extend(
            self.norms
                .iter()
                .map(|(name, _, value)| (name.clone(), value)),
        );
        all.extend(
            self.others
                .iter()
                .map(|(name, value)| (name.clone(), value)),
        );
        all
    }

    /// The result without any adapter.
    pub fn expected(&self) -> BTreeMap<String, Expected> {
        let of = |value: &Numbers| Expected {
            sum: value.clone(),
            tolerance: 0.0,
        };
        let tensors = self.tensors().into_iter();
        tensors.map(|(name, value)| (name, of(value))).collect()
    }

    /// Writes the base, and returns its path in the scene.
    pub fn write(&self, scene: &Scene, draw: &mut Draw) -> String {
        let all = self.tensors();
        let all: Vec<(&str, &Numbers)> =
            all.iter().map(|(name, value)| (&**name, *value)).collect();
        if !self.is_folder {
            scene.put("base.safetensors", &all);
            return "base.safetensors".into();
        }
        scene.text("base/config.json", r#"{"tie_word_embeddings": false}"#);
        let files = self.files("base");
        if self.shards == 1 {
            scene.put(&files[0], &all);
            return "base".into();
        }
        // No file may be empty, so the first tensors go to one each.
        let mut parts: Vec<Vec<(&str, &Numbers)>> = vec![Vec::new(); self.shards];
        for (at, tensor) in all.into_iter().enumerate() {
            let shard = if at < self.shards {
                at
            } else {
                draw.between(0, self.shards - 1)
            };
            parts[shard].push(tensor);
        }
        let shards: Vec<(&str, &[(&str, &Numbers)])> = { files.iter().zip(&parts) }
            .map(|(file, part)| (file.strip_prefix("base/").unwrap(), &part[..]))
            .collect();
        scene.shards("base/model.safetensors.index.json", &shards);
        if draw.chance(20) {
            "base/model.safetensors.index.json"
        } else {
            "base"
        }
        .into()
    }

    pub fn out(&self) -> &'static str {
        if self.is_folder {
            "out"
        } else {
            "out.safetensors"
        }
    }

    /// The files of the model in a folder, or the single file.
    pub fn files(&self, place: &str) -> Vec<String> {
        match (self.is_folder, self.shards) {
            (false, _) => vec![place.to_owned()],
            (true, 1) => vec![format!("{place}/model.safetensors")],
            (true, count) => (1..=count)
                .map(|at| format!("{place}/model-{at:05}-of-{count:05}.safetensors"))
                .collect(),
        }
    }

    /// States the mapping in some cases where a prefix is replaced that one of `names` has.
    pub fn map_argument(&self, draw: &mut Draw, names: &[&str]) -> Option<String> {
        let (base, adapter) = self.towers[0];
        let is_replaced = base != adapter && !base.is_empty() && !adapter.is_empty();
        let is_used = names.iter().any(|name| name.starts_with(adapter));
        let can = self.towers.len() == 1 && is_replaced && is_used;
        (can && draw.chance(30)).then(|| format!("--map={adapter}={base}"))
    }
}

fn other(draw: &mut Draw, size: usize) -> usize {
    let drawn = draw.between(2, 8);
    if drawn == size { drawn + 1 } else { drawn }
}
