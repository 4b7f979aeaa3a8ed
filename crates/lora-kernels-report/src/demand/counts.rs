//! The emulator's counters in the terms of the modelled bound.
//!
//! They are of PTX, which ptxas translates: `mov` and loads of parameters become operands of other
//! instructions and don't count here. Address arithmetic that ptxas folds into offsets counts, and
//! so do comparisons and logic that it merges into one instruction: issue and integer times are
//! upper bounds in that.

use ptx_emulator::counters::{KernelCounters, Kind};

use lora_kernels_report::bound::Counts;

/// Of the blocks that ran, in clusters of this many.
pub fn counts(kernel: &KernelCounters, cluster: u32) -> Counts {
    let total = kernel.total;
    let of = |kind: Kind| kernel.kind(kind);
    let operands = [Kind::Move, Kind::LoadParam, Kind::None];
    let folded: u64 = operands.map(|kind| of(kind).warp_instructions).iter().sum();
    // Among `sectors`, what a multicast brings to all of a cluster is once.
    let again = f64::from(cluster - 1) / f64::from(cluster);
    Counts {
        sectors: total.sectors as f64,
        block_sectors: total.sectors as f64 + total.multicast_sectors as f64 * again,
        mma_flops: of(Kind::Mma).mma_flops as f64,
        wgmma_flops: of(Kind::Wgmma).mma_flops as f64,
        wavefronts: total.wavefronts as f64,
        operand_wavefronts: of(Kind::Wgmma).wavefronts as f64,
        instructions: (total.warp_instructions - folded) as f64,
        integer: of(Kind::Integer).warp_instructions as f64,
    }
}

/// Of one block.
pub fn per_block(kernel: &KernelCounters, cluster: u32) -> Counts {
    counts(kernel, cluster).times(1.0 / kernel.blocks_run.max(1) as f64)
}
