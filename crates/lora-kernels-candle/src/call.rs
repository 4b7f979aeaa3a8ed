//! One call: its tensors, and the passes wherever they run.

use candle_core::{Storage, Tensor};
use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::{Dropout, Problem, Role};

use crate::backend::Place;
use crate::device::{device_backward, device_forward};
use crate::error::Result;
use crate::number::with_types;
use crate::problem::problem;
use crate::reference::{reference_backward, reference_forward};
use crate::{Options, Projection};

/// A call's tensors, all detached: they share the memory of the caller's, not their history.
pub(crate) struct Call {
    place: Place,
    pub problem: Problem,
    pub x: Tensor,
    pub projections: Vec<Projection>,
    pub dropout: Option<Dropout>,
    /// Whether x or an adapter is part of a graph, so that backward may come.
    pub tracked: bool,
}

/// What forward leaves for backward.
pub(crate) enum Saved {
    /// The reference computes everything again.
    Nothing,
    /// S and the mask, where the kernels ran.
    Device(CudaSlice<u8>),
}

/// What backward gives.
pub(crate) struct Gradients {
    /// In x's shape, where x is part of a graph.
    pub x: Option<Tensor>,
    /// d_lora_A and d_lora_B of each projection that has an adapter.
    pub lora: Vec<Option<[Tensor; 2]>>,
}

impl Call {
    pub fn new(x: &Tensor, projections: &[Projection], options: &Options) -> Result<Self> {
        let place = Place::of(Role::X, x, projections, options)?;
        let problem = problem(x, projections, options, !matches!(place, Place::Carried(_)))?;
        let mut adapters = projections.iter().filter_map(|one| one.lora.as_ref());
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
            place,
            problem,
            x: x.detach(),
            projections: detached.collect(),
            dropout: options.dropout,
            tracked,
        })
    }

    /// y of each projection, (tokens, out_features) without gaps.
    pub fn forward(&self) -> Result<(Vec<Storage>, Saved)> {
        match &self.place {
            Place::Reference => with_types!(&self.problem, reference_forward(self)),
            Place::Carried(carrier) => with_types!(&self.problem, device_forward(carrier, self)),
            #[cfg(feature = "cuda")]
            Place::Cuda(local) => with_types!(&self.problem, device_forward(local, self)),
        }
    }

    /// `dy` has the gradient of each y, in that one's shape.
    pub fn backward(&self, dy: &[Tensor], saved: &Saved) -> Result<Gradients> {
        match &self.place {
            Place::Reference => with_types!(&self.problem, reference_backward(self, dy)),
            Place::Carried(carrier) => {
                with_types!(&self.problem, device_backward(carrier, self, dy, saved))
            }
            #[cfg(feature = "cuda")]
            Place::Cuda(local) => {
                with_types!(&self.problem, device_backward(local, self, dy, saved))
            }
        }
    }

    /// The dimensions of a projection's y: x's, the last replaced.
    pub fn y_dims(&self, projection: usize) -> Vec<usize> {
        let mut dims = self.x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.problem.projections()[projection].out_features;
        }
        dims
    }
}
