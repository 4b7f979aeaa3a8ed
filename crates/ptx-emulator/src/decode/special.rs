//! Names of the special registers (PTX ISA section 10).

use super::builder::{Constant, RESERVED_SHARED};
use super::op::Special;

/// Special registers that hold the same in all threads of a launch, and are known before it.
pub(super) fn constant(name: &str) -> Option<Constant> {
    if let Some(number) = name.strip_prefix("%envreg") {
        let number = number.parse().ok().filter(|&number| number < 32)?;
        return Some(Constant::Environment(number));
    }
    Some(match name.strip_prefix("%reserved_smem_offset_")? {
        "begin" | "0" => Constant::ReservedShared(0),
        // Cooperative groups keep the barriers of tiles of several warps behind this one.
        "1" => Constant::ReservedShared(256),
        "end" => Constant::ReservedShared(RESERVED_SHARED),
        "cap" => Constant::Bits(u64::from(RESERVED_SHARED)),
        _ => return None,
    })
}

/// A special register, and its bits.
pub(super) fn special(name: &str) -> Option<(Special, u32)> {
    let (stem, axis) = match name.rsplit_once('.') {
        Some((stem, "x")) => (stem, 0),
        Some((stem, "y")) => (stem, 1),
        Some((stem, "z")) => (stem, 2),
        Some(_) => return None,
        None => (name, u8::MAX),
    };
    if axis != u8::MAX {
        return Some(match stem {
            "%tid" => (Special::Tid(axis), 32),
            "%ntid" => (Special::NumTid(axis), 32),
            "%ctaid" => (Special::CtaId(axis), 32),
            "%nctaid" => (Special::NumCta(axis), 32),
            "%clusterid" => (Special::ClusterId(axis), 32),
            "%nclusterid" => (Special::NumClusters(axis), 32),
            "%cluster_ctaid" => (Special::ClusterCtaId(axis), 32),
            "%cluster_nctaid" => (Special::ClusterNumCta(axis), 32),
            _ => return None,
        });
    }
    Some(match stem {
        "%laneid" => (Special::LaneId, 32),
        "%warpid" => (Special::WarpId, 32),
        "%nwarpid" => (Special::NumWarps, 32),
        "%lanemask_eq" => (Special::LaneMaskEq, 32),
        "%lanemask_le" => (Special::LaneMaskLe, 32),
        "%lanemask_lt" => (Special::LaneMaskLt, 32),
        "%lanemask_ge" => (Special::LaneMaskGe, 32),
        "%lanemask_gt" => (Special::LaneMaskGt, 32),
        "%smid" => (Special::SmId, 32),
        "%nsmid" => (Special::NumSm, 32),
        "%gridid" => (Special::GridId, 64),
        "%clock" => (Special::Clock, 32),
        "%clock_hi" => (Special::Constant(0), 32),
        "%clock64" => (Special::Clock64, 64),
        "%globaltimer" => (Special::GlobalTimer, 64),
        "%globaltimer_lo" => (Special::GlobalTimerLow, 32),
        "%globaltimer_hi" => (Special::GlobalTimerHigh, 32),
        "%dynamic_smem_size" => (Special::DynamicSharedSize, 32),
        "%total_smem_size" => (Special::TotalSharedSize, 32),
        "%cluster_ctarank" => (Special::ClusterRank, 32),
        "%cluster_nctarank" => (Special::ClusterSize, 32),
        "%is_explicit_cluster" => (Special::IsExplicitCluster, 1),
        _ => return None,
    })
}
