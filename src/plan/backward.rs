//! The backward: one pass over dy (T and dB), one over x (dA), one GEMM (dx). Partial sums of one launch are added up by the next, in the
//! order of their index: no atomics, no counters, the same bits on every run.

use std::fmt;

use super::buffer::Carver;
use super::{
    DeviceProps, Launch, Operation, Region, SavedLayout, Split, Variant, access, check_device, fmt_plan, gemm_tile,
    paired, rank_tile, reduce_blocks, vectorised,
};
use crate::{Problem, Result, Tensor};

/// What a backward call launches: dx, dA and dB from dy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackwardPlan {
    problem: Problem,
    pub(crate) launches: [Launch; 3],
    saved: SavedLayout,
    workspace_bytes: usize,
    pub(crate) regions: Regions,
    pub(crate) dy_split: Split,
    pub(crate) x_split: Split,
    /// Last blocks of grad_a, which sum dB.
    pub(crate) reduce_b_blocks: u32,
    /// Last blocks of grad_x, which sum dA.
    pub(crate) reduce_a_blocks: u32,
    pub(crate) lora_a_vectorised: bool,
    pub(crate) lora_b_vectorised: bool,
    pub(crate) dx_paired: bool,
}

/// The workspace, carved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Regions {
    /// f32 (column groups of dy, tokens, padded rank)
    pub t_partial: Region,
    /// f32 (row splits of dy, out_features, padded rank)
    pub lora_b_partial: Region,
    /// dtype (tokens, padded rank)
    pub t: Region,
    /// f32 (row splits of x, padded rank, in_features)
    pub lora_a_partial: Region,
}

impl BackwardPlan {
    /// Plans a backward.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device lacks what the kernels need, [`crate::Error::Grid`] if a launch would be too large.
    pub fn new(problem: &Problem, device: &DeviceProps) -> Result<Self> {
        check_device(device)?;
        let dtype = problem.dtype();
        let (tokens, ranks) = (problem.tokens(), problem.padded_rank());

        let (tile, tile_reason) = rank_tile(problem);
        let (dy_access, reason) = access(problem, &[Tensor::DY]);
        let grad_b = Variant {
            operation: Operation::GradB,
            dtype,
            tile,
            access: dy_access,
        };
        let dy_split = Split::new(grad_b, problem, problem.out_features(), device);
        let reason = format!("{tile_reason}; {} row splits; {reason}", dy_split.row_splits);
        let grad_b = Launch::new(grad_b, (dy_split.blocks(), 1), reason, problem, device)?;

        let (x_access, reason) = access(problem, &[Tensor::X]);
        let grad_a = Variant {
            operation: Operation::GradA,
            dtype,
            tile,
            access: x_access,
        };
        let x_split = Split::new(grad_a, problem, problem.in_features(), device);
        let reduce_b_blocks = reduce_blocks(problem.out_features() * problem.rank(), grad_a.threads(), device);
        let reason = format!(
            "{tile_reason}; {} row splits; {reduce_b_blocks} blocks sum d_lora_B; {reason}",
            x_split.row_splits
        );
        let grad_a = Launch::new(
            grad_a,
            (x_split.blocks() + u64::from(reduce_b_blocks), 1),
            reason,
            problem,
            device,
        )?;

        let (tile, blocks, tile_reason) = gemm_tile(Operation::GradX, problem, problem.in_features(), device);
        let (gemm_access, reason) = access(problem, &[Tensor::DY, Tensor::Weight]);
        let grad_x = Variant {
            operation: Operation::GradX,
            dtype,
            tile,
            access: gemm_access,
        };
        let reduce_a_blocks = reduce_blocks(problem.in_features() * problem.rank(), grad_x.threads(), device);
        let reason = format!("{tile_reason}; {reduce_a_blocks} blocks sum d_lora_A; {reason}");
        let grad_x = Launch::new(
            grad_x,
            (blocks + u64::from(reduce_a_blocks), 1),
            reason,
            problem,
            device,
        )?;

        let mut carver = Carver::default();
        let float = size_of::<f32>();
        let regions = Regions {
            t_partial: carver.take(&[dy_split.column_groups, tokens, ranks], float),
            lora_b_partial: carver.take(&[dy_split.row_splits, problem.out_features(), ranks], float),
            t: carver.take(&[tokens, ranks], dtype.size()),
            lora_a_partial: carver.take(&[x_split.row_splits, ranks, problem.in_features()], float),
        };
        Ok(Self {
            launches: [grad_b, grad_a, grad_x],
            saved: SavedLayout::new(problem),
            workspace_bytes: carver.bytes(),
            regions,
            dy_split,
            x_split,
            reduce_b_blocks,
            reduce_a_blocks,
            lora_a_vectorised: vectorised(problem, Tensor::LoraA),
            lora_b_vectorised: vectorised(problem, Tensor::LoraB),
            dx_paired: paired(problem, Tensor::DX),
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

    /// What it reads from the buffer that the forward of the same problem saved.
    pub fn saved(&self) -> &SavedLayout {
        &self.saved
    }

    /// Bytes of scratch memory. Its content before the call does not matter, and nothing of it is needed after.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }
}

impl fmt::Display for BackwardPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_plan(
            f,
            "backward",
            &self.problem,
            &self.launches,
            self.saved.bytes(),
            self.workspace_bytes,
        )
    }
}
