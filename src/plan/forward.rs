//! The forward: shrink, then one GEMM over [x | S]·[W | B]ᵀ.

use std::fmt;

use super::{
    Access, DeviceProps, Launch, Operation, SavedLayout, Variant, access, check_device, fmt_plan, gemm_tile, paired,
    rank_tile, vectorised,
};
use crate::{Problem, Result, Tensor};

/// What a forward call launches: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPlan {
    problem: Problem,
    pub(crate) launches: [Launch; 2],
    saved: SavedLayout,
    pub(crate) lora_a_vectorised: bool,
    pub(crate) lora_b_vectorised: bool,
    pub(crate) y_paired: bool,
}

impl ForwardPlan {
    /// Plans a forward.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device lacks what the kernels need, [`crate::Error::Grid`] if a launch would be too large.
    pub fn new(problem: &Problem, device: &DeviceProps) -> Result<Self> {
        check_device(device)?;
        let dtype = problem.dtype();

        let (tile, tile_reason) = rank_tile(problem);
        let (x_access, x_reason) = access(problem, &[Tensor::X]);
        let shrink = Variant {
            operation: Operation::Shrink,
            dtype,
            tile,
            access: x_access,
        };
        let (rows, ranks) = shrink.block();
        let grid = (
            problem.tokens().div_ceil(rows) as u64,
            problem.rank().div_ceil(ranks) as u64,
        );
        let shrink = Launch::new(shrink, grid, format!("{tile_reason}; {x_reason}"), problem, device)?;

        let (tile, blocks, tile_reason) = gemm_tile(Operation::Forward, problem, problem.out_features(), device);
        let (gemm_access, access_reason) = access(problem, &[Tensor::X, Tensor::Weight]);
        let forward = Variant {
            operation: Operation::Forward,
            dtype,
            tile,
            access: gemm_access,
        };
        let forward = Launch::new(
            forward,
            (blocks, 1),
            format!("{tile_reason}; {access_reason}"),
            problem,
            device,
        )?;

        Ok(Self {
            saved: SavedLayout::new(problem),
            lora_a_vectorised: vectorised(problem, Tensor::LoraA),
            lora_b_vectorised: vectorised(problem, Tensor::LoraB),
            y_paired: paired(problem, Tensor::Y),
            launches: [shrink, forward],
            problem: problem.clone(),
        })
    }

    /// The problem it was made for.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The kernels, in the order they are launched.
    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }

    /// What the call leaves in the `saved` buffer for backward, and how many bytes that takes. Needed without a backward too: the second
    /// kernel reads S there. Its content before the call does not matter.
    pub fn saved(&self) -> &SavedLayout {
        &self.saved
    }

    /// Bytes of scratch memory: none yet.
    pub fn workspace_bytes(&self) -> usize {
        0
    }

    /// Whether every operand is read 16 bytes at a time.
    pub fn is_vectorised(&self) -> bool {
        self.launches
            .iter()
            .all(|launch| launch.variant.access == Access::Vectorised)
            && self.lora_a_vectorised
            && self.lora_b_vectorised
    }
}

impl fmt::Display for ForwardPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_plan(
            f,
            "forward",
            &self.problem,
            &self.launches,
            self.saved.bytes(),
            self.workspace_bytes(),
        )
    }
}
