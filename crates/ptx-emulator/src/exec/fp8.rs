//! `mma.sync` of 8-bit floats: A 16 x K, B K x 8, with the fragments of 8-bit integers.
//!
//! Sums follow the published model (MMA-Sim, arXiv 2511.10909): Ada (8.9) sums 16 products at a
//! time with F = 13, and its f32 results have 13 fraction bits; Hopper's `mma.sync` sums all K with
//! F = 25.

use super::registers::{FULL, LANES, Registers};
use super::rounding::{canonical, f16_to_f32, f32_to_f16};
use super::tensor_core::fused;
use crate::decode::op::RegList;
use crate::device::Numerics;

const MOST_K: usize = 32;
/// Fraction bits of an f32 that Ada's results lack.
const CUT: u32 = 0x3ff;

/// The value of an element.
fn value(bits: u8, e5m2: bool) -> f32 {
    if e5m2 {
        // The upper half of an f16.
        return f16_to_f32(u16::from(bits) << 8);
    }
    let (field, fraction) = (bits >> 3 & 15, f32::from(bits & 7));
    let magnitude = match field {
        15 if bits & 7 == 7 => f32::NAN,
        0 => fraction / 512.0,
        _ => (8.0 + fraction) * f32::from_bits((u32::from(field) + 127 - 10) << 23),
    };
    if bits & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

fn dot(a: &[f32], b: &[f32], c: f32, to_f16: bool, numerics: Numerics) -> f32 {
    let pairs = |a: &[f32], b: &[f32]| -> Vec<(f32, f32)> {
        a.iter().copied().zip(b.iter().copied()).collect()
    };
    match numerics {
        Numerics::F32Fma => a.iter().zip(b).fold(c, |sum, (a, b)| a.mul_add(*b, sum)),
        Numerics::Hopper => fused(pairs(a, b).into_iter(), c, 25, to_f16),
        Numerics::Ampere => a.chunks(16).zip(b.chunks(16)).fold(c, |sum, (a, b)| {
            let sum = fused(pairs(a, b).into_iter(), sum, 13, to_f16);
            if to_f16 || !sum.is_finite() {
                sum
            } else {
                f32::from_bits(sum.to_bits() & !CUT)
            }
        }),
    }
}

pub(super) fn multiply(
    regs: &mut Registers,
    list: &RegList,
    k: usize,
    [a_e5m2, b_e5m2]: [bool; 2],
    to_f16: bool,
    numerics: Numerics,
) {
    let (a_regs, rest) = list.uses.split_at(k / 8);
    let (b_regs, c_regs) = rest.split_at(k / 16);
    let mut a = [[0.0; MOST_K]; 16];
    let mut b = [[0.0; MOST_K]; 8];
    for (i, reg) in a_regs.iter().enumerate() {
        for (lane, word) in regs.word(*reg).iter().enumerate() {
            for (byte, bits) in word.to_le_bytes().into_iter().enumerate() {
                a[lane / 4 + 8 * (i % 2)][4 * (lane % 4) + byte + 16 * (i / 2)] =
                    value(bits, a_e5m2);
            }
        }
    }
    for (i, reg) in b_regs.iter().enumerate() {
        for (lane, word) in regs.word(*reg).iter().enumerate() {
            for (byte, bits) in word.to_le_bytes().into_iter().enumerate() {
                b[lane / 4][4 * (lane % 4) + byte + 16 * i] = value(bits, b_e5m2);
            }
        }
    }
    let sums: Vec<[u32; LANES]> = c_regs.iter().map(|reg| *regs.word(*reg)).collect();
    for (i, reg) in list.defs.iter().enumerate() {
        let mut out = [0; LANES];
        for (lane, word) in out.iter_mut().enumerate() {
            let (group, column) = (lane / 4, 2 * (lane % 4));
            let one = |row: usize, column: usize, c: f32| {
                dot(&a[row][..k], &b[column][..k], c, to_f16, numerics)
            };
            let c = sums[i][lane];
            *word = if to_f16 {
                let row = group + 8 * i;
                let low = one(row, column, f16_to_f32(c as u16));
                let high = one(row, column + 1, f16_to_f32((c >> 16) as u16));
                u32::from(f32_to_f16(low)) | u32::from(f32_to_f16(high)) << 16
            } else {
                let row = group + 8 * (i / 2);
                canonical(one(row, column + i % 2, f32::from_bits(c)))
            };
        }
        regs.set_word(*reg, FULL, &out);
    }
}
