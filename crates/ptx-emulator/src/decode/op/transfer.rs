//! Memory operations: spaces, widths, atomics, asynchronous copies.

use super::order::{Order, Scope};

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
    /// The block's own shared memory.
    Shared,
    /// That of all blocks of the cluster.
    Cluster,
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
    pub order: Order,
    /// Means something if the order isn't weak.
    pub scope: Scope,
    /// `ld.global.nc` and `ldu`: nothing may write the bytes while the kernel runs.
    pub read_only: bool,
    /// A volatile load whose value is compared with another: it waits for that value.
    pub polls: bool,
}

impl Access {
    /// An ordinary access.
    pub fn weak(window: Window, width: Width, extend: Extend, count: u8) -> Self {
        Access {
            window,
            width,
            extend,
            count,
            order: Order::Weak,
            scope: Scope::Gpu,
            read_only: false,
            polls: false,
        }
    }

    /// Another thread may be waiting on the access, or for it.
    #[inline(always)]
    pub fn is_strong(self) -> bool {
        self.order.is_strong()
    }
}

/// `atom` and `red`: address `s[0]` + `imm`, operands `s[1]`, `s[2]`, old value to `d[0]` where
/// wanted. Vectors and 128 bits have their operands and old values in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Atomic {
    pub window: Window,
    pub op: AtomicOp,
    pub kind: AtomicKind,
    /// Elements of the vector, each of which is updated by itself.
    pub count: u8,
    pub order: Order,
    pub scope: Scope,
}

impl Atomic {
    /// Bytes that a thread updates.
    pub fn bytes(self) -> u32 {
        self.kind.bytes() * u32::from(self.count)
    }
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
    /// In pairs of registers, low half first.
    B128,
}

impl AtomicKind {
    pub fn bytes(self) -> u32 {
        match self {
            AtomicKind::B16 | AtomicKind::F16 | AtomicKind::Bf16 => 2,
            AtomicKind::U64 | AtomicKind::S64 | AtomicKind::F64 => 8,
            AtomicKind::B128 => 16,
            _ => 4,
        }
    }
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
