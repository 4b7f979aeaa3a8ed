//! The number formats of kernel arguments, and numbers to fill them with.

use half::{bf16, f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    F64,
    F32,
    F16,
    Bf16,
    E4m3,
    E5m2,
    U8,
    I8,
    U32,
    I32,
    I64,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Type::F64 => "f64",
            Type::F32 => "f32",
            Type::F16 => "f16",
            Type::Bf16 => "bf16",
            Type::E4m3 => "e4m3",
            Type::E5m2 => "e5m2",
            Type::U8 => "u8",
            Type::I8 => "i8",
            Type::U32 => "u32",
            Type::I32 => "i32",
            Type::I64 => "i64",
        }
    }

    pub fn size(self) -> usize {
        match self {
            Type::U8 | Type::I8 | Type::E4m3 | Type::E5m2 => 1,
            Type::F16 | Type::Bf16 => 2,
            Type::F32 | Type::U32 | Type::I32 => 4,
            Type::F64 | Type::I64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        self.roundoff() > 0.0
    }

    /// Unit roundoff: the relative error of rounding to nearest. Zero for integers.
    pub fn roundoff(self) -> f64 {
        match self {
            Type::F64 => 2_f64.powi(-53),
            Type::F32 => 2_f64.powi(-24),
            Type::F16 => 2_f64.powi(-11),
            Type::Bf16 => 2_f64.powi(-8),
            Type::E4m3 => 2_f64.powi(-4),
            Type::E5m2 => 2_f64.powi(-3),
            _ => 0.0,
        }
    }

    /// Half the distance of the smallest numbers: the error of rounding near zero.
    pub fn tiny(self) -> f64 {
        match self {
            Type::F64 | Type::F32 => f64::from(f32::from_bits(1)),
            Type::F16 => 2_f64.powi(-25),
            Type::Bf16 => 2_f64.powi(-134),
            Type::E4m3 => 2_f64.powi(-10),
            Type::E5m2 => 2_f64.powi(-17),
            _ => 0.0,
        }
    }

    /// A value that no test expects.
    pub fn junk(self) -> f64 {
        match self {
            Type::U8 | Type::I8 => 113.0,
            Type::U32 | Type::I32 | Type::I64 => 123_456_789.0,
            _ => f64::NAN,
        }
    }

    pub fn encode(self, values: &[f64]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(values.len() * self.size());
        for &v in values {
            match self {
                Type::F64 => bytes.extend(v.to_le_bytes()),
                Type::F32 => bytes.extend((v as f32).to_le_bytes()),
                Type::F16 => bytes.extend(f16::from_f64(v).to_le_bytes()),
                Type::Bf16 => bytes.extend(bf16::from_f64(v).to_le_bytes()),
                Type::E4m3 => bytes.push(eight_bits(v, e4m3)),
                Type::E5m2 => bytes.push(eight_bits(v, e5m2)),
                Type::U8 => bytes.push(v as u8),
                Type::I8 => bytes.push((v as i8).cast_unsigned()),
                Type::U32 => bytes.extend((v as u32).to_le_bytes()),
                Type::I32 => bytes.extend((v as i32).to_le_bytes()),
                Type::I64 => bytes.extend((v as i64).to_le_bytes()),
            }
        }
        bytes
    }

    pub fn decode(self, bytes: &[u8]) -> Vec<f64> {
        let value = |chunk: &[u8]| {
            let mut raw = [0; 8];
            raw[..chunk.len()].copy_from_slice(chunk);
            let bits = u64::from_le_bytes(raw);
            match self {
                Type::F64 => f64::from_bits(bits),
                Type::F32 => f64::from(f32::from_bits(bits as u32)),
                Type::F16 => f16::from_bits(bits as u16).to_f64(),
                Type::Bf16 => bf16::from_bits(bits as u16).to_f64(),
                Type::E4m3 => e4m3(bits as u8),
                Type::E5m2 => e5m2(bits as u8),
                Type::U8 | Type::U32 => bits as f64,
                Type::I8 => f64::from((bits as u8).cast_signed()),
                Type::I32 => f64::from((bits as u32).cast_signed()),
                Type::I64 => bits.cast_signed() as f64,
            }
        };
        bytes.chunks_exact(self.size()).map(value).collect()
    }

    /// The values as a kernel sees them.
    pub fn rounded(self, values: &[f64]) -> Vec<f64> {
        self.decode(&self.encode(values))
    }
}

/// 1 sign, 4 exponent and 3 fraction bits; no infinity, and one NaN of each sign (the OCP 8-bit
/// floating-point specification).
fn e4m3(bits: u8) -> f64 {
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    sign * match exponent {
        0 => fraction * 2_f64.powi(-9),
        15 if bits & 7 == 7 => f64::NAN,
        _ => (1.0 + fraction / 8.0) * 2_f64.powi(exponent - 7),
    }
}

/// 1 sign, 5 exponent and 2 fraction bits: the upper half of an f16.
fn e5m2(bits: u8) -> f64 {
    f16::from_bits(u16::from(bits) << 8).to_f64()
}

/// The 8-bit float nearest to a value that is in range.
fn eight_bits(value: f64, decode: fn(u8) -> f64) -> u8 {
    let distance = |bits: u8| (decode(bits) - value).abs();
    let finite = (0..=u8::MAX).filter(|&bits| decode(bits).is_finite());
    finite
        .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
        .unwrap_or_default()
}

/// What the tensor cores take of an f32: the sign, the exponent and ten bits of the fraction.
pub fn tf32(value: f64) -> f64 {
    f64::from(f32::from_bits((value as f32).to_bits() & !0x1fff))
}

/// Reproducible numbers (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` up to, not including, `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.bits() >> 11) as f64 * 2_f64.powi(-53)
    }

    /// `count` numbers in `ty`, as the kernel will see them.
    pub fn values(&mut self, ty: Type, count: usize, low: f64, high: f64) -> Vec<f64> {
        let values: Vec<f64> = (0..count).map(|_| self.between(low, high)).collect();
        if ty.is_float() {
            return ty.rounded(&values);
        }
        values.into_iter().map(f64::floor).collect()
    }
}
