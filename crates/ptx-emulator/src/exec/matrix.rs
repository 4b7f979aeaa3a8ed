//! `ldmatrix`, `stmatrix`, `movmatrix` (PTX ISA section 9.7.14): 8x8 matrices of 16-bit elements,
//! spread over a warp so that lane l holds elements (l / 4, 2 (l % 4)) and (l / 4, 2 (l % 4) + 1).

use super::registers::{FULL, LANES, Registers, Words};
use super::space::{Spaces, addresses};
use super::trap::Outcome;
use crate::decode::op::{Inst, RegList, Window};

/// 8 rows of 16 bytes.
type Matrix = [[u16; 8]; 8];

fn transpose(matrix: &Matrix) -> Matrix {
    let mut out = [[0; 8]; 8];
    for (row, elements) in matrix.iter().enumerate() {
        for (column, &element) in elements.iter().enumerate() {
            out[column][row] = element;
        }
    }
    out
}

fn to_lanes(matrix: &Matrix) -> Words {
    let mut out = [0; LANES];
    for (lane, word) in out.iter_mut().enumerate() {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        *word = u32::from(matrix[row][column]) | u32::from(matrix[row][column + 1]) << 16;
    }
    out
}

fn from_lanes(words: &Words) -> Matrix {
    let mut out = [[0; 8]; 8];
    for (lane, word) in words.iter().enumerate() {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        out[row][column] = *word as u16;
        out[row][column + 1] = (word >> 16) as u16;
    }
    out
}

/// Lanes that give row addresses: eight for each matrix.
fn address_lanes(count: u8) -> u32 {
    if count >= 4 {
        FULL
    } else {
        (1 << (8 * count)) - 1
    }
}

pub(super) fn load(
    regs: &mut Registers,
    spaces: &mut Spaces<'_, '_>,
    inst: &Inst,
    list: &RegList,
    transposed: bool,
    window: Window,
) -> Outcome {
    let rows = address_lanes(list.defs.len() as u8);
    let pointers = spaces.resolve(window, addresses(regs, inst.s[0], inst.imm), rows, 16)?;
    for (matrix, reg) in list.defs.iter().enumerate() {
        let mut rows = [[0_u32; 4]; 8];
        for (row, bytes) in rows.iter_mut().enumerate() {
            // SAFETY: `resolve` checked 16 aligned bytes at each of these lanes' addresses.
            *bytes =
                unsafe { std::ptr::read_volatile(pointers[8 * matrix + row] as *const [u32; 4]) };
        }
        let mut words = [0; LANES];
        for lane in 0..LANES {
            words[lane] = rows[lane / 4][lane % 4];
        }
        if transposed {
            words = to_lanes(&transpose(&from_lanes(&words)));
        }
        regs.set_word(*reg, FULL, &words);
    }
    Ok(())
}

pub(super) fn store(
    regs: &mut Registers,
    spaces: &mut Spaces<'_, '_>,
    inst: &Inst,
    list: &RegList,
    transposed: bool,
    window: Window,
) -> Outcome {
    let rows = address_lanes(list.uses.len() as u8);
    let pointers = spaces.resolve(window, addresses(regs, inst.s[0], inst.imm), rows, 16)?;
    for (index, reg) in list.uses.iter().enumerate() {
        let matrix = from_lanes(regs.word(*reg));
        let matrix = if transposed {
            transpose(&matrix)
        } else {
            matrix
        };
        for (row, elements) in matrix.iter().enumerate() {
            // SAFETY: as in `load`.
            unsafe {
                std::ptr::write_volatile(pointers[8 * index + row] as *mut [u16; 8], *elements)
            };
        }
    }
    Ok(())
}

pub(super) fn move_transposed(regs: &mut Registers, inst: &Inst) {
    let matrix = from_lanes(regs.word(inst.s[0]));
    regs.set_word(inst.d[0], FULL, &to_lanes(&transpose(&matrix)));
}
