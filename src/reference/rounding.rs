//! Rounding from f64 to a narrower type in one step.

use crate::DType;

/// The precision of a type, taken from the definition of its format and not from an implementation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Precision {
    significand_bits: i32,
    min_exponent: i32,
    largest: f64,
}

impl Precision {
    /// The precision of `dtype`.
    pub fn of(dtype: DType) -> Self {
        // (significand bits with the hidden one, exponent of the smallest normal number, exponent
        // of the largest).
        let (significand_bits, min_exponent, max_exponent) = match dtype {
            DType::F16 => (11, -14, 15),
            DType::BF16 => (8, -126, 127),
            DType::F32 => (24, -126, 127),
        };
        let largest = (2.0 - power_of_two(1 - significand_bits)) * power_of_two(max_exponent);
        Self {
            significand_bits,
            min_exponent,
            largest,
        }
    }

    /// Rounds to the nearest number of the type, ties to even. Overflow gives an infinity.
    pub fn round(&self, value: f64) -> f64 {
        if value == 0.0 || !value.is_finite() {
            return value;
        }
        let quantum =
            power_of_two(exponent(value).max(self.min_exponent) + 1 - self.significand_bits);
        let rounded = (value / quantum).round_ties_even() * quantum;
        if rounded.abs() > self.largest {
            f64::INFINITY.copysign(value)
        } else {
            rounded
        }
    }

    /// The largest rounding error of a number of at most this magnitude.
    pub fn rounding_error(&self, magnitude: f64) -> f64 {
        let smallest_subnormal = power_of_two(self.min_exponent + 1 - self.significand_bits);
        (magnitude * power_of_two(-self.significand_bits)).max(smallest_subnormal / 2.0)
    }
}

/// 2 to this power, exactly: `powi` has an unspecified precision. The result is a normal number for
/// exponents from -1022 to 1023, which are all that the types need.
pub(crate) const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The exponent of a normal f64: value = ±1.… · 2^exponent. Subnormal numbers give -1023, which is
/// below the range of every type used here.
fn exponent(value: f64) -> i32 {
    ((value.to_bits() >> 52) & 0x7FF) as i32 - 1023
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_have_no_significand() {
        let mut power = f64::MIN_POSITIVE;
        for exponent in -1022..=1023 {
            assert_eq!(power_of_two(exponent), power, "{exponent}");
            power *= 2.0;
        }
    }

    #[test]
    fn every_16_bit_number_is_its_own_rounding() {
        for (dtype, decode) in [
            (
                DType::F16,
                (|bits| half::f16::from_bits(bits).to_f64()) as fn(u16) -> f64,
            ),
            (DType::BF16, |bits| half::bf16::from_bits(bits).to_f64()),
        ] {
            // Every number takes too long under Miri.
            let all = (0..=u16::MAX).step_by(if cfg!(miri) { 251 } else { 1 });
            for value in all.map(decode).filter(|value| !value.is_nan()) {
                assert_eq!(Precision::of(dtype).round(value), value, "{dtype:?}");
            }
        }
    }

    #[test]
    fn a_midpoint_goes_to_even_and_a_hair_past_it_goes_up() {
        let f16 = Precision::of(DType::F16);
        let midpoint = 1.0 + power_of_two(-11);
        assert_eq!(f16.round(midpoint), 1.0);
        assert_eq!(
            f16.round(midpoint + power_of_two(-50)),
            1.0 + power_of_two(-10)
        );
        assert_eq!(
            f16.round(-(midpoint + power_of_two(-10))),
            -(1.0 + power_of_two(-9))
        );
        let bf16 = Precision::of(DType::BF16);
        assert_eq!(bf16.round(1.0 + power_of_two(-8)), 1.0);
        assert_eq!(
            bf16.round(1.0 + power_of_two(-8) + power_of_two(-52)),
            1.0 + power_of_two(-7)
        );
    }

    #[test]
    fn subnormal_numbers_and_overflow_follow_the_format() {
        let f16 = Precision::of(DType::F16);
        assert_eq!(f16.round(power_of_two(-25)), 0.0);
        assert_eq!(f16.round(1.5 * power_of_two(-25)), power_of_two(-24));
        assert_eq!(f16.round(65519.99), 65504.0);
        assert_eq!(f16.round(-65520.0), f64::NEG_INFINITY);
        assert_eq!(f16.rounding_error(0.0), power_of_two(-25));
        assert_eq!(f16.rounding_error(1.0), power_of_two(-11));
    }

    #[test]
    fn f32_rounds_as_the_language_does() {
        let f32_precision = Precision::of(DType::F32);
        for value in [
            1.0 / 3.0,
            -2.5e-45,
            1e-40,
            3.402_823_5e38,
            0.1,
            -7.000_000_1e-46,
        ] {
            assert_eq!(
                f32_precision.round(value),
                f64::from(value as f32),
                "{value:e}"
            );
        }
    }
}
