//! Bulk asynchronous copies, and what changes the tensor maps that they go by.

use super::{AtomicKind, AtomicOp, Window};

/// `cp.async.bulk` and its kin, one copy for each lane. All operands are among the list's uses, in
/// the order given here. An address takes two: its register and a constant offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bulk {
    /// Global to shared memory: destination, source, size, mbarrier, and with `multicast` the mask
    /// of the cluster's blocks.
    Load { multicast: bool },
    /// Shared memory of this block to global memory: destination, source, size.
    Store { reduce: Option<Reduce> },
    /// Shared memory of this block to that of another: destination, source, size, mbarrier.
    Send { reduce: Option<Reduce> },
    /// To L2: source, size.
    Prefetch,
    /// A box of a tensor to shared memory: destination, map, coordinates, mbarrier, mask.
    LoadTile { rank: u8, multicast: bool },
    /// A box in shared memory to a tensor: map, source, coordinates.
    StoreTile { rank: u8, reduce: Option<AtomicOp> },
    /// A box to L2: map, coordinates.
    PrefetchTile { rank: u8 },
    /// `cp.async.bulk.commit_group`.
    Commit,
    /// Until at most `imm` bulk groups of the thread are pending, or, with `read`, until they have
    /// at least read their sources.
    Wait { read: bool },
    /// `tensormap.replace`: map, value.
    Replace { window: Window, field: MapField },
    /// `tensormap.cp_fenceproxy`: destination, source.
    PublishMap,
}

/// What a reduction does to each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reduce {
    pub op: AtomicOp,
    pub kind: AtomicKind,
}

/// A field of a tensor map; those that each dimension has, with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapField {
    Address,
    Rank,
    BoxDim(u8),
    Dim(u8),
    Stride(u8),
    ElementStride(u8),
    ElementType,
    Interleave,
    Swizzle,
    Fill,
}
