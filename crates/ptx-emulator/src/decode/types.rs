//! Fundamental types (PTX ISA section 5.2).

/// A type word of an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Bits(u32),
    Int(Int),
    Int8(bool),
    Float(Float),
    /// Two 16-bit integers; whether they are signed.
    Pair(bool),
    Pred,
}

/// An integer type that has arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Int {
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    Tf32,
    F32,
    F64,
    E4m3x2,
    E5m2x2,
    E4m3,
    E5m2,
}

impl Int {
    pub fn new(signed: bool, bits: u32) -> Option<Int> {
        Some(match (signed, bits) {
            (false, 16) => Int::U16,
            (true, 16) => Int::S16,
            (false, 32) => Int::U32,
            (true, 32) => Int::S32,
            (false, 64) => Int::U64,
            (true, 64) => Int::S64,
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Int::U16 | Int::S16 => 16,
            Int::U32 | Int::S32 => 32,
            Int::U64 | Int::S64 => 64,
        }
    }

    pub fn signed(self) -> bool {
        matches!(self, Int::S16 | Int::S32 | Int::S64)
    }
}

impl Float {
    pub fn bits(self) -> u32 {
        match self {
            Float::E4m3 | Float::E5m2 => 8,
            Float::F16 | Float::Bf16 | Float::E4m3x2 | Float::E5m2x2 => 16,
            Float::F16x2 | Float::Bf16x2 | Float::Tf32 | Float::F32 => 32,
            Float::F64 => 64,
        }
    }
}

impl Type {
    /// Every type word.
    pub const WORDS: &'static [(&'static str, Type)] = &[
        ("b8", Type::Bits(8)),
        ("b16", Type::Bits(16)),
        ("b32", Type::Bits(32)),
        ("b64", Type::Bits(64)),
        ("b128", Type::Bits(128)),
        ("u8", Type::Int8(false)),
        ("s8", Type::Int8(true)),
        ("u16", Type::Int(Int::U16)),
        ("s16", Type::Int(Int::S16)),
        ("u32", Type::Int(Int::U32)),
        ("s32", Type::Int(Int::S32)),
        ("u64", Type::Int(Int::U64)),
        ("s64", Type::Int(Int::S64)),
        ("u16x2", Type::Pair(false)),
        ("s16x2", Type::Pair(true)),
        ("f16", Type::Float(Float::F16)),
        ("bf16", Type::Float(Float::Bf16)),
        ("f16x2", Type::Float(Float::F16x2)),
        ("bf16x2", Type::Float(Float::Bf16x2)),
        ("tf32", Type::Float(Float::Tf32)),
        ("f32", Type::Float(Float::F32)),
        ("f64", Type::Float(Float::F64)),
        ("e4m3x2", Type::Float(Float::E4m3x2)),
        ("e5m2x2", Type::Float(Float::E5m2x2)),
        ("e4m3", Type::Float(Float::E4m3)),
        ("e5m2", Type::Float(Float::E5m2)),
        ("pred", Type::Pred),
    ];

    pub fn parse(word: &str) -> Option<Type> {
        Self::WORDS
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, ty)| *ty)
    }

    /// Size in bits; 1 for a predicate.
    pub fn bits(self) -> u32 {
        match self {
            Type::Bits(bits) => bits,
            Type::Int(int) => int.bits(),
            Type::Int8(_) => 8,
            Type::Float(float) => float.bits(),
            Type::Pair(_) => 32,
            Type::Pred => 1,
        }
    }

    /// The integer type of this size, unsigned for `.bN`.
    pub fn as_int(self) -> Option<Int> {
        match self {
            Type::Int(int) => Some(int),
            Type::Bits(bits) => Int::new(false, bits),
            _ => None,
        }
    }
}
