//! Layers: adapted projections and their options, as modules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{ModuleT, Result, Tensor};
use candle_nn::{Init, Linear, VarBuilder};
use lora_kernels::{Dropout, Mask, WeightLayout};

use crate::{Backend, Lora, Options, Projection, lora_linears};

/// Dropout that draws another mask for every call. Clones draw from the same sequence, so give a
/// clone to each layer of a model, and no two calls see the same mask. The same seed and the same
/// order of calls give the same masks.
#[derive(Debug, Clone)]
pub struct Masks {
    p: f32,
    seed: u64,
    next: Arc<AtomicU64>,
}

impl Masks {
    /// Zeroes elements of the adapters' input with probability `p`, in [0, 1), and divides the
    /// others by 1 - p.
    pub fn new(p: f32, seed: u64) -> Self {
        Self {
            p,
            seed,
            next: Arc::default(),
        }
    }

    /// The dropout of one call. The next call's offset is one higher.
    pub fn draw(&self) -> Dropout {
        Dropout {
            p: self.p,
            seed: self.seed,
            offset: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The offset of the next call. Save it with a checkpoint and continue with
    /// [`Masks::starting_at`].
    pub fn offset(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The same masks from this offset on, as an independent sequence. Other clones continue with
    /// the old sequence.
    pub fn starting_at(self, offset: u64) -> Self {
        Self {
            next: Arc::new(AtomicU64::new(offset)),
            ..self
        }
    }
}

impl Lora {
    /// A new or stored adapter: `lora_A.weight` (rank, in_features) and `lora_B.weight`
    /// (out_features, rank) of `vb`, which are PEFT's names, in `vb`'s type. A matrix that `vb`
    /// lacks is initialised as in PEFT: A uniform in ±1/√in_features, B zero.
    ///
    /// # Errors
    /// The errors of `vb`.
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
    /// A candle linear layer, with or without an adapter.
    pub fn new(linear: &Linear, lora: Option<Lora>) -> Self {
        Self {
            weight: linear.weight().clone(),
            bias: linear.bias().cloned(),
            lora,
        }
    }
}

/// Linear layers that share x, such as q, k and v or gate and up, computed in one call. At least
/// one has an adapter.
#[derive(Debug, Clone)]
pub struct LoraLinears {
    projections: Vec<Projection>,
    masks: Option<Masks>,
    options: Options,
}

impl LoraLinears {
    /// Takes up to [`lora_kernels::Problem::MAX_PROJECTIONS`] projections, at least one with an
    /// adapter. The defaults are no dropout, weights stored (out_features, in_features), and
    /// [`Backend::Local`].
    pub fn new(projections: Vec<Projection>) -> Self {
        Self {
            projections,
            masks: None,
            options: Options::default(),
        }
    }

    /// Adds dropout on the adapters' input in training.
    pub fn with_dropout(self, masks: Masks) -> Self {
        Self {
            masks: Some(masks),
            ..self
        }
    }

    /// Sets whether the dropout mask is stored for backward or drawn again there.
    pub fn with_mask(mut self, mask: Mask) -> Self {
        self.options.mask = mask;
        self
    }

    /// Sets how the weights are stored.
    pub fn with_weight_layout(mut self, weight_layout: WeightLayout) -> Self {
        self.options.weight_layout = weight_layout;
        self
    }

    /// Sets where calls compute.
    pub fn with_backend(mut self, backend: Backend) -> Self {
        self.options.backend = backend;
        self
    }

    /// The layers.
    pub fn projections(&self) -> &[Projection] {
        &self.projections
    }

    /// candle layers with the adapters added to their weights; see [`Projection::merged_weight`].
    ///
    /// # Errors
    /// As [`lora_linears`].
    pub fn merged(&self) -> Result<Vec<Linear>> {
        self.projections
            .iter()
            .map(|projection| projection.merged(&self.options))
            .collect()
    }

    /// y of each projection, in order, for x (..., in_features), without dropout.
    ///
    /// # Errors
    /// As [`lora_linears`].
    pub fn forward(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        self.forward_t(x, false)
    }

    /// Like [`LoraLinears::forward`], with a new dropout mask in each call if `train` is set and
    /// the layer has dropout.
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

/// An adapted linear layer: a [`ModuleT`] with dropout in training. It can't be a
/// [`candle_core::Module`], because candle makes every `Module` a `ModuleT` that ignores training.
/// Use `candle_nn::func(move |x| layer.forward(x))` where a `Module` is needed.
#[derive(Debug, Clone)]
pub struct LoraLinear(LoraLinears);

impl LoraLinear {
    /// A linear layer with an adapter. The defaults are no dropout, the weight stored
    /// (out_features, in_features), and [`Backend::Local`].
    pub fn new(linear: &Linear, lora: Lora) -> Self {
        Self(LoraLinears::new(vec![Projection::new(linear, Some(lora))]))
    }

    /// Adds dropout on the adapter's input in training.
    pub fn with_dropout(self, masks: Masks) -> Self {
        Self(self.0.with_dropout(masks))
    }

    /// Sets whether the dropout mask is stored for backward or drawn again there.
    pub fn with_mask(self, mask: Mask) -> Self {
        Self(self.0.with_mask(mask))
    }

    /// Sets how the weight is stored.
    pub fn with_weight_layout(self, weight_layout: WeightLayout) -> Self {
        Self(self.0.with_weight_layout(weight_layout))
    }

    /// Sets where calls compute.
    pub fn with_backend(self, backend: Backend) -> Self {
        Self(self.0.with_backend(backend))
    }

    /// y (..., out_features) for x (..., in_features), without dropout.
    ///
    /// # Errors
    /// As [`lora_linears`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_t(x, false)
    }

    /// A candle layer with the adapter added to its weight; see [`Projection::merged_weight`].
    ///
    /// # Errors
    /// As [`lora_linears`].
    pub fn merged(&self) -> Result<Linear> {
        self.projection().merged(&self.0.options)
    }

    /// The weight, bias and adapter.
    pub fn projection(&self) -> &Projection {
        &self.0.projections[0]
    }
}

impl ModuleT for LoraLinear {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        Ok(self.0.forward_t(x, train)?.swap_remove(0))
    }
}
