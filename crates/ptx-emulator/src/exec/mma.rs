//! `mma.sync` (PTX ISA section 9.7.14.5): fragments to matrices, the product, and back. With g =
//! lane / 4 and t = lane % 4, and p elements to a register:
//!
//! - A register i: row g + 8 (i % 2), columns p t .. p t + p, plus 4 p (i / 2);
//! - B register i: rows p t .. p t + p, plus 4 p i, column g;
//! - C and D register i of 32 bits: row g + 8 (i / 2), column 2 t + i % 2.

use super::registers::{FULL, LANES, Registers};
use super::rounding::{bf16_to_f32, canonical, f16_to_f32, f32_to_f16};
use super::{fp8, tensor_core};
use crate::decode::op::{Mma, MmaKind, Reg, RegList};
use crate::device::Numerics;

/// The largest K of a floating-point shape.
pub(super) const MOST_K: usize = 16;

/// A is 16 x K, B is K x 8, the sum 16 x 8; row-major.
pub(super) struct Tile {
    pub a: [[f32; MOST_K]; 16],
    pub b: [[f32; 8]; MOST_K],
    pub sum: [[f32; 8]; 16],
}

/// Multiplications and additions.
pub(super) fn flops(mma: Mma) -> u64 {
    2 * mma.kind.rows() as u64 * 8 * u64::from(mma.k)
}

pub(super) fn mma(regs: &mut Registers, list: &RegList, mma: Mma, numerics: Numerics) {
    match mma.kind {
        MmaKind::F64 => double(regs, list),
        MmaKind::F64Tall => double_tall(regs, list, usize::from(mma.k)),
        MmaKind::Fp8 {
            a_e5m2,
            b_e5m2,
            to_f16,
        } => fp8::multiply(
            regs,
            list,
            usize::from(mma.k),
            [a_e5m2, b_e5m2],
            to_f16,
            numerics,
        ),
        MmaKind::Int8 {
            a_signed,
            b_signed,
            saturate,
        } => integer(regs, list, mma, [a_signed, b_signed], saturate),
        _ => float(regs, list, mma, numerics),
    }
}

