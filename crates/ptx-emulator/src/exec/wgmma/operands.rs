//! A and B of a product as f32, gathered once for the four warps. Every element of up to 19 bits is
//! an f32; an integer of 8 bits is, too.

use super::descriptor::{Layout, PIECE};
use crate::decode::op::{Element, Flag, Product};
use crate::exec::registers::Words;

pub(super) const MOST_N: usize = 256;
pub(super) const MOST_K: usize = 32;
/// Rows of A, and those of one warp.
pub(super) const ROWS: usize = 64;
pub(super) const WARP_ROWS: usize = 16;

/// Words of a row of A, or a column of B.
type Row = [u32; 8];

pub(crate) struct Operands {
    /// By rows. Without meaning where A is in registers.
    pub a: [[f32; MOST_K]; ROWS],
    /// By rows: K x N.
    pub b: [[f32; MOST_N]; MOST_K],
    /// Where in shared memory bytes were never written.
    pub undefined_at: Option<u64>,
    /// Rows of A that depend on bytes never written.
    pub undefined_rows: u64,
    /// Columns of B that do.
    pub undefined_columns: [u64; MOST_N / 64],
}

impl Operands {
    pub fn new() -> Box<Self> {
        Box::new(Operands {
            a: [[0.0; MOST_K]; ROWS],
            b: [[0.0; MOST_N]; MOST_K],
            undefined_at: None,
            undefined_rows: 0,
            undefined_columns: [0; MOST_N / 64],
        })
    }

    /// Reads both matrices. `a` is `None` where it is in registers.
    ///
    /// # Errors
    /// The address of the first piece beyond shared memory.
    pub fn gather(
        &mut self,
        shared: &[u8],
        product: Product,
        a: Option<Layout>,
        b: Layout,
    ) -> Result<(), usize> {
        let flip = sign(product);
        self.undefined_at = None;
        self.undefined_rows = 0;
        self.undefined_columns = [0; MOST_N / 64];
        if let Some(layout) = a {
            if product.has(Flag::TransposeA) {
                for k in 0..product.k() {
                    for piece in 0..ROWS / 8 {
                        let values =
                            halves(product.a, read(shared, layout.column_piece(piece, k))?);
                        for (row, value) in self.a[8 * piece..].iter_mut().zip(values) {
                            row[k] = f32::from_bits(value ^ flip);
                        }
                    }
                }
            } else {
                for (row, out) in self.a.iter_mut().enumerate() {
                    expand(product.a, flip, &row_words(shared, layout, row)?, out);
                }
            }
        }
        if product.has(Flag::TransposeB) {
            for (k, row) in self.b.iter_mut().enumerate().take(product.k()) {
                for piece in 0..product.n() / 8 {
                    let values = halves(product.b, read(shared, b.column_piece(piece, k))?);
                    let out = row[8 * piece..8 * piece + 8].iter_mut();
                    out.zip(values)
                        .for_each(|(out, value)| *out = f32::from_bits(value));
                }
            }
            return Ok(());
        }
        let mut words = [[0_u32; MOST_N]; 8];
        for column in 0..product.n() {
            let row = row_words(shared, b, column)?;
            for (word, out) in row.into_iter().zip(&mut words) {
                out[column] = word;
            }
        }
        match product.b {
            Element::Tf32 => spread::<1>(&words, &mut self.b, product.n(), tf32),
            Element::F16 => spread::<2>(&words, &mut self.b, product.n(), f16),
            Element::Bf16 => spread::<2>(&words, &mut self.b, product.n(), bf16),
            Element::E4m3 => spread::<4>(&words, &mut self.b, product.n(), e4m3),
            Element::E5m2 => spread::<4>(&words, &mut self.b, product.n(), e5m2),
            Element::S8 => spread::<4>(&words, &mut self.b, product.n(), s8),
            Element::U8 => spread::<4>(&words, &mut self.b, product.n(), u8),
        }
        Ok(())
    }
}

/// The sign bit that A takes over where one of the matrices is negated.
fn sign(product: Product) -> u32 {
    u32::from(product.has(Flag::NegateA) != product.has(Flag::NegateB)) << 31
}

/// A warp's rows of A from the registers of its fragment. With g = lane / 4 and t = lane % 4,
/// register i holds word t + 4 (i / 2) of row g + 8 (i % 2).
pub(super) fn from_registers(
    product: Product,
    fragment: [&Words; 4],
    out: &mut [[f32; MOST_K]; WARP_ROWS],
) {
    for (row, out) in out.iter_mut().enumerate() {
        let mut words = [0; 8];
        for (at, word) in words.iter_mut().enumerate() {
            *word = fragment[row / 8 + 2 * (at / 4)][4 * (row % 8) + at % 4];
        }
        expand(product.a, sign(product), &words, out);
    }
}

fn read(shared: &[u8], at: usize) -> Result<&[u8; PIECE], usize> {
    let bytes = shared.get(at..at + PIECE);
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(at)
}

