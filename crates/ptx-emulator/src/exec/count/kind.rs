//! What sort of work an operation is.

use serde::{Deserialize, Serialize};

use crate::decode::op::{Async, Bulk, CarryOp, ClusterOp, IntOp, Move, Op, WarpOp, Wgmma, Window};

/// The sort of a warp instruction. Generic addresses are counted as such, whatever space they lead
/// to at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Integer and logic operations but [`Kind::Multiply`], comparisons and selections of any type.
    Integer,
    /// Integer multiplications, with an addition or without, and sums of products: units of a GPU
    /// other than those of [`Kind::Integer`] compute them.
    Multiply,
    /// Float arithmetic, packed halves included.
    Float,
    /// Approximations: `ex2`, `rsqrt`, `rcp.approx` and their like.
    Special,
    /// `cvt`.
    Convert,
    /// `mov`, packing and unpacking, special registers.
    Move,
    /// Branches, `exit`, `trap`, `nanosleep`, `printf`,
    /// `setmaxnreg`, `griddepcontrol`.
    Control,
    /// `ld.global`.
    LoadGlobal,
    /// `ld.shared`.
    LoadShared,
    /// `ld.local`.
    LoadLocal,
    /// `ld.param`, and of constants.
    LoadParam,
    /// `ld` of a generic address.
    LoadGeneric,
    /// `st.global`.
    StoreGlobal,
    /// `st.shared`.
    StoreShared,
    /// `st.local`.
    StoreLocal,
    /// `st` to a generic address.
    StoreGeneric,
    /// `atom.global`, `red.global`.
    AtomicGlobal,
    /// `atom.shared`, `red.shared`.
    AtomicShared,
    /// `atom`, `red` of a generic address.
    AtomicGeneric,
    /// `cp.async` itself.
    CopyAsync,
    /// `cp.async.commit_group`.
    CopyCommit,
    /// `cp.async.wait_group` and `wait_all`.
    CopyWait,
    /// `cp.async.bulk` into shared memory, of global or of another block's memory; with and
    /// without a tensor map.
    BulkLoad,
    /// `cp.async.bulk` from shared to global memory.
    BulkStore,
    /// `cp.reduce.async.bulk`.
    BulkReduce,
    /// `cp.async.bulk.prefetch`.
    BulkPrefetch,
    /// `cp.async.bulk.commit_group`.
    BulkCommit,
    /// `cp.async.bulk.wait_group`.
    BulkWait,
    /// `tensormap.replace` and `tensormap.cp_fenceproxy`.
    TensorMap,
    /// `st.async`, `red.async`.
    StoreAsync,
    /// `mbarrier`, `cp.async.mbarrier.arrive`; a wait counts as often as it looks.
    Mbarrier,
    /// `ldmatrix`.
    LoadMatrix,
    /// `stmatrix`.
    StoreMatrix,
    /// `mma`.
    Mma,
    /// `wgmma.mma_async`.
    Wgmma,
    /// `wgmma.fence`, `wgmma.commit_group` and `wgmma.wait_group`.
    WgmmaGroup,
    /// `bar`, `barrier`: one for each arrival of a warp; `barrier.cluster`.
    Barrier,
    /// `shfl`, `vote`, `match`, `redux`, `elect`, `activemask`, `movmatrix`, `bar.warp.sync`.
    Exchange,
    /// `membar`, `fence`.
    Fence,
    /// No effect here: prefetches and the like.
    None,
}