fn float(regs: &mut Registers, list: &RegList, mma: Mma, numerics: Numerics) {
    let k = usize::from(mma.k);
    let mut tile = Tile {
        a: [[0.0; MOST_K]; 16],
        b: [[0.0; 8]; MOST_K],
        sum: [[0.0; 8]; 16],
    };
    let per_register = if mma.kind == MmaKind::Tf32F32 { 1 } else { 2 };
    let a_registers = 16 * k / LANES / per_register;
    let b_registers = 8 * k / LANES / per_register;
    let (a, rest) = list.uses.split_at(a_registers);
    let (b, c) = rest.split_at(b_registers);
    match mma.kind {
        MmaKind::Bf16F32 => unpack_pairs(regs, &mut tile, a, b, bf16_to_f32),
        MmaKind::Tf32F32 => unpack_tf32(regs, &mut tile, a, b),
        _ => unpack_pairs(regs, &mut tile, a, b, f16_to_f32),
    }
    if mma.kind == MmaKind::F16F16 {
        for (i, reg) in c.iter().enumerate() {
            for (lane, word) in regs.word(*reg).iter().enumerate() {
                let (row, column) = (lane / 4 + 8 * i, 2 * (lane % 4));
                tile.sum[row][column] = f16_to_f32(*word as u16);
                tile.sum[row][column + 1] = f16_to_f32((word >> 16) as u16);
            }
        }
    } else {
        for (i, reg) in c.iter().enumerate() {
            for (lane, word) in regs.word(*reg).iter().enumerate() {
                tile.sum[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = f32::from_bits(*word);
            }
        }
    }
    match numerics {
        Numerics::F32Fma => multiply(&mut tile, k),
        Numerics::Ampere | Numerics::Hopper => {
            let halves = mma.kind == MmaKind::F16F16;
            tensor_core::multiply(&mut tile, k, mma.kind == MmaKind::Tf32F32, halves, numerics);
        }
    }
    if mma.kind == MmaKind::F16F16 {
        for (i, reg) in list.defs.iter().enumerate() {
            let mut out = [0; LANES];
            for (lane, word) in out.iter_mut().enumerate() {
                let (row, column) = (lane / 4 + 8 * i, 2 * (lane % 4));
                let [low, high] = [0, 1].map(|j| u32::from(f32_to_f16(tile.sum[row][column + j])));
                *word = low | high << 16;
            }
            regs.set_word(*reg, FULL, &out);
        }
        return;
    }
    for (i, reg) in list.defs.iter().enumerate() {
        let mut out = [0; LANES];
        for (lane, word) in out.iter_mut().enumerate() {
            *word = canonical(tile.sum[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]);
        }
        regs.set_word(*reg, FULL, &out);
    }
}

/// Two 16-bit elements to a register, the lower index in the low half.
#[inline(always)]
fn unpack_pairs(
    regs: &Registers,
    tile: &mut Tile,
    a: &[Reg],
    b: &[Reg],
    value: impl Fn(u16) -> f32,
) {
    for (i, reg) in a.iter().enumerate() {
        let words = regs.word(*reg);
        for lane in 0..LANES {
            let row = &mut tile.a[lane / 4 + 8 * (i % 2)];
            let column = 2 * (lane % 4) + 8 * (i / 2);
            row[column] = value(words[lane] as u16);
            row[column + 1] = value((words[lane] >> 16) as u16);
        }
    }
    for (i, reg) in b.iter().enumerate() {
        let words = regs.word(*reg);
        for lane in 0..LANES {
            let row = 2 * (lane % 4) + 8 * i;
            tile.b[row][lane / 4] = value(words[lane] as u16);
            tile.b[row + 1][lane / 4] = value((words[lane] >> 16) as u16);
        }
    }
}

/// The tensor core reads the upper 19 bits of a tf32 operand.
fn unpack_tf32(regs: &Registers, tile: &mut Tile, a: &[Reg], b: &[Reg]) {
    let value = |bits: u32| f32::from_bits(bits & 0xffff_e000);
    for (i, reg) in a.iter().enumerate() {
        for (lane, word) in regs.word(*reg).iter().enumerate() {
            tile.a[lane / 4 + 8 * (i % 2)][lane % 4 + 4 * (i / 2)] = value(*word);
        }
    }
    for (i, reg) in b.iter().enumerate() {
        for (lane, word) in regs.word(*reg).iter().enumerate() {
            tile.b[lane % 4 + 4 * i][lane / 4] = value(*word);
        }
    }
}

/// One fused multiply-add per product, in order of k.
fn multiply(tile: &mut Tile, k: usize) {
    for (a, sum) in tile.a.iter().zip(&mut tile.sum) {
        let mut row = *sum;
        for (a, b) in a.iter().zip(&tile.b).take(k) {
            for column in 0..8 {
                row[column] = a.mul_add(b[column], row[column]);
            }
        }
        *sum = row;
    }
}

/// m8n8k4 in f64: A (row g, column t), B (row t, column g), C (row g, columns 2t, 2t + 1).
fn double(regs: &mut Registers, list: &RegList) {
    let [a, b, c0, c1] = match *list.uses.as_slice() {
        [a, b, c0, c1] => [a, b, c0, c1].map(|reg| regs.wide(reg).map(f64::from_bits)),
        _ => return,
    };
    let mut out = [[0; LANES]; 2];
    for lane in 0..LANES {
        let (row, pair) = (lane / 4, lane % 4);
        for (j, c) in [c0, c1].iter().enumerate() {
            let column = 2 * pair + j;
            let sum = (0..4).fold(c[lane], |sum, k| {
                a[4 * row + k].mul_add(b[4 * column + k], sum)
            });
            out[j][lane] = sum.to_bits();
        }
    }
    for (reg, values) in list.defs.iter().zip(&out) {
        regs.set_wide(*reg, FULL, values);
    }
}

/// m16n8k4, k8 and k16 in f64, whose fragments are those of 32-bit elements.
fn double_tall(regs: &mut Registers, list: &RegList, k: usize) {
    let (a, rest) = list.uses.split_at(k / 2);
    let (b, c) = rest.split_at(k / 4);
    let values = |regs: &Registers, of: &[Reg]| -> Vec<[f64; LANES]> {
        of.iter()
            .map(|reg| regs.wide(*reg).map(f64::from_bits))
            .collect()
    };
    let (a, b, c) = (values(regs, a), values(regs, b), values(regs, c));
    for (i, reg) in list.defs.iter().enumerate() {
        let mut out = [0; LANES];
        for (lane, value) in out.iter_mut().enumerate() {
            let (group, column) = (lane / 4, 2 * (lane % 4) + i % 2);
            let sum = (0..k).fold(c[i][lane], |sum, x| {
                let a = a[i / 2 + 2 * (x / 4)][4 * group + x % 4];
                a.mul_add(b[x / 4][4 * column + x % 4], sum)
            });
            *value = sum.to_bits();
        }
        regs.set_wide(*reg, FULL, &out);
    }
}

fn integer(regs: &mut Registers, list: &RegList, mma: Mma, signed: [bool; 2], saturate: bool) {
    let k = usize::from(mma.k);
    let (a_regs, rest) = list.uses.split_at(k / 8);
    let (b_regs, c_regs) = rest.split_at(k / 16);
    let value = |word: u32, byte: usize, signed: bool| {
        let byte = (word >> (8 * byte)) as u8;
        if signed {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        }
    };
    let mut a = [[0; 32]; 16];
    let mut b = [[0; 8]; 32];
    for (i, reg) in a_regs.iter().enumerate() {
        // K of 16 has one register for each half of the rows; K of 32 has two.
        for (lane, word) in regs.word(*reg).iter().enumerate() {
            for byte in 0..4 {
                let column = 4 * (lane % 4) + byte + 16 * (i / 2);
                a[lane / 4 + 8 * (i % 2)][column] = value(*word, byte, signed[0]);
            }
        }
    }
    for (i, reg) in b_regs.iter().enumerate() {
        for (lane, word) in regs.word(*reg).iter().enumerate() {
            for byte in 0..4 {
                b[4 * (lane % 4) + byte + 16 * i][lane / 4] = value(*word, byte, signed[1]);
            }
        }
    }
    let mut out = [[0; LANES]; 4];
    for (i, values) in out.iter_mut().enumerate() {
        let c = c_regs.get(i).map_or([0; LANES], |reg| *regs.word(*reg));
        for lane in 0..LANES {
            let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let products: i64 = (0..k)
                .map(|x| i64::from(a[row][x]) * i64::from(b[x][column]))
                .sum();
            let sum = i64::from(c[lane] as i32) + products;
            values[lane] = if saturate {
                sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32
            } else {
                sum as u32
            };
        }
    }
    for (reg, values) in list.defs.iter().zip(&out) {
        regs.set_word(*reg, FULL, values);
    }
}
