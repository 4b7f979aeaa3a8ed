//! Merging adapters into a weight.

use cudarc::driver::{CudaSlice, DevicePtrMut};

use super::LoraLinear;
use super::memory::{matrix, read_back, scratch, uninitialised, written};
use super::operands::{contiguous, memory, read, same};
use crate::raw::{LoraArgs, MergeArgs, MergeWeight, driver_error};
use crate::typed::matrix::Geometry;
use crate::typed::order::Order;
use crate::{
    Argument, Element, Lora, MatRef, Matrix, MergePlan, MergeProblem, MergeReport, Result, Role,
    WeightLayout,
};

impl LoraLinear {
    /// Computes W + Σ scaling·B·A in f32, rounded once. The result is dense and has the shape of
    /// the weight, (out_features, in_features) or transposed, as `layout` says. Elements that
    /// overflow are infinite.
    ///
    /// # Errors
    /// [`crate::Error::Fit`] or [`crate::Error::Bounds`] if a matrix doesn't fit,
    /// [`crate::Error::Context`], and what
    /// [`MergeProblem::new`] and [`MergePlan::new`] refuse: all before anything is launched.
    /// [`crate::Error::Driver`] if an allocation or a launch fails.
    pub fn merge<T: Element, A: Element>(
        &self,
        weight: &MatRef<'_, T>,
        adapters: &[Lora<'_, A>],
        layout: WeightLayout,
    ) -> Result<CudaSlice<T>> {
        let mut order = self.order()?;
        Ok(self
            .merge_as(&mut order, weight, adapters, layout, false)?
            .0)
    }

    /// The merged weight, and a report of what storing it loses. Copying the report to the host
    /// waits for the stream.
    ///
    /// # Errors
    /// As [`LoraLinear::merge`].
    pub fn merge_with_report<T: Element, A: Element>(
        &self,
        weight: &MatRef<'_, T>,
        adapters: &[Lora<'_, A>],
        layout: WeightLayout,
    ) -> Result<(CudaSlice<T>, MergeReport)> {
        let mut order = self.order()?;
        let (merged, report) = self.merge_as(&mut order, weight, adapters, layout, true)?;
        let mut bytes = [0; MergeReport::BYTES];
        if let Some(report) = &report {
            read_back(&self.stream, report, &mut bytes)
                .map_err(|error| driver_error("reading a merge's report", error))?;
        }
        // The buffer was allocated with a report's size.
        Ok((merged, MergeReport::from_bytes(&bytes).unwrap_or_default()))
    }

    fn merge_as<T: Element, A: Element>(
        &self,
        order: &mut Order<'_>,
        weight: &MatRef<'_, T>,
        adapters: &[Lora<'_, A>],
        layout: WeightLayout,
        with_report: bool,
    ) -> Result<(CudaSlice<T>, Option<CudaSlice<u8>>)> {
        let (kernels, stream) = (&self.shared.kernels, &self.stream);
        self.check_device()?;
        check_merge(order, weight, adapters, layout)?;
        order.join()?;

        let mut guards = Vec::with_capacity(4 + 2 * adapters.len());
        let shape = weight.geometry();
        let (out_features, in_features) = features(layout, weight);
        let ranks: Vec<usize> = adapters.iter().map(|lora| lora.a.geometry().rows).collect();
        let (weight, weight_layout) = read(stream, weight, &mut guards);
        let mut problem = MergeProblem::new(out_features, in_features, &ranks, T::DTYPE)?
            .with_adapter_dtype(A::DTYPE)?
            .with_weight_layout(layout)
            .with_report(with_report)
            .with_layout(Role::Weight, weight_layout)?
            // Otherwise the result has the layout of the weight.
            .with_layout(Role::Merged, contiguous(shape.columns))?;
        let mut raw = Vec::with_capacity(adapters.len());
        for (index, Lora { a, b, scaling }) in adapters.iter().enumerate() {
            let (lora_a, a_layout) = read(stream, a, &mut guards);
            let (lora_b, b_layout) = read(stream, b, &mut guards);
            problem = problem
                .with_adapter_layout(index, Role::LoraA, a_layout)?
                .with_adapter_layout(index, Role::LoraB, b_layout)?;
            raw.push(LoraArgs {
                a: lora_a,
                b: lora_b,
                scaling: *scaling,
            });
        }
        order.check()?;
        let plan = MergePlan::new(&problem, &self.shared.props)?;

        let shape = (shape.rows, shape.columns);
        let mut merged = matrix(stream, "the merged weight", shape, T::DTYPE)?;
        let report = with_report.then(|| uninitialised(stream, "the report", MergeReport::BYTES));
        let mut report: Option<CudaSlice<u8>> = report.transpose()?;
        let mut workspace = scratch(stream, plan.workspace_bytes())?;
        {
            let mut guards = Vec::with_capacity(3);
            let report = report.as_mut();
            let report = report.map(|buffer| written(buffer, stream, &mut guards));
            let workspace = workspace.as_mut();
            let workspace = workspace.map(|buffer| written(buffer, stream, &mut guards));
            let (merged, _in_use) = merged.device_ptr_mut(stream);
            order.check()?;
            let args = MergeArgs {
                weight: MergeWeight::Apart { weight, merged },
                adapters: &raw,
                report,
                workspace,
            };
            // SAFETY: as in forward; results and buffers were allocated for this call.
            let launched = unsafe { kernels.merge_raw(&plan, &args, stream.cu_stream()) };
            order.end(launched)?;
        }
        Ok((merged, report))
    }
}

fn check_merge<T: Element, A: Element>(
    order: &mut Order<'_>,
    weight: &MatRef<'_, T>,
    adapters: &[Lora<'_, A>],
    layout: WeightLayout,
) -> Result<()> {
    memory(order, Argument::Tensor(Role::Weight, None), weight)?;
    let (out_features, in_features) = features(layout, weight);
    for (index, Lora { a, b, .. }) in adapters.iter().enumerate() {
        let rank = a.geometry().rows;
        for (tensor, matrix, expected, because) in [
            (
                Role::LoraA,
                a,
                (rank.max(1), in_features),
                "it is (rank, in_features) of the weight, and a rank is at least 1",
            ),
            (
                Role::LoraB,
                b,
                (out_features, rank),
                "it is (out_features, rank), as the weight and lora_A have them",
            ),
        ] {
            let what = Argument::Adapter(tensor, index);
            same(what, matrix, expected, because)?;
            memory(order, what, matrix)?;
        }
    }
    Ok(())
}

/// (out_features, in_features)
fn features(layout: WeightLayout, weight: &impl Matrix) -> (usize, usize) {
    let Geometry { rows, columns, .. } = weight.geometry();
    match layout {
        WeightLayout::OutIn => (rows, columns),
        WeightLayout::InOut => (columns, rows),
    }
}
