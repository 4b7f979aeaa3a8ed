//! Merging: a block per tile of the weight and, if something is counted, a further block that sums
//! the counts.

use std::fmt;

use super::memory::{BufferLayout, Region};
use super::{Access, DeviceProps, Launch, access, arch, fmt_plan};
use crate::{MergeProblem, MergeReport, Result, Role};

/// The launches of a merge, which computes merged = W + Σ scaling·B·A.
#[derive(Debug, Clone, PartialEq)]
pub struct MergePlan {
    problem: MergeProblem,
    device: DeviceProps,
    launches: Vec<Launch>,
    /// The counts of each tile, if something is counted.
    pub(crate) partial: Option<Region>,
    pub(crate) tiles: u64,
    workspace_bytes: usize,
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
        let (tiled, totals) = arch::merge(problem.dtype(), access)?;
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
        let mut workspace = BufferLayout::default();
        let partial = problem
            .has_report()
            .then(|| workspace.region(&[blocks as usize], MergeReport::BYTES));
        Ok(Self {
            partial,
            tiles: blocks,
            workspace_bytes: workspace.bytes(),
            launches,
            device: *device,
            problem: problem.clone(),
        })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &MergeProblem {
        &self.problem
    }

    /// The device it was made for.
    pub fn device(&self) -> &DeviceProps {
        &self.device
    }

    /// The launches in order.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// The size of the workspace in bytes, 0 without a report. Its content before the call does not
    /// matter, and it is not needed after the call.
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
