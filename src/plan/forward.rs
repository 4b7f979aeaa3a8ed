//! The forward: the shrink of all adapters, then one GEMM [x | S]·[W | B]ᵀ for all projections; or
//! one launch for both, of few tokens.

use std::fmt;

use super::access::GemmAccess;
use super::gemm::{self, Product};
use super::memory::BufferLayout;
use super::packing::Packing;
use super::{
    Decode, DeviceProps, Launch, Region, RowsForward, SavedLayout, SplitRegions, access, arch,
    decode, fmt_plan, rows_forward,
};
use crate::{Problem, Result, Role};

/// The launches of a forward call, which computes y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ for every
/// projection.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardPlan {
    problem: Problem,
    device: DeviceProps,
    /// Shrink and the GEMM, or one launch for both; none without tokens.
    launches: Vec<Launch>,
    saved: SavedLayout,
    /// The regions of the workspace, if tiles are split.
    pub(crate) split: Option<SplitRegions>,
    /// The copies of lora_B, which the last blocks of the shrink write.
    pub(crate) packing: Packing,
    /// S, if nothing is saved.
    pub(crate) scratch_s: Option<Region>,
    /// What the one launch of a forward of few tokens needs.
    pub(crate) decode: Option<Decode>,
    /// What the launches need whose rows go through adapters of a table.
    pub(crate) rows: Option<RowsForward>,
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
        let mut workspace = BufferLayout::default();
        if problem.tokens() == 0 {
            return Ok(Self::of(problem, device, Vec::new(), &workspace));
        }
        if decode::applies(problem) {
            let (launch, decode) = decode::launch(problem, device, &mut workspace)?;
            return Ok(Self {
                decode: Some(decode),
                ..Self::of(problem, device, vec![launch], &workspace)
            });
        }
        if rows_forward::applies(problem) {
            let (launches, rows) = rows_forward::launches(problem, device, &mut workspace)?;
            return Ok(Self {
                rows: Some(rows),
                ..Self::of(problem, device, launches, &workspace)
            });
        }
        let product = Product::forward(problem);
        let mut forward = gemm::launch(
            &product,
            &GemmAccess::new(problem, Role::X),
            problem,
            device,
        )?;

        let (x_access, x_reason) = access::streamed(problem, [(0, Role::X)]);
        let size = (problem.tokens(), problem.padded_ranks());
        let (shrink, tile_reason) = arch::shrink(
            forward.variant.arch,
            device,
            problem.dtype(),
            x_access,
            size,
        )?;
        let (rows, ranks) = shrink.block();
        let blocks =
            problem.tokens().div_ceil(rows) as u64 * problem.padded_ranks().div_ceil(ranks) as u64;

        let split = SplitRegions::new(&forward, &mut workspace);
        let mut packing = Packing::default();
        if arch::maps_operands(&forward.variant) {
            let threads = shrink.threads();
            packing = Packing::new(problem, Role::LoraB, threads, device, &mut workspace);
        }
        forward.programmatic = arch::overlaps(shrink, forward.variant);
        let reason = format!("{tile_reason}{}; {x_reason}", packing.reason(Role::LoraB));
        let blocks = blocks + u64::from(packing.blocks());
        let shrink = Launch::new(shrink, blocks, None, reason, problem, device)?;
        let scratch_s = problem.is_inference().then(|| {
            workspace.region(
                &[problem.tokens(), problem.padded_ranks()],
                problem.dtype().size(),
            )
        });
        Ok(Self {
            split,
            packing,
            scratch_s,
            ..Self::of(problem, device, vec![shrink, forward], &workspace)
        })
    }

    /// A plan of these launches, whose workspace has no regions that it knows.
    fn of(
        problem: &Problem,
        device: &DeviceProps,
        launches: Vec<Launch>,
        workspace: &BufferLayout,
    ) -> Self {
        Self {
            problem: problem.clone(),
            device: *device,
            launches,
            saved: SavedLayout::new(problem),
            split: None,
            packing: Packing::default(),
            scratch_s: None,
            decode: None,
            rows: None,
            workspace_bytes: workspace.bytes(),
        }
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

    /// The size of the flags in bytes, 0 if no block of a launch waits for another.
    pub fn flags_bytes(&self) -> usize {
        self.decode.map_or(0, |decode| decode.flags_bytes())
    }

    /// Of the one launch of a forward for inference: the mean number of steps of the weight that a
    /// place for a block has, divided by that of the busiest one. `None` for other forwards.
    pub fn wave_efficiency(&self) -> Option<f64> {
        let [launch] = &self.launches[..] else {
            return None;
        };
        Some(self.decode?.wave_efficiency(launch.blocks))
    }

    /// The size of the workspace in bytes, 0 if no tile is split and no adapter is copied. Its
    /// content before the call does not matter, and it is not needed after the call.
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
        )?;
        match self.flags_bytes() {
            0 => Ok(()),
            flags => write!(f, ", flags {flags} B"),
        }
    }
}
