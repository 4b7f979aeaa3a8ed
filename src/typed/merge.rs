//! Merging on matrices.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaViewMut, DevicePtrMut};

use super::calls::Lora;
use super::check::{self, Expected};
use super::matrix::{Geometry, MatMut, MatRef};
use crate::raw::{MergeAdapterArgs, MergeArgs};
use crate::{
    Argument, Element, Error, Kernels, MergePlan, MergeProblem, MergeReport, Result, Role,
};

/// Arguments of [`Kernels::merge`]: merged = W + Σ scaling·B·A. `T` is the type of the weight, `A`
/// that of the adapters.
pub struct Merge<'a, T, A = T> {
    /// W, and where the merged weight goes
    pub weight: MergeWeight<'a, T>,
    /// As many as the problem has. `scaling` times the adapter's own weight among several; negative
    /// to take it out.
    pub adapters: Vec<Lora<'a, A>>,
    /// Out: at least [`MergeReport::BYTES`] bytes at a multiple of
    /// [`crate::plan::BUFFER_ALIGNMENT`], exactly if the problem has a report
    pub report: Option<CudaViewMut<'a, u8>>,
    /// At least `plan.workspace_bytes()` bytes of scratch at a multiple of
    /// [`crate::plan::BUFFER_ALIGNMENT`]
    pub workspace: CudaViewMut<'a, u8>,
}

/// The weight of [`Merge`]: (out_features, in_features), or transposed as the problem says.
pub enum MergeWeight<'a, T> {
    /// Out: overwritten
    InPlace(MatMut<'a, T>),
    /// Kept
    Apart {
        /// The base weight
        weight: MatRef<'a, T>,
        /// Out: the merged weight; as it was where a safe merge writes nothing
        merged: MatMut<'a, T>,
    },
}

impl Kernels {
    /// Enqueues a merge on `stream`.
    ///
    /// B·A is summed over the rank in f32 by fused multiply-adds, multiplied by the scaling, summed
    /// over the adapters in their order, added to W in f32 and rounded once: every bit is
    /// determined, and [`crate::reference::merge`] gives the same. A safe merge whose report tells
    /// of elements that are not finite has written nothing but the report.
    ///
    /// # Errors
    /// Any of [`crate::Error`]'s argument errors before anything is launched,
    /// [`crate::Error::Driver`] if a launch fails.
    pub fn merge<T: Element, A: Element>(
        &self,
        stream: &Arc<CudaStream>,
        plan: &MergePlan,
        mut args: Merge<'_, T, A>,
    ) -> Result<()> {
        self.check_merge::<T, A>(stream, plan, &args)?;

        // The guards record on `stream` that the memory is in use; they live until all kernels are
        // enqueued.
        let mut guards = Vec::new();
        macro_rules! address {
            ($taken:expr) => {{
                let (pointer, guard) = $taken;
                guards.push(guard);
                pointer
            }};
        }
        let mut adapters = [MergeAdapterArgs::default(); MergeProblem::MAX_ADAPTERS];
        let count = args.adapters.len();
        for (raw, adapter) in adapters.iter_mut().zip(&args.adapters) {
            raw.lora_a = address!(adapter.a.pointer(stream));
            raw.lora_b = address!(adapter.b.pointer(stream));
            raw.scaling = adapter.scaling;
        }
        let (weight, merged) = match &mut args.weight {
            MergeWeight::InPlace(weight) => {
                let pointer = address!(weight.pointer(stream));
                (pointer, pointer)
            }
            MergeWeight::Apart { weight, merged } => (
                address!(weight.pointer(stream)),
                address!(merged.pointer(stream)),
            ),
        };
        let report = match &mut args.report {
            Some(report) => address!(report.device_ptr_mut(stream)),
            None => 0,
        };
        let workspace = address!(args.workspace.device_ptr_mut(stream));
        check::waits(stream)?;
        let raw = MergeArgs {
            weight,
            adapters: &adapters[..count],
            merged,
            report,
            workspace,
        };
        // SAFETY: the context was made current; every matrix lies in a live slice of it at the
        // plan's strides; borrows keep the slices alive and the outputs apart until the call is
        // enqueued, cudarc's stream order after.
        unsafe { self.merge_raw(plan, &raw, stream.cu_stream()) }
    }

    fn check_merge<T: Element, A: Element>(
        &self,
        stream: &Arc<CudaStream>,
        plan: &MergePlan,
        args: &Merge<'_, T, A>,
    ) -> Result<()> {
        let problem = plan.problem();
        check::types::<T, A>(problem.dtype(), problem.adapter_dtype())?;
        let (given, planned) = (args.adapters.len(), problem.ranks().len());
        if given != planned {
            return Err(Error::AdapterCount { given, planned });
        }
        check::bind(self, stream)?;
        let of_weight = |tensor, (geometry, elements): (Geometry, usize), home| {
            let expected = Expected {
                shape: problem.shape(tensor),
                row_stride: problem.layout(tensor).row_stride,
            };
            let what = || Argument::Tensor(tensor, None);
            check::matrix(what, expected, geometry, elements)?;
            check::home(self, what(), home)
        };
        match &args.weight {
            MergeWeight::InPlace(weight) => {
                of_weight(Role::Weight, weight.geometry(), weight.home())?
            }
            MergeWeight::Apart { weight, merged } => {
                of_weight(Role::Weight, weight.geometry(), weight.home())?;
                of_weight(Role::Merged, merged.geometry(), merged.home())?;
            }
        }
        for (index, adapter) in args.adapters.iter().enumerate() {
            for (tensor, matrix) in [(Role::LoraA, &adapter.a), (Role::LoraB, &adapter.b)] {
                let expected = Expected {
                    shape: problem.adapter_shape(index, tensor),
                    row_stride: problem
                        .adapter_layout(index, tensor)
                        .map_or(0, |layout| layout.row_stride),
                };
                let (geometry, elements) = matrix.geometry();
                let what = || Argument::Adapter(tensor, index);
                check::matrix(what, expected, geometry, elements)?;
                check::home(self, what(), matrix.home())?;
            }
        }
        if let Some(report) = &args.report {
            check::bytes(self, Argument::Report, report, MergeReport::BYTES)?;
        }
        check::bytes(
            self,
            Argument::Workspace,
            &args.workspace,
            plan.workspace_bytes(),
        )
    }
}
