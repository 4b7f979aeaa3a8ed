//! The candidates of each architecture: the kernels that plans choose from.

mod sm80;

use super::{Access, Arch, DeviceProps, Operation, Variant};
use crate::{DType, Error, Result};

/// The architecture whose kernels plans for this device choose from. [`DeviceProps::check`] has
/// refused devices that run none.
fn of(_: &DeviceProps) -> Arch {
    Arch::Sm80
}

/// The kernels for a GEMM, with the largest tile first.
pub(super) fn gemm(
    device: &DeviceProps,
    operation: Operation,
    dtype: DType,
    access: Access,
) -> impl Iterator<Item = Variant> {
    match of(device) {
        Arch::Sm80 | Arch::Sm90a => sm80::built(operation, dtype, access),
    }
}

/// Whether a GEMM reads its operands, the adapters' matrices included, through tensor maps.
pub(super) fn maps_operands(variant: Variant) -> bool {
    match variant.arch {
        Arch::Sm80 => false,
        Arch::Sm90a => true,
    }
}

/// The kernel for S (tokens, ranks), and the reason for it.
pub(super) fn shrink(
    device: &DeviceProps,
    dtype: DType,
    access: Access,
    (tokens, ranks): (usize, usize),
) -> Result<(Variant, String)> {
    let chosen = match of(device) {
        Arch::Sm80 | Arch::Sm90a => sm80::shrink(device, dtype, access, (tokens, ranks)),
    };
    chosen.ok_or_else(|| not_in_table(Operation::Shrink, dtype, access))
}

/// The kernel of grad_b or grad_a for S or T with this many columns.
pub(super) fn weight_grad(
    device: &DeviceProps,
    operation: Operation,
    dtype: DType,
    access: Access,
    ranks: usize,
) -> Result<Variant> {
    let chosen = match of(device) {
        Arch::Sm80 | Arch::Sm90a => sm80::weight_grad(operation, dtype, access, ranks),
    };
    chosen.ok_or_else(|| not_in_table(operation, dtype, access))
}

/// All kernels that [`weight_grad`] could choose.
pub(super) fn weight_grads(
    device: &DeviceProps,
    operation: Operation,
    dtype: DType,
    access: Access,
) -> impl Iterator<Item = Variant> {
    match of(device) {
        Arch::Sm80 | Arch::Sm90a => sm80::built(operation, dtype, access),
    }
}

/// The kernels of a merge: the one for the tiles of the weight, and the one that sums the counts.
pub(super) fn merge(
    device: &DeviceProps,
    dtype: DType,
    access: Access,
) -> Result<(Variant, Variant)> {
    let chosen = match of(device) {
        Arch::Sm80 | Arch::Sm90a => sm80::merge(dtype, access),
    };
    chosen.ok_or_else(|| not_in_table(Operation::Merge, dtype, access))
}

/// The error for a kernel that is missing from the table.
pub(super) fn not_in_table(operation: Operation, dtype: DType, access: Access) -> Error {
    Error::NoKernel {
        what: format!("{operation:?} in {dtype} with {access:?} access"),
    }
}