impl Kind {
    pub(super) fn of(op: &Op) -> Kind {
        match op {
            Op::Nop | Op::Grid(_) => Kind::None,
            Op::Fence(_) => Kind::Fence,
            Op::Control(_) | Op::Print => Kind::Control,
            Op::Move(
                Move::Word
                | Move::Wide
                | Move::Pred
                | Move::Special(_)
                | Move::Pack(_)
                | Move::Unpack(_),
            ) => Kind::Move,
            Op::Int(op, _) if multiplies(op) => Kind::Multiply,
            Op::Carry(CarryOp::MadLo | CarryOp::MadHi, _) => Kind::Multiply,
            Op::Int(..) | Op::Carry(..) | Op::Bits(..) | Op::Lop3(_) => Kind::Integer,
            Op::Compare(_) | Op::Select(_) | Op::PredLogic(_) => Kind::Integer,
            Op::F32(..) | Op::F64(..) | Op::Half(..) => Kind::Float,
            Op::Approx(..) => Kind::Special,
            Op::Convert(_) => Kind::Convert,
            Op::LoadParam(..) => Kind::LoadParam,
            Op::Load(access) => match access.window {
                Window::Global => Kind::LoadGlobal,
                Window::Shared | Window::Cluster => Kind::LoadShared,
                Window::Local => Kind::LoadLocal,
                Window::Param => Kind::LoadParam,
                Window::Generic => Kind::LoadGeneric,
            },
            Op::Store(access) => match access.window {
                Window::Global => Kind::StoreGlobal,
                Window::Shared | Window::Cluster => Kind::StoreShared,
                Window::Local | Window::Param => Kind::StoreLocal,
                Window::Generic => Kind::StoreGeneric,
            },
            Op::Atomic(atomic) => match atomic.window {
                Window::Shared | Window::Cluster => Kind::AtomicShared,
                Window::Generic => Kind::AtomicGeneric,
                Window::Global | Window::Local | Window::Param => Kind::AtomicGlobal,
            },
            Op::Async(Async::Copy { .. }) => Kind::CopyAsync,
            Op::Async(Async::Commit) => Kind::CopyCommit,
            Op::Async(Async::WaitGroup | Async::WaitAll) => Kind::CopyWait,
            Op::Bulk(op) => match op {
                Bulk::Load { .. } | Bulk::LoadTile { .. } | Bulk::Send { reduce: None } => {
                    Kind::BulkLoad
                }
                Bulk::Store { reduce: None } | Bulk::StoreTile { reduce: None, .. } => {
                    Kind::BulkStore
                }
                Bulk::Store { .. } | Bulk::StoreTile { .. } | Bulk::Send { .. } => Kind::BulkReduce,
                Bulk::Prefetch | Bulk::PrefetchTile { .. } => Kind::BulkPrefetch,
                Bulk::Commit => Kind::BulkCommit,
                Bulk::Wait { .. } => Kind::BulkWait,
                Bulk::Replace { .. } | Bulk::PublishMap => Kind::TensorMap,
            },
            Op::Warp(WarpOp::LoadMatrix { .. }) => Kind::LoadMatrix,
            Op::Warp(WarpOp::StoreMatrix { .. }) => Kind::StoreMatrix,
            Op::Warp(WarpOp::Pause) => Kind::Control,
            Op::Warp(_) => Kind::Exchange,
            Op::Barrier(_) => Kind::Barrier,
            Op::Cluster(ClusterOp::Arrive { .. } | ClusterOp::Wait { .. }) => Kind::Barrier,
            Op::Cluster(ClusterOp::SetRegisters { .. }) => Kind::Control,
            Op::Cluster(_) | Op::MbarrierPending => Kind::Integer,
            Op::Mbarrier(_) => Kind::Mbarrier,
            Op::AsyncStore(_) => Kind::StoreAsync,
            Op::Mma(_) => Kind::Mma,
            Op::Wgmma(Wgmma::Multiply(_)) => Kind::Wgmma,
            Op::Wgmma(_) => Kind::WgmmaGroup,
        }
    }
}

fn multiplies(op: &IntOp) -> bool {
    matches!(
        op,
        IntOp::MulLo
            | IntOp::MulHi
            | IntOp::MulWide
            | IntOp::MadLo
            | IntOp::MadHi
            | IntOp::MadWide
            | IntOp::MadHiSat
            | IntOp::Mul24Lo
            | IntOp::Mul24Hi
            | IntOp::Mad24Lo
            | IntOp::Mad24Hi
            | IntOp::Dp4a(..)
            | IntOp::Dp2a(..)
    )
}
