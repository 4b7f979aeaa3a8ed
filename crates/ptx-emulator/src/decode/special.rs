//! Names of the special registers (PTX ISA section 10).

use super::op::Special;

/// A special register, and whether it has 64 bits.
pub(super) fn special(name: &str) -> Option<(Special, bool)> {
    let (stem, axis) = match name.rsplit_once('.') {
        Some((stem, "x")) => (stem, 0),
        Some((stem, "y")) => (stem, 1),
        Some((stem, "z")) => (stem, 2),
        Some(_) => return None,
        None => (name, u8::MAX),
    };
    if axis != u8::MAX {
        return Some(match stem {
            "%tid" => (Special::Tid(axis), false),
            "%ntid" => (Special::NumTid(axis), false),
            "%ctaid" | "%clusterid" => (Special::CtaId(axis), false),
            "%nctaid" | "%nclusterid" => (Special::NumCta(axis), false),
            "%cluster_ctaid" => (Special::Constant(0), false),
            "%cluster_nctaid" => (Special::Constant(1), false),
            _ => return None,
        });
    }
    Some(match stem {
        "%laneid" => (Special::LaneId, false),
        "%warpid" => (Special::WarpId, false),
        "%nwarpid" => (Special::NumWarps, false),
        "%lanemask_eq" => (Special::LaneMaskEq, false),
        "%lanemask_le" => (Special::LaneMaskLe, false),
        "%lanemask_lt" => (Special::LaneMaskLt, false),
        "%lanemask_ge" => (Special::LaneMaskGe, false),
        "%lanemask_gt" => (Special::LaneMaskGt, false),
        "%smid" => (Special::SmId, false),
        "%nsmid" => (Special::NumSm, false),
        "%gridid" => (Special::GridId, true),
        "%clock" => (Special::Clock, false),
        "%clock_hi" => (Special::Constant(0), false),
        "%clock64" => (Special::Clock64, true),
        "%globaltimer" => (Special::GlobalTimer, true),
        "%globaltimer_lo" => (Special::GlobalTimerLow, false),
        "%globaltimer_hi" => (Special::GlobalTimerHigh, false),
        "%dynamic_smem_size" => (Special::DynamicSharedSize, false),
        "%total_smem_size" => (Special::TotalSharedSize, false),
        "%cluster_ctarank" => (Special::Constant(0), false),
        "%cluster_nctarank" => (Special::Constant(1), false),
        _ => return None,
    })
}
