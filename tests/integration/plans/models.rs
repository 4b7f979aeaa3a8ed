//! The linear layers of models for which adapters are trained.

use std::fmt;

/// A layer of one or more projections that share x.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLayer {
    model: &'static str,
    pub input: usize,
    pub outputs: Vec<usize>,
}

impl ModelLayer {
    pub fn new(model: &'static str, input: usize, outputs: &[usize]) -> Self {
        Self {
            model,
            input,
            outputs: outputs.to_vec(),
        }
    }
}

impl ModelLayer {
    pub fn model(&self) -> &'static str {
        self.model
    }
}

impl fmt::Display for ModelLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outputs: Vec<_> = self.outputs.iter().map(usize::to_string).collect();
        let space = if self.model.is_empty() { "" } else { " " };
        write!(
            f,
            "{}{space}{}->{}",
            self.model,
            self.input,
            outputs.join("+")
        )
    }
}

/// (model, width, width of q, of k and v, of gate and up). q, k and v share x, and so do gate and
/// up.
const GATED: &[(&str, usize, usize, usize, usize)] = &[
    ("Llama-2-7B", 4096, 4096, 4096, 11008),
    ("Llama-2-13B", 5120, 5120, 5120, 13824),
    ("LLaMA-30B", 6656, 6656, 6656, 17920),
    ("LLaMA-65B", 8192, 8192, 8192, 22016),
    ("Llama-3-70B", 8192, 8192, 1024, 28672),
    ("Llama-3-8B", 4096, 4096, 1024, 14336),
    ("Llama-3.2-1B", 2048, 2048, 512, 8192),
    ("Llama-3.2-3B", 3072, 3072, 1024, 8192),
    ("Llama-3.1-405B", 16384, 16384, 1024, 53248),
    ("CodeLlama-34B", 8192, 8192, 1024, 22016),
    ("TinyLlama-1.1B", 2048, 2048, 256, 5632),
    ("Mixtral-8x22B", 6144, 6144, 1024, 16384),
    ("Mistral-Large", 12288, 12288, 1024, 28672),
    ("Qwen2.5-0.5B", 896, 896, 128, 4864),
    ("Qwen2.5-1.5B", 1536, 1536, 256, 8960),
    ("Qwen2.5-3B", 2048, 2048, 256, 11008),
    ("Qwen2.5-7B", 3584, 3584, 512, 18944),
    ("Qwen2.5-14B", 5120, 5120, 1024, 13824),
    ("Qwen2.5-32B", 5120, 5120, 1024, 27648),
    ("Qwen2.5-72B", 8192, 8192, 1024, 29568),
    ("Qwen3-0.6B", 1024, 2048, 1024, 3072),
    ("Qwen3-1.7B", 2048, 2048, 1024, 6144),
    ("Qwen3-4B", 2560, 4096, 1024, 9728),
    ("Qwen3-8B", 4096, 4096, 1024, 12288),
    ("Qwen3-14B", 5120, 5120, 1024, 17408),
    ("Qwen3-32B", 5120, 8192, 1024, 25600),
    ("Qwen3-30B-A3B", 2048, 4096, 512, 768),
    ("Gemma-2-2b", 2304, 2048, 1024, 9216),
    ("Gemma-2-9b", 3584, 4096, 2048, 14336),
    ("Gemma-2-27b", 4608, 4096, 2048, 36864),
    ("Gemma-3-1b", 1152, 1024, 256, 6912),
    ("Gemma-3-27b", 5376, 4096, 2048, 21504),
    ("phi-4", 5120, 5120, 1280, 17920),
];

/// (model, width, width of the fused q, k and v, of the MLP). These layers don't share x.
const FUSED: &[(&str, usize, usize, usize)] = &[
    ("Qwen-7B", 4096, 12288, 11008),
    ("Qwen-1.8B", 2048, 6144, 5504),
    ("Qwen-14B", 5120, 15360, 13696),
    ("Qwen-72B", 8192, 24576, 24576),
    ("phi-2", 2560, 7680, 10240),
    ("Phi-3-mini", 3072, 9216, 16384),
    ("GPT-2", 768, 2304, 3072),
    ("GPT-2-medium", 1024, 3072, 4096),
    ("GPT-2-large", 1280, 3840, 5120),
    ("DeBERTa-xxl", 1536, 4608, 6144),
    ("GPT-3", 12288, 36864, 49152),
];

/// Heads and shards of tensor-parallel layers with awkward widths.
const AWKWARD: &[(&str, usize, usize)] = &[
    ("GPT-2 head", 768, 50257),
    ("Llama-2 head", 4096, 32000),
    ("Llama-3 head", 4096, 128_256),
    ("Qwen2.5 head", 3584, 152_064),
    ("Gemma-2 head", 2304, 256_000),
    ("shard", 4096, 3424),
    ("shard", 4096, 3696),
];

/// The layers of all models.
pub fn all() -> Vec<ModelLayer> {
    let gated = GATED.iter().flat_map(|&(model, width, q, kv, mlp)| {
        [
            ModelLayer::new(model, width, &[q, kv, kv]),
            ModelLayer::new(model, q, &[width]),
            ModelLayer::new(model, width, &[mlp, mlp]),
            ModelLayer::new(model, mlp, &[width]),
        ]
    });
    let fused = FUSED.iter().flat_map(|&(model, width, qkv, mlp)| {
        [
            ModelLayer::new(model, width, &[qkv]),
            ModelLayer::new(model, width, &[width]),
            ModelLayer::new(model, width, &[mlp]),
            ModelLayer::new(model, mlp, &[width]),
        ]
    });
    let awkward = AWKWARD
        .iter()
        .map(|&(model, width, outputs)| ModelLayer::new(model, width, &[outputs]));
    gated.chain(fused).chain(awkward).collect()
}

/// All layers, without duplicates.
pub fn layers() -> Vec<ModelLayer> {
    let mut layers: Vec<ModelLayer> = Vec::new();
    for layer in all() {
        let known =
            |other: &ModelLayer| other.input == layer.input && other.outputs == layer.outputs;
        if !layers.iter().any(known) {
            layers.push(layer);
        }
    }
    layers
}
