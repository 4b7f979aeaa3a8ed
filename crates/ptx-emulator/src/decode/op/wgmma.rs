//! Products of a warpgroup.

/// `wgmma` and its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wgmma {
    /// `wgmma.mma_async`: D += A * B, where the list's defs are D. Its uses are A's fragment where
    /// A is in registers, then D unless the sum starts at zero. Descriptors of A and B are `s[0]`
    /// and `s[1]`; `s[2]` is the predicate that keeps D, where there is one.
    Multiply(Product),
    Fence,
    Commit,
    /// Until at most `imm` groups of the warp are pending.
    Wait,
}

/// What a `wgmma.mma_async` multiplies: A is 64 x K, B is K x N, and a row of K takes 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    /// N / 8.
    pub n8: u8,
    pub a: Element,
    pub b: Element,
    pub sum: Sum,
    flags: u8,
}

/// An element of A or B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
}

/// An element of D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    F32,
    F16,
    S32,
}

/// What an instruction says beyond its types and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    /// A is a fragment in registers.
    RegisterA = 1,
    NegateA = 2,
    NegateB = 4,
    /// A lies by columns: M is the dimension of neighbours.
    TransposeA = 8,
    /// B lies by rows: N is the dimension of neighbours.
    TransposeB = 16,
    Saturate = 32,
    /// The predicate that keeps D is negated.
    NegatedScale = 64,
    /// D starts at zero.
    FromZero = 128,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::Tf32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::E4m3 | Element::E5m2 | Element::S8 | Element::U8 => 1,
        }
    }

    /// Elements in 32 bytes: the K of an instruction.
    pub fn k(self) -> usize {
        32 / self.bytes()
    }
}

impl Product {
    pub fn new(n8: u8, [a, b]: [Element; 2], sum: Sum) -> Self {
        Product {
            n8,
            a,
            b,
            sum,
            flags: 0,
        }
    }

    pub fn set(&mut self, flag: Flag, on: bool) {
        if on {
            self.flags |= flag as u8;
        }
    }

    pub fn has(self, flag: Flag) -> bool {
        self.flags & flag as u8 != 0
    }

    pub fn n(self) -> usize {
        8 * usize::from(self.n8)
    }

    pub fn k(self) -> usize {
        self.a.k()
    }

    /// Registers of a thread that hold D.
    pub fn sum_registers(self) -> usize {
        match self.sum {
            Sum::F16 => self.n() / 4,
            Sum::F32 | Sum::S32 => self.n() / 2,
        }
    }
}
