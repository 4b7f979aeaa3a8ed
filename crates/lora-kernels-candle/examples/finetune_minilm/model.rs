//! all-MiniLM-L6-v2, a BERT encoder, with adapted layers where PEFT put adapters.
//!
//! If layers run in bf16, x is rounded to bf16 before each layer and y is converted to f32 after
//! it, as autocast does. Embeddings, attention, GELU, LayerNorm and residual sums are always in
//! f32.

use std::collections::HashMap;

use candle_core::{D, DType, Tensor, bail};
use candle_nn::{Embedding, Linear, Module, ops};
use lora_kernels_candle::{Backend, Lora, LoraLinear, LoraLinears, Projection};

use crate::Failure;
use crate::weights::Config;

/// The parts of the model, and how its adapted layers compute.
pub struct Parts<'a> {
    /// The base model's tensors in f32, keyed by their names in its file.
    pub weights: &'a HashMap<String, Tensor>,
    /// Adapters keyed by the path of their layer.
    pub adapters: &'a HashMap<String, Lora>,
    /// The element type of the adapted layers, of their inputs and of their outputs.
    pub dtype: DType,
    pub backend: &'a Backend,
}

impl Parts<'_> {
    fn weight(&self, name: &str, dims: &[usize]) -> Result<Tensor, Failure> {
        match self.weights.get(name) {
            Some(tensor) if tensor.dims() == dims => Ok(tensor.to_dtype(DType::F32)?),
            Some(tensor) => Err(Failure::Model(format!(
                "the model's {name} is {:?}, by config.json it must be {dims:?}",
                tensor.dims()
            ))),
            None => Err(Failure::Model(format!(
                "the model's file has no tensor {name}"
            ))),
        }
    }

    /// The projection of a layer with (outputs, inputs) features, in the adapted layers' type.
    fn projection(
        &self,
        path: &str,
        (outputs, inputs): (usize, usize),
    ) -> Result<Projection, Failure> {
        let weight = self.weight(&format!("{path}.weight"), &[outputs, inputs])?;
        let bias = self.weight(&format!("{path}.bias"), &[outputs])?;
        let lora = self.adapters.get(path).cloned();
        if let Some(Lora { a, b, .. }) = &lora
            && (a.dim(1)?, b.dim(0)?) != (inputs, outputs)
        {
            return Err(Failure::Model(format!(
                "the model's {path} has {inputs} inputs and {outputs} outputs, the recorded adapter's is {} and {}",
                a.dim(1)?,
                b.dim(0)?
            )));
        }
        let linear = Linear::new(
            weight.to_dtype(self.dtype)?,
            Some(bias.to_dtype(self.dtype)?),
        );
        Ok(Projection::new(&linear, lora))
    }

    fn linears(&self, paths: &[String], size: (usize, usize)) -> Result<LoraLinears, Failure> {
        let projections = paths.iter().map(|path| self.projection(path, size));
        Ok(
            LoraLinears::new(projections.collect::<Result<_, Failure>>()?)
                .with_backend(self.backend.clone()),
        )
    }

    fn linear(&self, path: &str, size: (usize, usize)) -> Result<LoraLinear, Failure> {
        let projection = self.projection(path, size)?;
        let Some(lora) = projection.lora else {
            return Err(Failure::Model(format!(
                "the recorded adapter has no module {path}"
            )));
        };
        let base = Linear::new(projection.weight, projection.bias);
        Ok(LoraLinear::new(&base, lora).with_backend(self.backend.clone()))
    }

    fn norm(&self, path: &str, config: &Config) -> Result<Norm, Failure> {
        Ok(Norm {
            weight: self.weight(&format!("{path}.weight"), &[config.hidden_size])?,
            bias: self.weight(&format!("{path}.bias"), &[config.hidden_size])?,
            eps: config.layer_norm_eps as f32,
        })
    }
}

/// A LayerNorm made of simple operations, because candle's fused LayerNorm has no backward.
struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        ops::layer_norm_slow(x, &self.weight, &self.bias, self.eps)
    }
}

pub struct Model {
    words: Embedding,
    positions: Tensor,
    token_type: Tensor,
    norm: Norm,
    layers: Vec<EncoderLayer>,
    dtype: DType,
}

struct EncoderLayer {
    /// query, key and value, computed in one call
    qkv: LoraLinears,
    heads: usize,
    attention_output: LoraLinear,
    attention_norm: Norm,
    intermediate: LoraLinear,
    output: LoraLinear,
    output_norm: Norm,
}

