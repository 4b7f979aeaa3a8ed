//! Special registers (PTX ISA section 10).

use super::block::Core;
use super::launch::Grid;
use super::registers::{LANES, Registers, Wides};
use crate::decode::op::{Inst, Special};

/// Index of each lane's thread in its block, along one axis.
pub(super) fn thread(shape: [u32; 3], linear: u32) -> [u32; 3] {
    let [x, y, _] = shape.map(|n| n.max(1));
    [linear % x, linear / x % y, linear / x / y]
}

pub(super) fn read(
    regs: &mut Registers,
    inst: &Inst,
    mask: u32,
    special: Special,
    block: &Core,
    warp: u32,
    grid: &Grid,
) {
    let axis = |of: [u32; 3], axis: u8| of.get(usize::from(axis)).copied().unwrap_or(0);
    let lane_bit = |f: fn(u32) -> u32| {
        let mut out: Wides = [0; LANES];
        for (lane, value) in out.iter_mut().enumerate() {
            *value = u64::from(f(1 << lane));
        }
        out
    };
    let same = |value: u64| [value; LANES];
    let values = match special {
        Special::Tid(a) => {
            let mut out = [0; LANES];
            for (lane, value) in out.iter_mut().enumerate() {
                *value = u64::from(axis(thread(grid.block, 32 * warp + lane as u32), a));
            }
            out
        }
        Special::NumTid(a) => same(u64::from(axis(grid.block, a))),
        Special::CtaId(a) => same(u64::from(axis(block.index, a))),
        Special::NumCta(a) => same(u64::from(axis(grid.grid, a))),
        Special::LaneId => {
            let mut out = [0; LANES];
            for (lane, value) in out.iter_mut().enumerate() {
                *value = lane as u64;
            }
            out
        }
        Special::WarpId => same(u64::from(warp)),
        Special::NumWarps => same(u64::from(grid.threads().div_ceil(32))),
        Special::LaneMaskEq => lane_bit(|bit| bit),
        Special::LaneMaskLe => lane_bit(|bit| bit | (bit - 1)),
        Special::LaneMaskLt => lane_bit(|bit| bit - 1),
        Special::LaneMaskGe => lane_bit(|bit| !(bit - 1)),
        Special::LaneMaskGt => lane_bit(|bit| !(bit | (bit - 1))),
        Special::SmId => same(block.linear % u64::from(grid.multiprocessors)),
        Special::NumSm => same(u64::from(grid.multiprocessors)),
        Special::GridId => same(0),
        // A cycle for each warp instruction of the block: it grows, and says nothing about time.
        Special::Clock => same(block.counts.warp_instructions & u64::from(u32::MAX)),
        Special::Clock64 => same(block.counts.warp_instructions),
        Special::GlobalTimer => same(grid.nanoseconds()),
        Special::GlobalTimerLow => same(grid.nanoseconds() & u64::from(u32::MAX)),
        Special::GlobalTimerHigh => same(grid.nanoseconds() >> 32),
        Special::DynamicSharedSize => same(u64::from(grid.dynamic_shared)),
        Special::TotalSharedSize => same(u64::from(grid.shared_bytes)),
        Special::ClusterId(a) => same(u64::from(
            axis(block.index, a) / axis(grid.cluster, a).max(1),
        )),
        Special::NumClusters(a) => {
            same(u64::from(axis(grid.grid, a) / axis(grid.cluster, a).max(1)))
        }
        Special::ClusterCtaId(a) => same(u64::from(
            axis(block.index, a) % axis(grid.cluster, a).max(1),
        )),
        Special::ClusterNumCta(a) => same(u64::from(axis(grid.cluster, a))),
        Special::ClusterRank => same(u64::from(block.rank)),
        Special::ClusterSize => same(u64::from(grid.cluster_size())),
        Special::IsExplicitCluster => {
            regs.set_pred(
                inst.d[0],
                mask,
                if grid.is_clustered { u32::MAX } else { 0 },
            );
            return;
        }
        Special::Constant(value) => same(u64::from(value)),
    };
    regs.set_any(inst.d[0], mask, &values);
}
