//! Compute capability 8.0 and later: `cp.async` and `mma.sync`.

use crate::DType;
use crate::plan::{Access, Arch, DeviceProps, Operation, Variant};

/// The kernels that are built, in the table's order.
pub(super) fn built(
    operation: Operation,
    dtype: DType,
    access: Access,
) -> impl Iterator<Item = Variant> {
    super::built(Arch::Sm80, operation, dtype, access)
}

/// The tile that covers this many ranks with the fewest columns or, if none covers them, the
/// widest.
fn rank_columns(variants: impl Iterator<Item = Variant>, ranks: usize) -> Option<usize> {
    variants
        .map(|variant| variant.tile.ranks)
        .reduce(|best, columns| match (best >= ranks, columns >= ranks) {
            (true, true) => best.min(columns),
            _ => best.max(columns),
        })
}

/// The tallest tile whose blocks nearly fill the device: with few tokens, tall tiles leave
/// multiprocessors idle.
pub(super) fn shrink(
    device: &DeviceProps,
    dtype: DType,
    access: Access,
    (tokens, ranks): (usize, usize),
) -> Option<(Variant, String)> {
    let built = || built(Operation::Shrink, dtype, access);
    let columns = rank_columns(built(), ranks)?;
    let mut tiles: Vec<Variant> = built().filter(|v| v.tile.ranks == columns).collect();
    tiles.sort_by_key(|variant| variant.tile.rows);
    let fills = |variant: &&Variant| {
        let blocks = tokens.div_ceil(variant.tile.rows) as u64 * ranks.div_ceil(columns) as u64;
        4 * blocks >= 3 * u64::from(device.multiprocessors())
    };
    let lowest = *tiles.first()?;
    let chosen = *tiles.iter().rfind(fills).unwrap_or(&lowest);
    let mut reason = format!("{ranks} ranks in tiles of {columns}");
    if tiles.len() > 1 {
        reason += &format!("; {} rows", chosen.tile.rows);
        let taller = tiles.iter().find(|tile| tile.tile.rows > chosen.tile.rows);
        if let Some(taller) = taller {
            reason += &format!(
                ", since blocks of {} would not fill the device",
                taller.tile.rows
            );
        }
    }
    Some((chosen, reason))
}

/// The choice depends only on the columns of S or T.
pub(super) fn weight_grad(
    operation: Operation,
    dtype: DType,
    access: Access,
    ranks: usize,
) -> Option<Variant> {
    let built = || built(operation, dtype, access);
    let columns = rank_columns(built(), ranks)?;
    built().find(|variant| variant.tile.ranks == columns)
}

/// The second kernel only sums counts, so it exists for one access only.
pub(super) fn merge(dtype: DType, access: Access) -> Option<(Variant, Variant)> {
    let tiled = built(Operation::Merge, dtype, access).find(|variant| !variant.sums_totals())?;
    let totals = built(Operation::Merge, dtype, Access::Any).find(|v| v.sums_totals())?;
    Some((tiled, totals))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One block of four warps gives each scheduler of a multiprocessor a single warp: nothing
    /// hides its waits.
    #[test]
    fn two_blocks_of_a_gemm_fit_a_multiprocessor_with_100_kib_of_shared_memory() {
        for operation in [Operation::Forward, Operation::GradX] {
            for device in [DeviceProps::rtx3090(), DeviceProps::rtx5090()] {
                let tiles = Variant::all().filter(|v| {
                    v.arch == Arch::Sm80
                        && v.operation == operation
                        && v.shared_bytes() <= device.shared_per_block()
                        && v.resident_blocks() > 1
                });
                let mut few = tiles.filter(|v| device.blocks_by_shared(v.shared_bytes()) < 2);
                assert_eq!(few.next(), None, "{device}");
            }
        }
    }
}
