//! Merging on matrices.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::check::{self, Expected};
use super::matrix::{MatMut, MatRef, Matrix};
use super::order::Order;
use super::views::{Addresses, Dynamic, Typed, Views};
use crate::bind::{self, DevicePointer};
use crate::{Argument, Error, Kernels, MergePlan, MergeProblem, MergeReport, Result, Role};

/// Arguments of [`Kernels::merge`]: a weight of type `T`, adapters of type `A`.
pub type Merge<'a, T, A = T> = bind::Merge<Typed<'a, T, A>>;

/// Arguments of [`Kernels::merge`] with element types that are known at run time only.
pub type DynMerge<'a> = bind::Merge<Dynamic<'a>>;

/// The weight of [`Merge`].
pub type MergeWeight<'a, T> = bind::MergeWeight<MatRef<'a, T>, MatMut<'a, T>>;

impl Kernels {
    /// Enqueues a merge on `stream`.
    ///
    /// B·A is summed over the rank in f32 with fused multiply-adds and multiplied by the scaling.
    /// The adapters are summed in order and added to W in f32, and the result is rounded once.
    /// Every bit is determined, and [`crate::reference::merge`] gives the same bits. A safe merge
    /// whose report counts elements that are not finite has written only the report.
    ///
    /// # Errors
    /// Any of [`crate::Error`]'s argument errors before anything is launched,
    /// [`crate::Error::Driver`] if a launch fails.
    pub fn merge<'a, V: Views<'a>>(
        &self,
        stream: &Arc<CudaStream>,
        plan: &MergePlan,
        mut args: bind::Merge<V>,
    ) -> Result<()> {
        let (given, planned) = (args.adapters.len(), plan.problem().ranks().len());
        if given != planned {
            return Err(Error::AdapterCount { given, planned });
        }
        let mut order = Order::new(self, stream)?;
        check_merge(&mut order, plan, &args)?;
        order.join()?;

        let mut addresses = Addresses::new(stream);
        let mut adapters = [bind::Lora::<DevicePointer>::default(); MergeProblem::MAX_ADAPTERS];
        let count = args.adapters.len();
        for (raw, adapter) in adapters.iter_mut().zip(&args.adapters) {
            *raw = addresses.lora(adapter);
        }
        let weight = match &mut args.weight {
            bind::MergeWeight::InPlace(weight) => {
                bind::MergeWeight::InPlace(addresses.write(weight))
            }
            bind::MergeWeight::Apart { weight, merged } => bind::MergeWeight::Apart {
                weight: addresses.read(weight),
                merged: addresses.write(merged),
            },
        };
        let raw = bind::Merge {
            weight,
            adapters: &adapters[..count],
            report: args
                .report
                .as_mut()
                .map(|report| addresses.bytes_mut(report)),
            workspace: args
                .workspace
                .as_mut()
                .map(|buffer| addresses.bytes_mut(buffer)),
        };
        order.check()?;
        // SAFETY: as in forward.
        let launched = unsafe { self.merge_raw(plan, &raw, stream.cu_stream()) };
        order.end(launched)
    }
}

fn check_merge<'a, V: Views<'a>>(
    order: &mut Order<'_>,
    plan: &MergePlan,
    args: &bind::Merge<V>,
) -> Result<()> {
    let problem = plan.problem();
    match &args.weight {
        bind::MergeWeight::InPlace(weight) => {
            check_weight(order, problem, Role::Weight, weight)?;
        }
        bind::MergeWeight::Apart { weight, merged } => {
            check_weight(order, problem, Role::Weight, weight)?;
            check_weight(order, problem, Role::Merged, merged)?;
        }
    }
    for (index, adapter) in args.adapters.iter().enumerate() {
        for (tensor, matrix) in [(Role::LoraA, &adapter.a), (Role::LoraB, &adapter.b)] {
            let layout = problem.adapter_layout(index, tensor);
            let expected = Expected {
                dtype: problem.adapter_dtype(),
                shape: problem.adapter_shape(index, tensor),
                row_stride: layout.map_or(0, |layout| layout.row_stride),
            };
            check::matrix(order, || Argument::Adapter(tensor, index), expected, matrix)?;
        }
    }
    if let Some(report) = &args.report {
        check::bytes(order, Argument::Report, Some(report), MergeReport::BYTES)?;
    }
    let needed = plan.workspace_bytes();
    check::bytes(order, Argument::Workspace, args.workspace.as_ref(), needed)
}

fn check_weight(
    order: &mut Order<'_>,
    problem: &MergeProblem,
    tensor: Role,
    matrix: &impl Matrix,
) -> Result<()> {
    let expected = Expected {
        dtype: problem.dtype(),
        shape: problem.shape(tensor),
        row_stride: problem.layout(tensor).row_stride,
    };
    check::matrix(order, || Argument::Tensor(tensor, None), expected, matrix)
}
