//! Compute capability 9.0: TMA and `wgmma`. The GEMMs have kernels of their own. The others stream
//! their operands, so those of 8.0 serve here too; the shrink is compiled once more, to let the
//! GEMM behind it start early.

use super::sm80;
use crate::DType;
use crate::plan::{Access, Arch, DeviceProps, Variant};

/// The same tile as that of 8.0, if it is built.
pub(super) fn shrink(
    device: &DeviceProps,
    dtype: DType,
    access: Access,
    size: (usize, usize),
) -> Option<(Variant, String)> {
    let (of_sm80, reason) = sm80::shrink(device, dtype, access, size)?;
    let mut built = super::built(Arch::Sm90a, of_sm80.operation, dtype, access);
    let same_tile = built.find(|variant| variant.tile == of_sm80.tile)?;
    Some((same_tile, reason))
}
