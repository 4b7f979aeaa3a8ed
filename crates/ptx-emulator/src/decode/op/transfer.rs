//! Memory operations: spaces, widths, atomics, asynchronous copies.

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

/// What a load does with the register bits above the element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extend {
    Zero,
    /// Sign bits up to bit 15: the register has 16 bits.
    SignTo16,
    Sign,
}

/// Load or store: address `s[0]` + `imm`, data in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub window: Window,
    pub width: Width,
    pub extend: Extend,
    /// Elements of the vector: 1, 2, 4.
    pub count: u8,
    /// Volatile, relaxed, acquire or release: another thread may be waiting on it, or for it.
    pub strong: bool,
}

/// `atom` and `red`: address `s[0]` + `imm`, operands `s[1]`, `s[2]`, old value to `d[0]` where
/// wanted.
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
    /// `cp.async`: shared address `s[0]` + `imm`, global address `s[1]` + `list` as an offset,
    /// source size `s[2]` where present, ignore-source predicate `s[3]` where present.
    Copy {
        bytes: u8,
        ignore_negated: bool,
    },
    Commit,
    /// Until at most `imm` groups of the thread are pending.
    WaitGroup,
    WaitAll,
}
