//! One call: its tensors, and its forward and backward on the chosen backend.

use candle_core::{Storage, Tensor};
use lora_kernels::{Dropout, Mask, Problem, Role, layer};

use crate::backend::CallBackend;
use crate::device::{device_backward, device_forward};
use crate::error::Result;
use crate::number::with_types;
use crate::problem::problem;
use crate::reference::{reference_backward, reference_forward};
use crate::{Options, Projection};

/// The tensors of a call. They are detached: they share the memory of the caller's tensors, but not
/// their history.
pub(crate) struct Call {
    backend: CallBackend,
    pub problem: Problem,
    pub x: Tensor,
    pub projections: Vec<Projection>,
    pub dropout: Option<Dropout>,
    pub mask: Mask,
    /// Whether x or an adapter is part of a graph, so that a backward may follow.
    pub tracked: bool,
}

/// The data that forward leaves for backward.
pub(crate) enum Saved {
    /// The reference needs nothing, since it computes everything again, and neither does a call
    /// that no backward follows.
    Nothing,
    /// S and the mask, where the kernels ran.
    Device(Box<layer::SavedForward>),
}

/// The results of backward.
pub(crate) struct Gradients {
    /// The gradient in x's shape, if x is part of a graph.
    pub x: Option<Tensor>,
    /// d_lora_A and d_lora_B of each projection that has an adapter.
    pub lora: Vec<Option<[Tensor; 2]>>,
}

impl Call {
    pub fn new(x: &Tensor, projections: &[Projection], options: &Options) -> Result<Self> {
        let backend = CallBackend::of(Role::X, x, projections, options)?;
        let problem = problem(x, projections, options)?;
        let mut adapters = projections
            .iter()
            .filter_map(|projection| projection.lora.as_ref());
        let tracked = x.track_op() || adapters.any(crate::Lora::is_tracked);
        let detached = projections
            .iter()
            .map(|Projection { weight, bias, lora }| Projection {
                weight: weight.detach(),
                bias: bias.as_ref().map(Tensor::detach),
                lora: lora.as_ref().map(|lora| crate::Lora {
                    a: lora.a.detach(),
                    b: lora.b.detach(),
                    scaling: lora.scaling,
                }),
            });
        Ok(Self {
            backend,
            problem,
            x: x.detach(),
            projections: detached.collect(),
            dropout: options.dropout,
            mask: options.mask,
            tracked,
        })
    }

    /// y of each projection, dense (tokens, out_features).
    pub fn forward(&self) -> Result<(Vec<Storage>, Saved)> {
        match &self.backend {
            CallBackend::Reference => with_types!(&self.problem, reference_forward(self)),
            CallBackend::Carried(carrier) => {
                with_types!(&self.problem, device_forward(carrier, self))
            }
            #[cfg(feature = "cuda")]
            CallBackend::Cuda(local) => with_types!(&self.problem, device_forward(local, self)),
        }
    }

    /// `dy` holds the gradient of each y, in the shape of that y.
    pub fn backward(&self, dy: &[Tensor], saved: &Saved) -> Result<Gradients> {
        match &self.backend {
            CallBackend::Reference => with_types!(&self.problem, reference_backward(self, dy)),
            CallBackend::Carried(carrier) => {
                with_types!(&self.problem, device_backward(carrier, self, dy, saved))
            }
            #[cfg(feature = "cuda")]
            CallBackend::Cuda(local) => {
                with_types!(&self.problem, device_backward(local, self, dy, saved))
            }
        }
    }

    /// The dimensions of a projection's y: those of x with the last one replaced by out_features.
    pub fn y_dims(&self, projection: usize) -> Vec<usize> {
        let mut dims = self.x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.problem.projections()[projection].out_features;
        }
        dims
    }
}