impl Model {
    pub fn new(config: &Config, parts: &Parts<'_>) -> Result<Self, Failure> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        if heads == 0 || !hidden.is_multiple_of(heads) || config.type_vocab_size == 0 {
            return Err(Failure::Model(format!(
                "the model's config.json has hidden_size {hidden}, num_attention_heads {heads} and type_vocab_size {}",
                config.type_vocab_size
            )));
        }
        let table = |name: &str, rows| {
            parts.weight(
                &format!("embeddings.{name}_embeddings.weight"),
                &[rows, hidden],
            )
        };
        let layers =
            (0..config.num_hidden_layers).map(|index| EncoderLayer::new(config, parts, index));
        Ok(Self {
            words: Embedding::new(table("word", config.vocab_size)?, hidden),
            positions: table("position", config.max_position_embeddings)?,
            token_type: table("token_type", config.type_vocab_size)?.narrow(0, 0, 1)?,
            norm: parts.norm("embeddings.LayerNorm", config)?,
            layers: layers.collect::<Result<_, Failure>>()?,
            dtype: parts.dtype,
        })
    }

    /// The last hidden state (sequences, tokens, hidden) for `ids` and `mask`, both (sequences,
    /// tokens). The mask is 1 where there is a token.
    pub fn forward(&self, ids: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let positions = self.positions.narrow(0, 0, ids.dim(1)?)?;
        let embedded = self
            .words
            .forward(ids)?
            .broadcast_add(&positions)?
            .broadcast_add(&self.token_type)?;
        // (sequences, 1, 1, tokens)
        let unattended = mask
            .affine(f64::from(f32::MAX), -f64::from(f32::MAX))?
            .unsqueeze(1)?
            .unsqueeze(1)?;
        let first = self.norm.forward(&embedded)?;
        self.layers.iter().try_fold(first, |hidden, layer| {
            layer.forward(&hidden, &unattended, self.dtype)
        })
    }
}

impl EncoderLayer {
    fn new(config: &Config, parts: &Parts<'_>, index: usize) -> Result<Self, Failure> {
        let path = format!("encoder.layer.{index}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let qkv = ["query", "key", "value"].map(|name| format!("{path}.attention.self.{name}"));
        Ok(Self {
            qkv: parts.linears(&qkv, (hidden, hidden))?,
            heads: config.num_attention_heads,
            attention_output: parts
                .linear(&format!("{path}.attention.output.dense"), (hidden, hidden))?,
            attention_norm: parts.norm(&format!("{path}.attention.output.LayerNorm"), config)?,
            intermediate: parts.linear(&format!("{path}.intermediate.dense"), (inner, hidden))?,
            output: parts.linear(&format!("{path}.output.dense"), (hidden, inner))?,
            output_norm: parts.norm(&format!("{path}.output.LayerNorm"), config)?,
        })
    }

    fn forward(
        &self,
        hidden: &Tensor,
        unattended: &Tensor,
        dtype: DType,
    ) -> candle_core::Result<Tensor> {
        let apply = |layer: &LoraLinear, x: &Tensor| {
            layer.forward(&x.to_dtype(dtype)?)?.to_dtype(DType::F32)
        };
        let attended = self.attend(&self.qkv.forward(&hidden.to_dtype(dtype)?)?, unattended)?;
        let hidden = self
            .attention_norm
            .forward(&(apply(&self.attention_output, &attended)? + hidden)?)?;
        let inner = apply(&self.intermediate, &hidden)?.gelu_erf()?;
        self.output_norm
            .forward(&(apply(&self.output, &inner)? + hidden)?)
    }

    /// (sequences, tokens, hidden)
    fn attend(&self, qkv: &[Tensor], unattended: &Tensor) -> candle_core::Result<Tensor> {
        let [query, key, value] = qkv else {
            bail!("query, key and value are three")
        };
        let (sequences, tokens, hidden) = query.dims3()?;
        let by_head = |x: &Tensor| {
            let x = x.to_dtype(DType::F32)?.reshape((
                sequences,
                tokens,
                self.heads,
                hidden / self.heads,
            ))?;
            x.transpose(1, 2)?.contiguous()
        };
        // (sequences, heads, tokens, hidden / heads)
        let (query, key, value) = (by_head(query)?, by_head(key)?, by_head(value)?);
        let scale = 1.0 / ((hidden / self.heads) as f64).sqrt();
        let scores = (query.matmul(&key.t()?.contiguous()?)? * scale)?.broadcast_add(unattended)?;
        let attended = ops::softmax(&scores, D::Minus1)?.matmul(&value)?;
        attended
            .transpose(1, 2)?
            .reshape((sequences, tokens, hidden))
    }
}
