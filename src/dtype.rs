//! Element types, with conversions that round once.

use std::fmt;

use half::{bf16, f16};

use crate::device_element::DeviceElement;

/// An element type. The numbers are fixed, so that a C ABI can rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DType {
    /// IEEE 754 binary16.
    F16 = 1,
    /// bfloat16: the exponent of f32 and 8 significant bits.
    BF16 = 2,
    /// IEEE 754 binary32.
    F32 = 3,
}

impl DType {
    /// All types, in the order of their numbers.
    pub const ALL: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F16 | DType::BF16 => 2,
            DType::F32 => 4,
        }
    }

    /// `f16`, `bf16` or `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for f32 {}
}

/// A Rust type that the kernels support: [`half::f16`], [`half::bf16`] or `f32`. It implies what
/// cudarc asks for, so that code over any element can allocate and copy.
///
/// If the type is known only at run time, [`DType`] says which it is.
pub trait Element:
    sealed::Sealed + DeviceElement + bytemuck::Pod + fmt::Debug + PartialEq + Send + Sync + 'static
{
    /// The corresponding [`DType`].
    const DTYPE: DType;
    /// Converts exactly.
    fn to_f64(self) -> f64;
    /// Converts with one rounding to nearest, ties to even.
    fn from_f64(value: f64) -> Self;
}

/// Rounds f64 to f32, to odd. A second rounding of the result to a narrower type then gives the
/// correctly rounded value (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums:
/// proved algorithms using rounding to odd", 2008).
fn to_f32_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if !nearest.is_finite() || back == value || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // The result is inexact and even, so the odd neighbour on the other side of `value` is needed.
    let away = value.abs() > back.abs();
    f32::from_bits(if nearest == 0.0 {
        (value.is_sign_negative() as u32) << 31 | 1
    } else if away {
        nearest.to_bits() + 1
    } else {
        nearest.to_bits() - 1
    })
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(value: f64) -> Self {
        f16::from_f32(to_f32_odd(value))
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(value: f64) -> Self {
        bf16::from_f32(to_f32_odd(value))
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::power_of_two;

    #[test]
    fn narrow_conversions_round_once() {
        // 1 + 2^-11 + 2^-40 is above the midpoint of two f16 neighbours, but f32 rounds it to the
        // midpoint. A conversion through f32 to nearest, as in `half`, loses the difference.
        let above = 1.0 + power_of_two(-11) + power_of_two(-40);
        assert_eq!(<f16 as Element>::from_f64(above).to_bits(), 0x3C01);
        assert_eq!(
            <f16 as Element>::from_f64(1.0 + power_of_two(-11)).to_bits(),
            0x3C00
        );
        assert_eq!(
            <bf16 as Element>::from_f64(-(1.0 + power_of_two(-8) + power_of_two(-40))).to_bits(),
            0xBF81
        );
        assert_eq!(
            <bf16 as Element>::from_f64(1.0 + power_of_two(-8)).to_bits(),
            0x3F80
        );
    }

    #[test]
    fn extremes_convert() {
        assert_eq!(<f16 as Element>::from_f64(1e300), f16::INFINITY);
        assert_eq!(<f16 as Element>::from_f64(1e-300).to_bits(), 0);
        assert_eq!(<f16 as Element>::from_f64(-1e-300).to_bits(), 0x8000);
        assert!(<bf16 as Element>::from_f64(f64::NAN).is_nan());
        assert_eq!(
            <bf16 as Element>::from_f64(f64::from(f32::MAX)),
            bf16::INFINITY
        );
    }
}