fn row_words(shared: &[u8], layout: Layout, row: usize) -> Result<Row, usize> {
    let mut words = [0; 8];
    for half in 0..2 {
        let bytes = read(shared, layout.row_piece(row, half))?;
        for (word, bytes) in words[4 * half..].iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    Ok(words)
}

/// A piece of 16-bit elements.
fn halves(element: Element, bytes: &[u8; PIECE]) -> [u32; 8] {
    let mut out = [0; 8];
    for (out, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *out = u32::from(u16::from_le_bytes([pair[0], pair[1]]));
    }
    match element {
        Element::F16 => out.map(f16),
        _ => out.map(bf16),
    }
}

/// A row's elements.
fn expand(element: Element, flip: u32, words: &Row, out: &mut [f32; MOST_K]) {
    #[inline(always)]
    fn each<const PARTS: usize>(
        words: &Row,
        flip: u32,
        out: &mut [f32; MOST_K],
        value: impl Fn(u32) -> u32,
    ) {
        for (at, word) in words.iter().enumerate() {
            for part in 0..PARTS {
                let bits = value(word >> (32 / PARTS * part));
                out[PARTS * at + part] = f32::from_bits(bits ^ flip);
            }
        }
    }
    match element {
        Element::Tf32 => each::<1>(words, flip, out, tf32),
        Element::F16 => each::<2>(words, flip, out, f16),
        Element::Bf16 => each::<2>(words, flip, out, bf16),
        Element::E4m3 => each::<4>(words, flip, out, e4m3),
        Element::E5m2 => each::<4>(words, flip, out, e5m2),
        Element::S8 => each::<4>(words, flip, out, s8),
        Element::U8 => each::<4>(words, flip, out, u8),
    }
}

/// Words of columns to elements by rows, `PARTS` of them in a word. Whole vectors of columns: what
/// lies behind N is never looked at.
#[inline(always)]
fn spread<const PARTS: usize>(
    words: &[[u32; MOST_N]; 8],
    out: &mut [[f32; MOST_N]; MOST_K],
    n: usize,
    value: impl Fn(u32) -> u32,
) {
    for (at, words) in words.iter().enumerate() {
        for part in 0..PARTS {
            let out = &mut out[PARTS * at + part];
            for (out, words) in out
                .chunks_exact_mut(8)
                .zip(words.chunks_exact(8))
                .take(n / 8)
            {
                for j in 0..8 {
                    out[j] = f32::from_bits(value(words[j] >> (32 / PARTS * part)));
                }
            }
        }
    }
}

// Elements in the low bits of a word to the bits of an f32, without branches.

/// The tensor core reads the upper 19 bits.
#[inline(always)]
fn tf32(x: u32) -> u32 {
    x & 0xffff_e000
}

#[inline(always)]
fn bf16(x: u32) -> u32 {
    x << 16
}

#[inline(always)]
fn f16(x: u32) -> u32 {
    const TO_F32: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = x & 0x7fff;
    let value = (f32::from_bits(magnitude << 13) * TO_F32).to_bits();
    let special = if magnitude >= 0x7c00 { 0x7f80_0000 } else { 0 };
    value | special | (x & 0x8000) << 16
}

#[inline(always)]
fn e5m2(x: u32) -> u32 {
    f16((x & 0xff) << 8)
}

#[inline(always)]
fn e4m3(x: u32) -> u32 {
    const TO_F32: f32 = f32::from_bits((127 + 120) << 23);
    let magnitude = x & 0x7f;
    let value = (f32::from_bits(magnitude << 20) * TO_F32).to_bits();
    let special = if magnitude == 0x7f { 0x7fc0_0000 } else { 0 };
    value | special | (x & 0x80) << 24
}

#[inline(always)]
fn s8(x: u32) -> u32 {
    (f32::from(x as u8 as i8)).to_bits()
}

#[inline(always)]
fn u8(x: u32) -> u32 {
    f32::from(x as u8).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::rounding::f16_to_f32;

    #[test]
    fn small_formats_are_exact_in_f32() {
        for bits in 0..=u16::MAX {
            let (got, expected) = (f32::from_bits(f16(bits.into())), f16_to_f32(bits));
            assert!(
                got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(),
                "{bits:#06x}: {got} {expected}"
            );
        }
        let values = [
            (0x01, 2.0_f32.powi(-9)),
            (0x08, 2.0_f32.powi(-6)),
            (0x38, 1.0),
            (0xfe, -448.0),
            (0x39, 1.125),
        ];
        for (bits, value) in values {
            assert_eq!(f32::from_bits(e4m3(bits)), value);
        }
        assert!(f32::from_bits(e4m3(0x7f)).is_nan() && f32::from_bits(e4m3(0xff)).is_nan());
        assert_eq!(f32::from_bits(e5m2(0x7b)), 57344.0);
        assert_eq!(f32::from_bits(e5m2(0x01)), 2.0_f32.powi(-16));
        assert_eq!(f32::from_bits(e5m2(0xfc)), f32::NEG_INFINITY);
        assert_eq!(f32::from_bits(s8(0x80)), -128.0);
        assert_eq!(f32::from_bits(u8(0x80)), 128.0);
    }
}
