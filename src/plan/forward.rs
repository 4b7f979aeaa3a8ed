//! The forward: shrink for all adapters, then one GEMM over [x | S]·[W | B]ᵀ of all projections.

use std::fmt;

use bytemuck::Zeroable;

use super::buffer::Carver;
use super::gemm::{self, Product};
use super::params::{ForwardParams, ForwardProjection, ShrinkParams, mask_source};
use super::{DeviceProps, Launch, Operation, SavedLayout, SplitRegions, access, arch, fmt_plan};
use crate::{Problem, Result, Role, WeightLayout};

/// What a forward call launches: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ of every projection.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardPlan {
    problem: Problem,
    pub(crate) launches: [Launch; 2],
    saved: SavedLayout,
    workspace_bytes: usize,
    /// What the kernels are told. Addresses are 0, or count from the start of `saved` or the
    /// workspace; scalings and dropout are the call's.
    pub(crate) shrink: ShrinkParams,
    pub(crate) forward: ForwardParams,
}

impl ForwardPlan {
    /// Plans a forward.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device lacks what the kernels need, [`crate::Error::Grid`]
    /// if a launch would be too large.
    pub fn new(problem: &Problem, device: &DeviceProps) -> Result<Self> {
        device.check()?;
        let (x_access, x_reason) = access::streamed(problem, [(0, Role::X)]);
        let size = (problem.tokens(), problem.padded_ranks());
        let (shrink, tile_reason) = arch::shrink(device, problem.dtype(), x_access, size)?;
        let (rows, ranks) = shrink.block();
        let blocks =
            problem.tokens().div_ceil(rows) as u64 * problem.padded_ranks().div_ceil(ranks) as u64;
        let reason = format!("{tile_reason}; {x_reason}");
        let shrink = Launch::new(shrink, blocks, None, reason, problem, device)?;

        let product = Product {
            operation: Operation::Forward,
            rows: problem.tokens(),
            columns: problem
                .projections()
                .iter()
                .map(|one| one.out_features)
                .collect(),
            depth: problem.in_features(),
        };
        let forward = gemm::launch(&product, access::gemm(problem, Role::X), problem, device)?;

        let mut carver = Carver::default();
        let split = SplitRegions::new(&forward, &mut carver);
        let saved = SavedLayout::new(problem);
        Ok(Self {
            shrink: shrink_params(problem, &saved, split.as_ref()),
            forward: forward_params(problem, &saved, &forward, split.as_ref()),
            saved,
            workspace_bytes: carver.bytes(),
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

    /// What the call leaves in the `saved` buffer for backward, and how many bytes that takes.
    /// Needed without a backward too: the second kernel reads S there. Its content before the call
    /// does not matter.
    pub fn saved(&self) -> &SavedLayout {
        &self.saved
    }

    /// Bytes of scratch memory; none where no tile is split. Its content before the call does not
    /// matter, and nothing of it is needed after.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }
}

fn shrink_params(
    problem: &Problem,
    saved: &SavedLayout,
    split: Option<&SplitRegions>,
) -> ShrinkParams {
    let mut params = ShrinkParams {
        s: saved.s.offset as u64,
        mask: saved.mask.map_or(0, |mask| mask.offset as u64),
        counters: split.map_or(0, |split| split.counters.offset as u64),
        x_stride: problem.layout(Role::X).row_stride,
        m: problem.tokens() as i32,
        k: problem.in_features() as i32,
        ranks: problem.padded_ranks() as i32,
        adapters: problem.adapted().count() as i32,
        adapter_f32: super::adapter_f32(problem),
        mask_source: if problem.has_dropout() {
            mask_source::DRAWN
        } else {
            mask_source::NONE
        },
        counter_count: split.map_or(0, |split| split.count),
        ..Zeroable::zeroed()
    };
    for (slot, (projection, _)) in params.lora_a.iter_mut().zip(problem.adapted()) {
        *slot = super::adapter_params(problem, projection, Role::LoraA);
    }
    params
}

fn forward_params(
    problem: &Problem,
    saved: &SavedLayout,
    launch: &Launch,
    split: Option<&SplitRegions>,
) -> ForwardParams {
    let mut params = ForwardParams {
        s: saved.s.offset as u64,
        x_stride: problem.layout(Role::X).row_stride,
        m: problem.tokens() as i32,
        k: problem.in_features() as i32,
        ranks: problem.padded_ranks() as i32,
        projections: problem.projections().len() as i32,
        adapter_f32: super::adapter_f32(problem),
        accumulate: problem.accumulates(Role::Y).into(),
        weight_transposed: (problem.weight_layout() == WeightLayout::InOut).into(),
        schedule: super::schedule_params(launch, split),
        ..Zeroable::zeroed()
    };
    let (_, tile_columns) = launch.variant.block();
    let mut first_tile = 0;
    let slots = params.projection.iter_mut().zip(problem.projections());
    for (index, (slot, projection)) in slots.enumerate() {
        let stride = |tensor| problem.layout_of(index, tensor).row_stride;
        *slot = ForwardProjection {
            weight_stride: stride(Role::Weight),
            lora_b_stride: stride(Role::LoraB),
            y_stride: stride(Role::Y),
            n: projection.out_features as i32,
            r: projection.rank as i32,
            rank0: problem.rank_offset(index) as i32,
            first_tile,
            lora_vectorised: access::adapter_aligned(problem, index, Role::LoraB).into(),
            output_vectorised: access::rows_aligned(problem, index, Role::Y).into(),
            ..Zeroable::zeroed()
        };
        first_tile += projection.out_features.div_ceil(tile_columns) as i32;
    }
    params
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
