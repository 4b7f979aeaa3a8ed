//! A warp's 16 rows of the sum, and A times B added to them.

use super::hopper;
use super::operands::{MOST_K, MOST_N, WARP_ROWS};
use crate::decode::op::{Flag, Product, Reg, Sum};
use crate::device::Numerics;
use crate::exec::registers::{FULL, LANES, Registers};
use crate::exec::rounding::{canonical, f16_to_f32, f32_to_f16};

/// A warp's rows of A.
pub(super) type Rows = [[f32; MOST_K]; WARP_ROWS];

/// A warp's rows of D: f32 as its bits, and so f16, which is widened; integers as they are.
pub(crate) struct Sums {
    values: [[u32; MOST_N]; WARP_ROWS],
    pub(super) scratch: hopper::Scratch,
}

/// Registers hold D in parts of eight columns. With g = lane / 4 and t = lane % 4, register i of a
/// part's four holds row g + 8 (i / 2), column 2 t + i % 2; of f16, register i of two holds columns
/// 2 t and 2 t + 1 of row g + 8 i.
impl Sums {
    pub fn new() -> Box<Self> {
        Box::new(Sums {
            values: [[0; MOST_N]; WARP_ROWS],
            scratch: hopper::Scratch::new(),
        })
    }

    pub fn clear(&mut self) {
        self.values = [[0; MOST_N]; WARP_ROWS];
    }

    pub fn load(&mut self, regs: &Registers, defs: &[Reg], sum: Sum) {
        if sum == Sum::F16 {
            for (part, pair) in defs.chunks_exact(2).enumerate() {
                for (i, reg) in pair.iter().enumerate() {
                    for (lane, word) in regs.word(*reg).iter().enumerate() {
                        let row = &mut self.values[lane / 4 + 8 * i];
                        let column = 8 * part + 2 * (lane % 4);
                        row[column] = f16_to_f32(*word as u16).to_bits();
                        row[column + 1] = f16_to_f32((word >> 16) as u16).to_bits();
                    }
                }
            }
            return;
        }
        for (part, four) in defs.chunks_exact(4).enumerate() {
            for (half, pair) in four.chunks_exact(2).enumerate() {
                let (even, odd) = (regs.word(pair[0]), regs.word(pair[1]));
                for g in 0..8 {
                    let row = &mut self.values[g + 8 * half][8 * part..8 * part + 8];
                    for t in 0..4 {
                        row[2 * t] = even[4 * g + t];
                        row[2 * t + 1] = odd[4 * g + t];
                    }
                }
            }
        }
    }

    pub fn store(&self, regs: &mut Registers, defs: &[Reg], sum: Sum) {
        if sum == Sum::F16 {
            for (part, pair) in defs.chunks_exact(2).enumerate() {
                for (i, reg) in pair.iter().enumerate() {
                    let mut out = [0; LANES];
                    for (lane, word) in out.iter_mut().enumerate() {
                        let row = &self.values[lane / 4 + 8 * i];
                        let column = 8 * part + 2 * (lane % 4);
                        let [low, high] = [column, column + 1]
                            .map(|at| u32::from(f32_to_f16(f32::from_bits(row[at]))));
                        *word = low | high << 16;
                    }
                    regs.set_word(*reg, FULL, &out);
                }
            }
            return;
        }
        let finish = |bits: u32| match sum {
            Sum::S32 => bits,
            _ => canonical(f32::from_bits(bits)),
        };
        for (part, four) in defs.chunks_exact(4).enumerate() {
            for (i, reg) in four.iter().enumerate() {
                let mut out = [0; LANES];
                for g in 0..8 {
                    let row = &self.values[g + 8 * (i / 2)][8 * part..8 * part + 8];
                    for t in 0..4 {
                        out[4 * g + t] = finish(row[2 * t + i % 2]);
                    }
                }
                regs.set_word(*reg, FULL, &out);
            }
        }
    }

    /// Adds A (16 x K) times B (K x N).
    pub fn add(
        &mut self,
        product: Product,
        a: &Rows,
        b: &[[f32; MOST_N]; MOST_K],
        numerics: Numerics,
    ) {
        let n = product.n();
        if product.sum == Sum::S32 {
            return self.add_integers(product, a, b);
        }
        if numerics != Numerics::F32Fma {
            let Sums {
                values, scratch, ..
            } = self;
            return hopper::add(product, a, b, values, scratch);
        }
        match product.k() {
            8 => fused::<8>(a, b, &mut self.values, n),
            16 => fused::<16>(a, b, &mut self.values, n),
            _ => fused::<32>(a, b, &mut self.values, n),
        }
        if product.sum == Sum::F16 {
            for value in self.values.iter_mut().flat_map(|row| &mut row[..n]) {
                *value = f16_to_f32(f32_to_f16(f32::from_bits(*value))).to_bits();
            }
        }
    }

    /// Thirty-two products of two 8-bit integers are exact in f32.
    fn add_integers(&mut self, product: Product, a: &Rows, b: &[[f32; MOST_N]; MOST_K]) {
        let n = product.n();
        let sums = std::mem::replace(&mut self.values, [[0; MOST_N]; WARP_ROWS]);
        fused::<32>(a, b, &mut self.values, n);
        let saturates = product.has(Flag::Saturate);
        for (values, sums) in self.values.iter_mut().zip(&sums) {
            for (value, sum) in values.iter_mut().zip(sums).take(n) {
                let (more, sum) = (f32::from_bits(*value) as i32, sum.cast_signed());
                let total = if saturates {
                    sum.saturating_add(more)
                } else {
                    sum.wrapping_add(more)
                };
                *value = total.cast_unsigned();
            }
        }
    }
}

/// One fused multiply-add per product, in order of k, for four rows and sixteen columns at a time:
/// as many sums as a CPU's registers hold. N is a multiple of 8 and at most [`MOST_N`], so that the
/// last sixteen are there even where N ends within them.
fn fused<const K: usize>(
    a: &Rows,
    b: &[[f32; MOST_N]; MOST_K],
    sums: &mut [[u32; MOST_N]; WARP_ROWS],
    n: usize,
) {
    for (a, sums) in a.chunks_exact(4).zip(sums.chunks_exact_mut(4)) {
        for first in (0..n).step_by(16) {
            let mut block = [[0.0_f32; 16]; 4];
            for (block, sums) in block.iter_mut().zip(&*sums) {
                for (out, bits) in block.iter_mut().zip(&sums[first..first + 16]) {
                    *out = f32::from_bits(*bits);
                }
            }
            for k in 0..K {
                let Some(b) = b[k][first..].first_chunk::<16>() else {
                    continue;
                };
                for r in 0..4 {
                    let a = a[r][k];
                    for j in 0..16 {
                        block[r][j] = a.mul_add(b[j], block[r][j]);
                    }
                }
            }
            for (block, sums) in block.iter().zip(&mut *sums) {
                for (value, out) in block.iter().zip(&mut sums[first..first + 16]) {
                    *out = value.to_bits();
                }
            }
        }
    }
}
