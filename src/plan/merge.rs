//! Merging: a block per tile of the weight; where something is counted, one more block sums it.

use std::fmt;

use bytemuck::Zeroable;

use super::buffer::{Carver, Region};
use super::params::{MergeAdapter, MergeParams, MergeTotals, merge_write};
use super::{Access, DeviceProps, Launch, access, arch, fmt_plan};
use crate::{MergeProblem, Result, Role, WeightLayout};

/// What a merge launches: merged = W + Σ scaling·B·A.
#[derive(Debug, Clone, PartialEq)]
pub struct MergePlan {
    problem: MergeProblem,
    pub(crate) launches: Vec<Launch>,
    workspace_bytes: usize,
    /// What the kernels are told. Addresses are 0, or count from the start of the workspace;
    /// scalings are the call's.
    pub(crate) params: MergeParams,
}

impl MergePlan {
    /// Plans a merge.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device lacks what the kernels need, [`crate::Error::Grid`]
    /// if a launch would be too large.
    pub fn new(problem: &MergeProblem, device: &DeviceProps) -> Result<Self> {
        device.check()?;
        let (access, reason) = access(problem);
        let (tiled, totals) = arch::merge(device, problem.dtype(), access)?;
        let (rows, columns) = problem.shape(Role::Weight);
        let (tile_rows, tile_columns) = tiled.block();
        let blocks = rows.div_ceil(tile_rows) as u64 * columns.div_ceil(tile_columns) as u64;
        let tiles = |what: &str| {
            Launch::new(
                tiled,
                blocks,
                None,
                format!("{what}; {reason}"),
                problem,
                device,
            )
        };
        let totals = || {
            Launch::new(
                totals,
                1,
                None,
                "sums what the blocks counted".into(),
                problem,
                device,
            )
        };

        let launches = match (problem.is_safe(), problem.has_report()) {
            (true, _) => vec![
                tiles("only counts")?,
                totals()?,
                tiles("writes if all is finite")?,
            ],
            (false, true) => vec![tiles("writes and counts")?, totals()?],
            (false, false) => vec![tiles("writes")?],
        };
        let mut carver = Carver::default();
        let partial = problem
            .has_report()
            .then(|| carver.take(&[blocks as usize], size_of::<MergeTotals>()));
        Ok(Self {
            params: params(problem, partial, blocks),
            workspace_bytes: carver.bytes(),
            launches,
            problem: problem.clone(),
        })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &MergeProblem {
        &self.problem
    }

    /// The kernels, in the order they are launched.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// Bytes of scratch memory; none without a report. Its content before the call does not matter,
    /// and nothing of it is needed after.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }
}

fn access(problem: &MergeProblem) -> (Access, String) {
    for tensor in [Role::Weight, Role::Merged] {
        let layout = problem.layout(tensor);
        if !layout.rows_aligned(problem.shape(tensor).0, problem.dtype(), access::VECTOR) {
            let (stride, alignment) = (layout.row_stride, layout.alignment);
            let reason = format!(
                "element by element, since {tensor} (row stride {stride}, aligned to {alignment} B) has rows off 16 bytes"
            );
            return (Access::Any, reason);
        }
    }
    (Access::Vectorised, "16 bytes at a time".into())
}

fn params(problem: &MergeProblem, partial: Option<Region>, blocks: u64) -> MergeParams {
    let (rows, columns) = problem.shape(Role::Weight);
    let mut params = MergeParams {
        partial: partial.map_or(0, |partial| partial.offset as u64),
        weight_stride: problem.layout(Role::Weight).row_stride,
        merged_stride: problem.layout(Role::Merged).row_stride,
        rows: rows as i32,
        columns: columns as i32,
        adapters: problem.ranks().len() as i32,
        adapter_f32: (problem.adapter_dtype() != problem.dtype()).into(),
        weight_transposed: (problem.weight_layout() == WeightLayout::InOut).into(),
        // A launch has fewer than 2³¹ blocks.
        partials: blocks as i32,
        writing: merge_write::ALWAYS,
        ..Zeroable::zeroed()
    };
    for (index, (slot, rank)) in params.adapter.iter_mut().zip(problem.ranks()).enumerate() {
        let stride = |tensor| {
            problem
                .adapter_layout(index, tensor)
                .map_or(0, |layout| layout.row_stride)
        };
        *slot = MergeAdapter {
            lora_a_stride: stride(Role::LoraA),
            lora_b_stride: stride(Role::LoraB),
            r: rank as i32,
            ..Zeroable::zeroed()
        };
    }
    params
}

impl fmt::Display for MergePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_plan(
            f,
            "merge",
            &self.problem,
            &self.launches,
            None,
            self.workspace_bytes,
        )
    }
}
