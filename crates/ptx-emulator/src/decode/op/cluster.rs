//! Clusters, mbarriers, and what completes on them.

use super::{AtomicKind, AtomicOp, Order, Scope, Width, Window};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClusterOp {
    /// `mapa`: the address `s[0]` in the block of rank `s[1]`, to `d[0]`.
    Map { generic: bool },
    /// `getctarank`: rank of the block that the address `s[0]` is in, to `d[0]`.
    RankOf { generic: bool },
    /// `isspacep`: whether the generic address `s[0]` is in the block's own shared memory, or in
    /// that of the cluster, to `d[0]`.
    IsShared { cluster: bool },
    /// `barrier.cluster.arrive`; the order is release or relaxed.
    Arrive { order: Order, aligned: bool },
    /// `barrier.cluster.wait`, which acquires.
    Wait { aligned: bool },
    /// `setmaxnreg`: each thread of the warp has `imm` registers from now on.
    SetRegisters { increase: bool },
}

/// An operation on the mbarrier at `s[0]` + `imm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mbarrier {
    pub op: MbarrierOp,
    pub window: Window,
    pub order: Order,
    pub scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierOp {
    /// For `s[1]` arrivals in each phase.
    Init,
    Invalidate,
    /// `s[1]` bytes.
    ExpectTx,
    CompleteTx,
    /// The state before it to `d[0]` where wanted.
    Arrive {
        /// `s[1]` holds bytes to expect and one thread arrives; else it is the number of arrivals
        /// where present.
        expects: bool,
        /// Later phases expect as many arrivals less.
        drops: bool,
        /// The arrivals may not complete the phase.
        no_complete: bool,
    },
    /// `cp.async.mbarrier.arrive`: the thread arrives once its earlier `cp.async` have landed.
    ArriveWhenCopied {
        /// The arrival is one that the phase didn't expect so far.
        increments: bool,
    },
    /// Whether the phase with the state (or the parity) `s[1]` is complete, to `d[0]`.
    Wait {
        parity: bool,
        /// The thread may be suspended for some time.
        suspends: bool,
    },
}

/// `st.async` and `red.async`: the values in the list to the shared memory of a block of the
/// cluster at `s[0]` + `imm`. The bytes complete on the mbarrier at `s[1]`, plus `s[2]` where
/// present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AsyncStore {
    /// Of both addresses.
    pub window: Window,
    pub width: Width,
    /// Elements of the vector: 1, 2, 4.
    pub count: u8,
    /// `None` for a store.
    pub reduce: Option<(AtomicOp, AtomicKind)>,
}
