//! The forward: the shrink of all adapters, then one GEMM [x | S]·[W | B]ᵀ for all projections.

use std::fmt;

use super::gemm::{self, Product};
use super::memory::BufferLayout;
use super::{DeviceProps, Launch, SavedLayout, SplitRegions, access, arch, fmt_plan};
use crate::{Problem, Result, Role};

/// The launches of a forward call, which computes y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ for every
/// projection.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardPlan {
    problem: Problem,
    device: DeviceProps,
    /// Shrink and the GEMM; none without tokens.
    launches: Vec<Launch>,
    saved: SavedLayout,
    /// The regions of the workspace, if tiles are split.
    pub(crate) split: Option<SplitRegions>,
    workspace_bytes: usize,
}

impl ForwardPlan {
    /// Plans a forward.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device lacks what the kernels need, [`crate::Error::Grid`]
    /// if a launch would be too large.
    pub fn new(problem: &Problem, device: &DeviceProps) -> Result<Self> {
        device.check()?;
        if problem.tokens() == 0 {
            return Ok(Self {
                problem: problem.clone(),
                device: *device,
                launches: Vec::new(),
                saved: SavedLayout::new(problem),
                split: None,
                workspace_bytes: 0,
            });
        }
        let (x_access, x_reason) = access::streamed(problem, [(0, Role::X)]);
        let size = (problem.tokens(), problem.padded_ranks());
        let (shrink, tile_reason) = arch::shrink(device, problem.dtype(), x_access, size)?;
        let (rows, ranks) = shrink.block();
        let blocks =
            problem.tokens().div_ceil(rows) as u64 * problem.padded_ranks().div_ceil(ranks) as u64;
        let reason = format!("{tile_reason}; {x_reason}");
        let shrink = Launch::new(shrink, blocks, None, reason, problem, device)?;

        let product = Product::forward(problem);
        let forward = gemm::launch(&product, access::gemm(problem, Role::X), problem, device)?;

        let mut workspace = BufferLayout::default();
        Ok(Self {
            split: SplitRegions::new(&forward, &mut workspace),
            saved: SavedLayout::new(problem),
            workspace_bytes: workspace.bytes(),
            launches: vec![shrink, forward],
            device: *device,
            problem: problem.clone(),
        })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The device it was made for.
    pub fn device(&self) -> &DeviceProps {
        &self.device
    }

    /// The launches in order. There are none without tokens.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// The layout and size of the `saved` buffer, which the call fills for backward. It is needed
    /// without a backward too, because the second kernel reads S from it. Its content before the
    /// call does not matter.
    pub fn saved(&self) -> &SavedLayout {
        &self.saved
    }

    /// The size of the workspace in bytes, 0 if no tile is split. Its content before the call does
    /// not matter, and it is not needed after the call.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }
}

impl fmt::Display for ForwardPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_plan(
            f,
            "forward",
            &self.problem,
            &self.launches,
            Some(self.saved.bytes()),
            self.workspace_bytes,
        )
    }
}
