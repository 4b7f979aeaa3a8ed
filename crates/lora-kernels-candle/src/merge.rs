//! Adapters added to their weights, for layers that are no longer trained.

use candle_core::{Storage, Tensor};
use candle_nn::Linear;
use lora_kernels::{MergeReport, Role};

use crate::backend::Place;
use crate::device::device_merge;
use crate::error::Result;
use crate::number::with_types;
use crate::problem::merge_problem;
use crate::reference::reference_merge;
use crate::{Options, Projection};

impl Projection {
    /// W + scaling·B·A in a tensor of its own, as the weight is stored: in f32 and rounded once,
    /// the same bits by every backend. What the adapter adds may be lost where a 16-bit weight is
    /// large beside it; what overflows is an infinity: [`Projection::merged_weight_with_report`]
    /// tells of the one and refuses the other. Without an adapter it is the weight itself. It is no
    /// part of a graph.
    ///
    /// Of the options, the weight's layout and the backend count.
    ///
    /// # Errors
    /// As [`crate::lora_linears`].
    pub fn merged_weight(&self, options: &Options) -> candle_core::Result<Tensor> {
        Ok(self.merge(options, false)?.0)
    }

    /// The same weight, and what storing it in its type lost of the adapter; the report of a
    /// projection without an adapter is empty. On a CUDA device the report is copied to the host,
    /// which waits for the stream.
    ///
    /// # Errors
    /// As [`crate::lora_linears`], and [`crate::Error::NonFinite`] where an element would be a NaN
    /// or an infinity.
    pub fn merged_weight_with_report(
        &self,
        options: &Options,
    ) -> candle_core::Result<(Tensor, MergeReport)> {
        Ok(self.merge(options, true)?)
    }

    /// The report says something only if it is `safe`.
    fn merge(&self, options: &Options, safe: bool) -> Result<(Tensor, MergeReport)> {
        let Some(lora) = &self.lora else {
            return Ok((self.weight.detach(), MergeReport::default()));
        };
        let place = Place::of(
            Role::Weight,
            &self.weight,
            std::slice::from_ref(self),
            options,
        )?;
        let problem = merge_problem(self, lora, options, !matches!(place, Place::Carried(_)))?
            .with_safe(safe);
        let merged: Result<(Storage, MergeReport)> = match &place {
            Place::Reference => with_types!(&problem, reference_merge(&problem, self)),
            Place::Carried(carrier) => with_types!(&problem, device_merge(carrier, &problem, self)),
            #[cfg(feature = "cuda")]
            Place::Cuda(local) => with_types!(&problem, device_merge(local, &problem, self)),
        };
        let (merged, report) = merged?;
        Ok((Tensor::from((merged, self.weight.shape())), report))
    }

    /// candle's layer with the [merged weight](Projection::merged_weight) and this one's bias.
    ///
    /// # Errors
    /// As [`crate::lora_linears`].
    pub fn merged(&self, options: &Options) -> candle_core::Result<Linear> {
        let weight = self.merged_weight(options)?;
        let weight = match options.weight_layout {
            lora_kernels::WeightLayout::OutIn => weight,
            lora_kernels::WeightLayout::InOut => weight.t()?,
        };
        Ok(Linear::new(weight, self.bias.as_ref().map(Tensor::detach)))
    }
}
