//! The candidates of each architecture: the kernels that plans choose from.

mod sm80;
mod sm90a;

use super::{Access, Arch, DeviceProps, Operation, Variant};
use crate::{DType, Error, Problem, Result};

/// The kernels that are built for an architecture, in the table's order.
pub(super) fn built(
    arch: Arch,
    operation: Operation,
    dtype: DType,
    access: Access,
) -> impl Iterator<Item = Variant> {
    Variant::all().filter(move |variant| {
        variant.arch == arch
            && (variant.operation, variant.dtype, variant.access) == (operation, dtype, access)
    })
}

/// The kernels for a GEMM that run on a device, of the latest architecture and with the largest
/// tile first.
pub(super) fn gemm(
    device: &DeviceProps,
    operation: Operation,
    dtype: DType,
    access: Access,
) -> impl Iterator<Item = Variant> {
    [Arch::Sm90a, Arch::Sm80]
        .into_iter()
        .filter(move |arch| arch.is_for(device))
        .flat_map(move |arch| built(arch, operation, dtype, access))
}

/// Whether a GEMM reads its operands, the adapters' matrices included, through tensor maps.
pub(super) fn maps_operands(variant: &Variant) -> bool {
    match variant.arch {
        Arch::Sm80 => false,
        Arch::Sm90a => true,
    }
}

/// The blocks of a cluster in which a GEMM may run, if it can share operands so. Where rows have
/// adapters of their own, each block brings what its tile needs.
pub(super) fn cluster(variant: Variant) -> Option<u64> {
    match (variant.arch, variant.operation) {
        (Arch::Sm80, _) | (Arch::Sm90a, Operation::ForwardRows) => None,
        (Arch::Sm90a, _) => Some(2),
    }
}

/// The name of an architecture, as in the table and in symbols.
pub(super) fn name(arch: Arch) -> &'static str {
    match arch {
        Arch::Sm80 => "sm80",
        Arch::Sm90a => "sm90a",
    }
}

/// The kernel for S (tokens, ranks) that goes before a GEMM of this architecture, and the reason
/// for it.
pub(super) fn shrink(
    gemm: Arch,
    device: &DeviceProps,
    dtype: DType,
    access: Access,
    size: (usize, usize),
) -> Result<(Variant, String)> {
    let chosen = match gemm {
        Arch::Sm80 => None,
        Arch::Sm90a => sm90a::shrink(device, dtype, access, size),
    };
    chosen
        .or_else(|| sm80::shrink(device, dtype, access, size))
        .ok_or_else(|| not_in_table(Operation::Shrink, dtype, access))
}

/// Whether a launch may start while the one before it still runs: it waits by itself for what that
/// writes, and that one lets it start early.
pub(super) fn overlaps(before: Variant, launch: Variant) -> bool {
    before.arch == Arch::Sm90a && launch.arch == Arch::Sm90a
}

/// The kernel of grad_b or grad_a for S or T with this many columns.
pub(super) fn weight_grad(
    operation: Operation,
    dtype: DType,
    access: Access,
    ranks: usize,
) -> Result<Variant> {
    sm80::weight_grad(operation, dtype, access, ranks)
        .ok_or_else(|| not_in_table(operation, dtype, access))
}

/// All kernels that [`weight_grad`] could choose.
pub(super) fn weight_grads(
    operation: Operation,
    dtype: DType,
    access: Access,
) -> impl Iterator<Item = Variant> {
    sm80::built(operation, dtype, access)
}

/// The kernels of a merge: the one for the tiles of the weight, and the one that sums the counts.
pub(super) fn merge(dtype: DType, access: Access) -> Result<(Variant, Variant)> {
    sm80::merge(dtype, access).ok_or_else(|| not_in_table(Operation::Merge, dtype, access))
}

/// The kernels for a forward of few tokens. Every device has the same.
pub(super) fn decode(dtype: DType, access: Access) -> impl Iterator<Item = Variant> {
    sm80::built(Operation::Decode, dtype, access)
}

/// Refuses the backward of a problem that will have none.
pub(super) fn has_backward(problem: &Problem) -> Result<()> {
    match problem.is_inference() {
        true => Err(Error::NoKernel {
            what: "a backward of a problem for inference (Problem::with_inference)".into(),
        }),
        false => Ok(()),
    }
}

/// The error for a kernel that is missing from the table.
pub(super) fn not_in_table(operation: Operation, dtype: DType, access: Access) -> Error {
    Error::NoKernel {
        what: format!("{operation:?} in {dtype} with {access:?} access"),
    }
}
