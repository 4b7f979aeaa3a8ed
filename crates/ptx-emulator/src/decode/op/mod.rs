//! The decoded form: one [`Inst`] per operation, operands as register slots, meaning as a small
//! enum grouped by family.

mod arithmetic;
mod bulk;
mod cluster;
mod order;
mod transfer;
mod warp;
mod wgmma;

pub(crate) use self::arithmetic::*;
pub(crate) use self::bulk::*;
pub(crate) use self::cluster::*;
pub(crate) use self::order::*;
pub(crate) use self::transfer::*;
pub(crate) use self::warp::*;
pub(crate) use self::wgmma::*;
use super::types::Int;

/// A register slot. The two top bits hold the class, the rest the index within it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reg(pub u32);

/// The three register files of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Up to 32 bits a lane. Narrower values are zero-extended.
    Word,
    /// 64 bits a lane.
    Wide,
    /// One bit a lane.
    Pred,
}

impl Reg {
    pub const NONE: Reg = Reg(u32::MAX);
    const INDEX: u32 = (1 << 30) - 1;

    pub fn new(class: Class, index: u32) -> Reg {
        Reg(((class as u32) << 30) | (index & Self::INDEX))
    }

    #[inline(always)]
    pub fn index(self) -> usize {
        (self.0 & Self::INDEX) as usize
    }

    pub fn is_some(self) -> bool {
        self != Reg::NONE
    }

    #[inline(always)]
    pub fn is_wide(self) -> bool {
        self.0 >> 30 == Class::Wide as u32
    }

    /// `None` for [`Reg::NONE`].
    pub fn class(self) -> Option<Class> {
        match self.0 >> 30 {
            0 => Some(Class::Word),
            1 => Some(Class::Wide),
            2 => Some(Class::Pred),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Reg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let index = self.index();
        match self.class() {
            Some(Class::Word) => write!(f, "w{index}"),
            Some(Class::Wide) => write!(f, "d{index}"),
            Some(Class::Pred) => write!(f, "p{index}"),
            None => write!(f, "-"),
        }
    }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inst {
    pub op: Op,
    /// Guard predicate, or [`Reg::NONE`].
    pub guard: Reg,
    pub guard_negated: bool,
    pub d: [Reg; 2],
    pub s: [Reg; 4],
    /// Address offset, branch target, immediate: as the operation says.
    pub imm: i32,
    /// Index of a [`RegList`], or the join point of a branch.
    pub list: u32,
}

/// Operands beyond what [`Inst`] holds: vectors and matrix fragments.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegList {
    pub defs: Vec<Reg>,
    pub uses: Vec<Reg>,
}

pub(crate) const NO_LIST: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Op {
    /// No effect: prefetches and the like.
    Nop,
    /// Orders this thread's accesses before and after it.
    Fence(FenceKind),
    Control(Control),
    Move(Move),
    Int(IntOp, Int),
    /// `add.cc` and its kin: carry in `s[3]`, carry out in `d[1]`, where present.
    Carry(CarryOp, Int),
    Bits(BitsOp, Int),
    Lop3(u8),
    F32(FloatOp, FloatMods),
    F64(FloatOp, FloatMods),
    Half(FloatOp, HalfType, FloatMods),
    Approx(ApproxOp, FloatMods),
    Compare(Compare),
    Select(Select),
    PredLogic(PredOp),
    Convert(Convert),
    Load(Access),
    Store(Access),
    /// `ld.param` of a kernel parameter: the same for all lanes. Offset in `imm`, destinations in
    /// the list.
    LoadParam(Width, Extend),
    Atomic(Atomic),
    Async(Async),
    Bulk(Bulk),
    Warp(WarpOp),
    Barrier(Barrier),
    Grid(Grid),
    Cluster(ClusterOp),
    Mbarrier(Mbarrier),
    /// `mbarrier.pending_count`: the pending arrivals that the state `s[0]` holds, to `d[0]`.
    MbarrierPending,
    AsyncStore(AsyncStore),
    Mma(Mma),
    /// `vprintf`: generic addresses of the format in `s[0]` and of the arguments in `s[1]`.
    Print,
    Wgmma(Wgmma),
}

/// `griddepcontrol`: the order of a launch and those before and after it in its stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Grid {
    /// Until the launches before this one have ended.
    Wait,
    /// The launch behind this one may start, as far as this block is concerned.
    LaunchDependents,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Control {
    /// To `imm`; under a guard some lanes may stay, `list` is the join point.
    Branch,
    /// To the `s[0]`-th label of the jump table `list`; `imm` is the join point.
    BranchIndexed,
    Exit,
    Trap,
    /// A call through a register reached a function that is already being called.
    Recursion,
    /// A call through a register whose value is the address of no function that it may call.
    NoFunction,
    /// `__assertfail` was called: generic addresses of the message, the file's name and, behind
    /// the line's number, the function's name in `s`, where the call has them.
    Assert,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Move {
    Word,
    Wide,
    Pred,
    Special(Special),
    /// Two words to a wide, two 16-bit to a word, four 16-bit to a wide, bytes to a word: the list
    /// holds the parts, low first.
    Pack(u8),
    Unpack(u8),
}

/// Special registers (PTX ISA section 10).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Special {
    Tid(u8),
    NumTid(u8),
    CtaId(u8),
    NumCta(u8),
    LaneId,
    WarpId,
    NumWarps,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    SmId,
    NumSm,
    GridId,
    Clock,
    Clock64,
    GlobalTimer,
    GlobalTimerLow,
    GlobalTimerHigh,
    DynamicSharedSize,
    TotalSharedSize,
    ClusterId(u8),
    NumClusters(u8),
    /// Place of the block within its cluster.
    ClusterCtaId(u8),
    ClusterNumCta(u8),
    ClusterRank,
    ClusterSize,
    /// `%is_explicit_cluster`: whether the launch or the kernel asked for clusters.
    IsExplicitCluster,
    /// A constant of this machine.
    Constant(u8),
}

impl Special {
    /// Whether it changes from one read to the next.
    pub fn is_clock(self) -> bool {
        matches!(
            self,
            Special::Clock
                | Special::Clock64
                | Special::GlobalTimer
                | Special::GlobalTimerLow
                | Special::GlobalTimerHigh
        )
    }
}
