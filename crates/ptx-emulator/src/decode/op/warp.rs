//! Operations of a warp or a block as a whole.

use super::transfer::Window;

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

/// Barrier number `s[0]`, thread count `s[1]` where present, predicate `s[2]` of a reduction; `imm`
/// is 1 where a warp must come as a whole (`bar`, `.aligned`).
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
    /// 16 rows in place of 8.
    F64Tall,
    /// 8-bit floats; whether A and B are e5m2, and whether the sum is f16.
    Fp8 {
        a_e5m2: bool,
        b_e5m2: bool,
        to_f16: bool,
    },
    /// 8-bit integers; whether A and B are signed, and whether the sum saturates.
    Int8 {
        a_signed: bool,
        b_signed: bool,
        saturate: bool,
    },
}

impl MmaKind {
    /// Elements of A and B to a register.
    pub fn per_register(self) -> usize {
        match self {
            MmaKind::F64 | MmaKind::F64Tall | MmaKind::Tf32F32 => 1,
            MmaKind::Fp8 { .. } | MmaKind::Int8 { .. } => 4,
            _ => 2,
        }
    }

    pub fn rows(self) -> usize {
        if self == MmaKind::F64 { 8 } else { 16 }
    }

    /// Whether sums are pairs of f16.
    pub fn sums_halves(self) -> bool {
        matches!(self, MmaKind::F16F16 | MmaKind::Fp8 { to_f16: true, .. })
    }
}
