//! Words of the memory consistency model (PTX ISA section 8): how strong an operation on memory is,
//! and which threads it may synchronise with.

use super::Op;

/// Strength and direction of an operation on memory (PTX ISA section 8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Synchronises with nobody.
    Weak,
    /// As relaxed at system scope, said by `.volatile`.
    Volatile,
    Relaxed,
    Acquire,
    Release,
    /// Both, for atomics and fences. A `fence.sc` counts as this, too.
    AcqRel,
}

impl Order {
    /// Anything but weak: another thread may be waiting for the operation, or on it.
    #[inline(always)]
    pub fn is_strong(self) -> bool {
        self != Order::Weak
    }

    pub fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcqRel)
    }

    pub fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcqRel)
    }
}

/// The threads that an operation may synchronise with (PTX ISA section 8.5), smaller sets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Those of the same block.
    Cta,
    /// Those of the same cluster.
    Cluster,
    /// Those of the same device.
    Gpu,
    /// All, the host's among them.
    Sys,
}

/// Which operations of a kernel can order threads' accesses to memory, barriers aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SyncUse {
    /// Fences between threads, acquiring or releasing operations.
    pub any: bool,
    /// Strong operations of a narrower scope than the device.
    pub narrow: bool,
}

impl SyncUse {
    pub fn of(code: &[super::Inst]) -> Self {
        let mut found = SyncUse::default();
        for inst in code {
            let (order, scope, is_fence) = match inst.op {
                Op::Load(access) | Op::Store(access) => (access.order, access.scope, false),
                Op::Atomic(atomic) => (atomic.order, atomic.scope, false),
                Op::Fence(FenceKind::Thread(order, scope)) => (order, scope, true),
                Op::Fence(FenceKind::MbarrierInit) => (Order::Release, Scope::Cluster, true),
                // Completed phases are known within the cluster only, so that what others may know
                // must be told apart.
                Op::Mbarrier(_) => {
                    found.narrow = true;
                    continue;
                }
                _ => continue,
            };
            found.any |= is_fence || order.acquires() || order.releases();
            found.narrow |= order.is_strong() && scope < Scope::Gpu;
        }
        found
    }
}

/// What a fence orders (PTX ISA section 9.7.13.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FenceKind {
    /// `membar`, `fence`: earlier accesses of the thread before later ones, for threads in the
    /// scope. The order is acquire, release or both.
    Thread(Order, Scope),
    /// `fence.proxy.async`: accesses by the generic proxy and by the asynchronous one.
    ProxyAsync(ProxySpace),
    /// `fence.proxy.alias`: accesses through different virtual addresses of one place.
    ProxyAlias,
    /// `fence.proxy.tensormap::generic`: writes of a tensor map and its uses.
    ProxyTensormap { acquire: bool, scope: Scope },
    /// `fence.mbarrier_init.release.cluster`: the thread's `mbarrier.init` before later operations
    /// of the cluster.
    MbarrierInit,
}

/// The memory that a fence between proxies is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxySpace {
    All,
    Global,
    Shared,
}
