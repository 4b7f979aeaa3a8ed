//! The decoded form: one [`Inst`] per operation, operands as register slots, meaning as a small enum grouped by family.

use super::types::{Float, Int};

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
    /// Orders this thread's accesses before and after it, as seen by all threads.
    Fence,
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
    /// `ld.param` of a kernel parameter: the same for all lanes. Offset in `imm`, destinations in the list.
    LoadParam(Width, bool),
    Atomic(Atomic),
    Async(Async),
    Warp(WarpOp),
    Barrier(Barrier),
    Mma(Mma),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Control {
    /// To `imm`; under a guard some lanes may stay, `list` is the join point.
    Branch,
    /// To the `s[0]`-th label of the jump table `list`; `imm` is the join point.
    BranchIndexed,
    Exit,
    Trap,
    /// `__assertfail` was called.
    Assert,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Move {
    Word,
    Wide,
    Pred,
    Special(Special),
    /// Two words to a wide, two 16-bit to a word, four 16-bit to a wide, bytes to a word: the list holds the parts, low first.
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
    /// A constant of this machine: cluster ranks and the like of a launch without clusters.
    Constant(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum IntOp {
    Add,
    Sub,
    MulLo,
    MulHi,
    MulWide,
    MadLo,
    MadHi,
    MadWide,
    Div,
    Rem,
    Abs,
    Neg,
    Min,
    Max,
    AddSat,
    SubSat,
    MadHiSat,
    Sad,
    Mul24Lo,
    Mul24Hi,
    Mad24Lo,
    Mad24Hi,
    /// Four 8-bit products; the flags say whether a and b are signed.
    Dp4a(bool, bool),
    /// Two 16x8-bit products; signedness of a and b, and whether the high half of b is taken.
    Dp2a(bool, bool, bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHi,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum BitsOp {
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Shl,
    Shr,
    FunnelLeftClamp,
    FunnelLeftWrap,
    FunnelRightClamp,
    FunnelRightWrap,
    Bfe,
    Bfi,
    Bfind,
    BfindShift,
    Brev,
    Clz,
    Popc,
    Fns,
    BmskClamp,
    BmskWrap,
    SzextClamp,
    SzextWrap,
    Prmt(PrmtMode),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PrmtMode {
    Index,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FloatOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
    Abs,
    Neg,
    Min,
    Max,
    Min3,
    Max3,
    CopySign,
    /// Predicate result.
    TestFinite,
    TestInfinite,
    TestNumber,
    TestNan,
    TestNormal,
    TestSubnormal,
}

/// Functions whose exact bits PTX leaves open: computed in f64 and rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ApproxOp {
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Sin,
    Cos,
    Tanh,
    Div,
    /// `rcp.approx.ftz.f64` and `rsqrt.approx.f64`.
    RcpF64,
    RsqrtF64,
    Ex2Half(HalfType),
    TanhHalf(HalfType),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum HalfType {
    F16,
    Bf16,
    F16x2,
    Bf16x2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Round {
    #[default]
    Nearest,
    /// Ties away from zero (`cvt.rna`).
    NearestAway,
    Zero,
    Down,
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub(crate) struct FloatMods {
    pub round: Round,
    pub ftz: bool,
    pub sat: bool,
    /// `min`/`max`: propagate NaN. `fma`: `.relu`.
    pub nan: bool,
    pub relu: bool,
    pub xorsign_abs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// The unordered float forms are true where an operand is NaN.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operand {
    Int(Int),
    F32,
    F64,
    Half(HalfType),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Combine {
    None,
    And,
    Or,
    Xor,
}

/// `setp` and `set`: operands `s[0]`, `s[1]`, predicate `s[2]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Compare {
    pub relation: Relation,
    pub operand: Operand,
    pub combine: Combine,
    pub negate_c: bool,
    pub ftz: bool,
    pub result: CompareResult,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CompareResult {
    /// `d[0]` gets the result, `d[1]` (where present) that of the inverted comparison.
    Pred,
    /// All ones or zero.
    Mask32,
    /// 1.0 or 0.0.
    One32,
    /// Per 16-bit half, all ones or 1.0 in the operand's type.
    MaskHalves,
    OneHalves,
    Mask16,
    One16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Select {
    /// `s[2] ? s[0] : s[1]`.
    Word,
    Wide,
    /// `slct`: s[2] >= 0 as s32, or as f32.
    WordBySign,
    WideBySign,
    WordByFloat(bool),
    WideByFloat(bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PredOp {
    And,
    Or,
    Xor,
    Not,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Convert {
    pub to: Number,
    pub from: Number,
    pub round: Round,
    /// `.rni` and kin: to an integral value.
    pub integral: bool,
    pub sat: Saturate,
    pub ftz: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saturate {
    No,
    Sat,
    Relu,
    SatFinite,
    SatFiniteRelu,
}

/// A scalar (or packed pair) type of `cvt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    Int(Int),
    Int8(bool),
    Float(Float),
}

/// Width of a memory element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    B8,
    B16,
    B32,
    B64,
}

impl Width {
    #[inline(always)]
    pub fn bytes(self) -> u32 {
        match self {
            Width::B8 => 1,
            Width::B16 => 2,
            Width::B32 => 4,
            Width::B64 => 8,
        }
    }
}

/// A state space an address points into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

/// Load or store: address `s[0]` + `imm`, data in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub window: Window,
    pub width: Width,
    pub signed: bool,
    /// Elements of the vector: 1, 2, 4, 8.
    pub count: u8,
    /// Volatile, relaxed, acquire or release: another thread may be waiting on it, or for it.
    pub strong: bool,
}

/// `atom` and `red`: address `s[0]` + `imm`, operands `s[1]`, `s[2]`, old value to `d[0]` where wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Atomic {
    pub window: Window,
    pub op: AtomicOp,
    pub kind: AtomicKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
    Increment,
    Decrement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicKind {
    U32,
    S32,
    U64,
    S64,
    F32,
    F64,
    B16,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Async {
    /// `cp.async`: shared address `s[0]` + `imm`, global address `s[1]` + `list` as an offset, source size `s[2]` where
    /// present, ignore-source predicate `s[3]` where present.
    Copy {
        bytes: u8,
        ignore_negated: bool,
    },
    Commit,
    /// Until at most `imm` groups of the thread are pending.
    WaitGroup,
    WaitAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WarpOp {
    /// Value `s[0]`, lane or delta `s[1]`, clamp and segment mask `s[2]`, member mask `s[3]`.
    Shuffle(Shuffle),
    /// Predicate `s[0]` (negated if set), member mask `s[3]`.
    Vote(Vote, bool),
    MatchAny,
    MatchAll,
    Redux(Redux),
    ActiveMask,
    SyncWarp,
    /// `nanosleep`: this thread waits for another one.
    Pause,
    Elect,
    /// `count` 8x8 matrices of 16-bit elements from the rows that `s[0]` + `imm` point to.
    LoadMatrix {
        count: u8,
        transposed: bool,
        window: Window,
    },
    StoreMatrix {
        count: u8,
        transposed: bool,
        window: Window,
    },
    /// `movmatrix.sync.aligned.m8n8.trans.b16`.
    MoveMatrix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redux {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

/// Barrier number `s[0]`, thread count `s[1]` where present, predicate `s[2]` of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    Sync,
    Arrive,
    Reduce(BarrierReduce, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierReduce {
    Popc,
    And,
    Or,
}

/// `mma.sync`: list defs = D, uses = A, B, C fragments in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mma {
    pub kind: MmaKind,
    /// The K extent of the instruction.
    pub k: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MmaKind {
    F16F32,
    F16F16,
    Bf16F32,
    Tf32F32,
    F64,
    /// 8-bit integers; whether A and B are signed, and whether the sum saturates.
    Int8 {
        a_signed: bool,
        b_signed: bool,
        saturate: bool,
    },
}
