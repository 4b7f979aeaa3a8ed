//! Layers: adapted projections with their choices, as modules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{ModuleT, Result, Tensor};
use candle_nn::{Init, Linear, VarBuilder};
use lora_kernels::{Dropout, Mask, WeightLayout};

use crate::{Backend, Lora, Options, Projection, lora_linears};

/// Dropout that draws another mask for every call. Clones draw from the same sequence: give one to
/// all layers of a model, and no two calls see the same mask. The same seed and the same order of
/// calls give the same masks again.
#[derive(Debug, Clone)]
pub struct Masks {
    p: f32,
    seed: u64,
    next: Arc<AtomicU64>,
}

impl Masks {
    /// Elements of the adapters' input are zeroed with probability `p`, in [0, 1); the others are
    /// divided by 1 - p.
    pub fn new(p: f32, seed: u64) -> Self {
        Self {
            p,
            seed,
            next: Arc::default(),
        }
    }

    /// The dropout of one call; the next one's offset is one higher.
    pub fn draw(&self) -> Dropout {
        Dropout {
            p: self.p,
            seed: self.seed,
            offset: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The offset of the next call: keep it with a checkpoint, to go on with
    /// [`Masks::starting_at`].
    pub fn offset(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The same masks from this offset on, as a sequence of its own: what it was cloned from goes
    /// on with the other.
    pub fn starting_at(self, offset: u64) -> Self {
        Self {
            next: Arc::new(AtomicU64::new(offset)),
            ..self
        }
    }
}

impl Lora {
    /// A new or stored adapter: `lora_A.weight` (rank, in_features) and `lora_B.weight`
    /// (out_features, rank) of `vb`, PEFT's names, in `vb`'s type. What isn't there yet starts as
    /// PEFT's does: A uniform in ±1/√in_features, B zero.
    ///
    /// # Errors
    /// What `vb` refuses.
    pub fn load(
        in_features: usize,
        out_features: usize,
        rank: usize,
        scaling: f32,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let bound = 1.0 / (in_features as f64).sqrt();
        let uniform = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        Ok(Self {
            a: vb.get_with_hints((rank, in_features), "lora_A.weight", uniform)?,
            b: vb.get_with_hints((out_features, rank), "lora_B.weight", Init::Const(0.0))?,
            scaling,
        })
    }
}

impl Projection {
    /// A linear layer of candle's, with or without an adapter.
    pub fn new(linear: &Linear, lora: Option<Lora>) -> Self {
        Self {
            weight: linear.weight().clone(),
            bias: linear.bias().cloned(),
            lora,
        }
    }
}

/// Linear layers of the same x (q, k and v; gate and up), at least one of them adapted, computed in
/// one call.
#[derive(Debug, Clone)]
pub struct LoraLinears {
    projections: Vec<Projection>,
    masks: Option<Masks>,
    options: Options,
}

impl LoraLinears {
    /// Up to [`lora_kernels::Problem::MAX_PROJECTIONS`], at least one with an adapter; without
    /// dropout, weights (out_features, in_features), computed where the tensors are.
    pub fn new(projections: Vec<Projection>) -> Self {
        Self {
            projections,
            masks: None,
            options: Options::default(),
        }
    }

    /// With dropout on the adapters' input in training.
    pub fn with_dropout(self, masks: Masks) -> Self {
        Self {
            masks: Some(masks),
            ..self
        }
    }

    /// With the dropout's mask kept from forward to backward, or drawn again.
    pub fn with_mask(mut self, mask: Mask) -> Self {
        self.options.mask = mask;
        self
    }

    /// With weights stored the other way round.
    pub fn with_weight_layout(mut self, weight_layout: WeightLayout) -> Self {
        self.options.weight_layout = weight_layout;
        self
    }

    /// Computed elsewhere.
    pub fn with_backend(mut self, backend: Backend) -> Self {
        self.options.backend = backend;
        self
    }

    /// The layers.
    pub fn projections(&self) -> &[Projection] {
        &self.projections
    }

    /// candle's layers with the adapters added to their weights, see [`Projection::merged_weight`].
    ///
    /// # Errors
    /// As [`lora_linears`].
    pub fn merged(&self) -> Result<Vec<Linear>> {
        self.projections
            .iter()
            .map(|one| one.merged(&self.options))
            .collect()
    }

    /// y of each projection, in their order, of x (..., in_features), without dropout.
    ///
    /// # Errors
    /// As [`lora_linears`].
    pub fn forward(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        self.forward_t(x, false)
    }

    /// The same; in training with dropout, if the layer has one, and another mask in each call.
    ///
    /// # Errors
    /// As [`lora_linears`].
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Vec<Tensor>> {
        let masks = self.masks.as_ref().filter(|_| train);
        let options = Options {
            dropout: masks.map(Masks::draw),
            ..self.options.clone()
        };
        lora_linears(x, &self.projections, &options)
    }
}

/// One adapted linear layer: a [`ModuleT`], with dropout in training. It is no
/// [`candle_core::Module`], as every one of these is a `ModuleT` that doesn't know of training;
/// where one is asked for, `candle_nn::func(move |x| layer.forward(x))` is it.
#[derive(Debug, Clone)]
pub struct LoraLinear(LoraLinears);

impl LoraLinear {
    /// A linear layer with an adapter; without dropout, the weight (out_features, in_features),
    /// computed where the tensors are.
    pub fn new(linear: &Linear, lora: Lora) -> Self {
        Self(LoraLinears::new(vec![Projection::new(linear, Some(lora))]))
    }

    /// With dropout on the adapter's input in training.
    pub fn with_dropout(self, masks: Masks) -> Self {
        Self(self.0.with_dropout(masks))
    }

    /// With the dropout's mask kept from forward to backward, or drawn again.
    pub fn with_mask(self, mask: Mask) -> Self {
        Self(self.0.with_mask(mask))
    }

    /// With the weight stored the other way round.
    pub fn with_weight_layout(self, weight_layout: WeightLayout) -> Self {
        Self(self.0.with_weight_layout(weight_layout))
    }

    /// Computed elsewhere.
    pub fn with_backend(self, backend: Backend) -> Self {
        Self(self.0.with_backend(backend))
    }

    /// y (..., out_features) of x (..., in_features), without dropout.
    ///
    /// # Errors
    /// As [`lora_linears`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_t(x, false)
    }

    /// candle's layer with the adapter added to its weight, see [`Projection::merged_weight`].
    ///
    /// # Errors
    /// As [`lora_linears`].
    pub fn merged(&self) -> Result<Linear> {
        self.projection().merged(&self.0.options)
    }

    /// Weight, bias and adapter.
    pub fn projection(&self) -> &Projection {
        &self.0.projections[0]
    }
}

impl ModuleT for LoraLinear {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        Ok(self.0.forward_t(x, train)?.swap_remove(0))
    }
}
