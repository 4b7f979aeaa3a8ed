//! Loads and stores of a whole warp whose lanes' words lie side by side: one copy, taken apart by lane where each has several words.

use super::registers::{FULL, LANES, Registers, Words};
use crate::decode::op::Reg;

/// Words of all lanes, `N` to a lane.
type Row<const N: usize> = [[u32; N]; LANES];

/// `first` is where [`super::space::Spaces::resolve_row`] found room for all lanes' words.
#[inline(always)]
pub(super) fn load(regs: &mut Registers, first: usize, defs: &[Reg]) {
    match *defs {
        [a] => {
            // SAFETY: `resolve_row` checked all 32 words, 4-byte aligned, in memory that the launch keeps alive. A kernel that races here gets
            // unspecified values, as on hardware.
            let words: Words = unsafe { std::ptr::read_volatile(first as *const Words) };
            regs.set_word(a, FULL, &words);
        }
        [a, b] => split(regs, first, [a, b]),
        [a, b, c, d] => split(regs, first, [a, b, c, d]),
        _ => {}
    }
}

#[inline(always)]
fn split<const N: usize>(regs: &mut Registers, first: usize, defs: [Reg; N]) {
    // SAFETY: as in `load`, with N words to each lane.
    let row: Row<N> = unsafe { std::ptr::read_volatile(first as *const Row<N>) };
    for (element, reg) in defs.into_iter().enumerate() {
        let mut words = [0; LANES];
        for lane in 0..LANES {
            words[lane] = row[lane][element];
        }
        regs.set_word(reg, FULL, &words);
    }
}

/// The reverse of [`load`].
#[inline(always)]
pub(super) fn store(regs: &Registers, first: usize, uses: &[Reg]) {
    match *uses {
        // SAFETY: as in `load`; parameters, which are read-only, are no window that `resolve_row` knows.
        [a] => unsafe { std::ptr::write_volatile(first as *mut Words, *regs.word(a)) },
        [a, b] => join(regs, first, [a, b]),
        [a, b, c, d] => join(regs, first, [a, b, c, d]),
        _ => {}
    }
}

#[inline(always)]
fn join<const N: usize>(regs: &Registers, first: usize, uses: [Reg; N]) {
    let mut row: Row<N> = [[0; N]; LANES];
    for (element, reg) in uses.into_iter().enumerate() {
        let words = regs.word(reg);
        for lane in 0..LANES {
            row[lane][element] = words[lane];
        }
    }
    // SAFETY: as in `store`, with N words to each lane.
    unsafe { std::ptr::write_volatile(first as *mut Row<N>, row) };
}
