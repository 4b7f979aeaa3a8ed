//! Adds adapters to their weights, for layers that are no longer trained.

use candle_core::{Storage, Tensor};
use candle_nn::Linear;
use lora_kernels::{MergeReport, Role};

use crate::backend::CallBackend;
use crate::device::device_merge;
use crate::error::{Result, non_finite};
use crate::number::with_types;
use crate::problem::merge_problem;
use crate::reference::reference_merge;
use crate::{Options, Projection};

impl Projection {
    /// W + scaling·B·A in a new tensor, stored like the weight. It is computed in f32 and rounded
    /// once, with the same bits on every backend. In a 16-bit weight, deltas that are small beside
    /// the weight may be lost and large ones may overflow to infinity;
    /// [`Projection::merged_weight_with_report`] reports the former and refuses the latter. Without
    /// an adapter the result is the weight itself. It is not part of a graph.
    ///
    /// Of the options, only the weight's layout and the backend are used.
    ///
    /// # Errors
    /// As [`crate::lora_linears`].
    pub fn merged_weight(&self, options: &Options) -> candle_core::Result<Tensor> {
        Ok(self.merge(options, false)?.0)
    }

    /// The merged weight, and a report of what storing it in its type lost. The report of a
    /// projection without an adapter is empty. On a CUDA device, copying the report to the host
    /// waits for the stream.
    ///
    /// # Errors
    /// As [`crate::lora_linears`], and [`crate::Error::NonFinite`] if an element would be a NaN or
    /// an infinity.
    pub fn merged_weight_with_report(
        &self,
        options: &Options,
    ) -> candle_core::Result<(Tensor, MergeReport)> {
        Ok(self.merge(options, true)?)
    }

    /// With a report, a weight that is not finite is refused; without, the report is empty.
    fn merge(&self, options: &Options, with_report: bool) -> Result<(Tensor, MergeReport)> {
        let Some(lora) = &self.lora else {
            return Ok((self.weight.detach(), MergeReport::default()));
        };
        let backend = CallBackend::of(
            Role::Weight,
            &self.weight,
            std::slice::from_ref(self),
            options,
        )?;
        let problem = merge_problem(self, lora, options)?.with_report(with_report);
        let merged: Result<(Storage, MergeReport)> = match &backend {
            CallBackend::Reference => with_types!(&problem, reference_merge(&problem, self)),
            CallBackend::Carried(carrier) => {
                with_types!(&problem, device_merge(carrier, &problem, self))
            }
            #[cfg(feature = "cuda")]
            CallBackend::Cuda(local) => with_types!(&problem, device_merge(local, &problem, self)),
        };
        let (merged, report) = merged?;
        if with_report && report.non_finite > 0 {
            return Err(non_finite(self, &report));
        }
        Ok((Tensor::from((merged, self.weight.shape())), report))
    }

    /// A candle layer with the [merged weight](Projection::merged_weight) and this one's bias.
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
