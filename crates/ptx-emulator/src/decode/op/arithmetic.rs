//! What arithmetic, comparison and conversion operations say beyond their operands.

use crate::decode::types::{Float, Int};

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
    /// Of s32, with 0 in place of a negative result.
    MinRelu,
    MaxRelu,
    /// Of the two 16-bit halves of a word.
    Halves(HalvesOp),
    /// `cvt.pack.sat`: a and b saturated to so many bits, signed if so, b in the low ones, and c
    /// above them.
    Pack(u8, bool),
    /// Four 8-bit products; the flags say whether a and b are signed.
    Dp4a(bool, bool),
    /// Two 16x8-bit products; signedness of a and b, and whether the high half of b is taken.
    Dp2a(bool, bool, bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum HalvesOp {
    Add,
    Min,
    Max,
    MinRelu,
    MaxRelu,
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
