//! The short ways to memory, for most accesses of most kernels. Words of a whole warp that lie side
//! by side are one copy, taken apart by lane where each has several; what is in shared memory or in
//! one allocation is reached by 32-bit offsets.

use super::registers::{FULL, LANES, Registers, Words};
use super::space::Spaces;
use crate::decode::op::{Reg, Window};

impl Spaces<'_, '_> {
    /// The host address of the first lane where all 32 access `bytes` bytes (a power of two) each,
    /// side by side, and all is well. What is left is for [`Spaces::resolve`].
    #[inline(always)]
    pub fn resolve_row(
        &mut self,
        regs: &Registers,
        base: Reg,
        offset: i32,
        window: Window,
        bytes: u32,
    ) -> Option<usize> {
        let span = LANES as u64 * u64::from(bytes);
        match window {
            Window::Shared if !base.is_wide() => {
                let words = regs.word(base);
                let mut wrong = 0;
                for lane in 0..LANES {
                    wrong |= words[lane] ^ words[0].wrapping_add(lane as u32 * bytes);
                }
                let first = u64::from(words[0].wrapping_add(offset as u32));
                let fits = first + span <= self.shared.len() as u64;
                let aligned = first & u64::from(bytes - 1) == 0;
                (wrong == 0 && fits && aligned)
                    .then(|| self.shared.pointer() as usize + first as usize)
            }
            Window::Global if base.is_wide() => {
                let wides = regs.wide(base);
                let mut wrong = 0;
                for lane in 0..LANES {
                    wrong |= wides[lane] ^ wides[0].wrapping_add(lane as u64 * u64::from(bytes));
                }
                let first = wides[0].wrapping_add(i64::from(offset) as u64);
                if wrong != 0 || first & u64::from(bytes - 1) != 0 {
                    return None;
                }
                let found = self.global.find(first)?;
                let at = first - found.base;
                (at.saturating_add(span) <= found.size).then(|| found.host + at as usize)
            }
            _ => None,
        }
    }

    /// A host address and each lane's offset from it, in 32 bits, where all active lanes access
    /// `bytes` bytes (a power of two) of shared memory or of one allocation, and all is well. Lanes
    /// outside the mask have the first active one's. What is left is for [`Spaces::resolve`].
    #[inline(always)]
    pub fn resolve_offsets(
        &mut self,
        regs: &Registers,
        base: Reg,
        offset: i32,
        (window, bytes): (Window, u32),
        mask: u32,
    ) -> Option<(usize, Words)> {
        let lead = mask.trailing_zeros() as usize % LANES;
        let mut out = [0; LANES];
        let (host, size) = match window {
            Window::Shared if !base.is_wide() => {
                let words = regs.word(base);
                for lane in 0..LANES {
                    out[lane] = words[lane].wrapping_add(offset as u32);
                }
                (self.shared.pointer() as usize, self.shared.len() as u64)
            }
            Window::Global if base.is_wide() => {
                let wides = regs.wide(base);
                let offset = i64::from(offset) as u64;
                let found = self.global.find(wides[lead].wrapping_add(offset))?;
                // Offsets in the allocation tell what is aligned only if its start is.
                if found.base & u64::from(bytes - 1) != 0 {
                    return None;
                }
                let shift = offset.wrapping_sub(found.base);
                let mut far = 0;
                for lane in 0..LANES {
                    let at = wides[lane].wrapping_add(shift);
                    out[lane] = at as u32;
                    far |= (at >> 32) as u32 & 0_u32.wrapping_sub(mask >> lane & 1);
                }
                if far != 0 {
                    return None;
                }
                (found.host, found.size)
            }
            _ => return None,
        };
        if mask != FULL {
            let first = out[lead];
            for lane in 0..LANES {
                out[lane] = if mask >> lane & 1 == 1 {
                    out[lane]
                } else {
                    first
                };
            }
        }
        let (mut high, mut bits) = (0, 0);
        for &at in &out {
            high = high.max(at);
            bits |= at;
        }
        let fits = u64::from(high) + u64::from(bytes) <= size;
        (fits && bits & (bytes - 1) == 0).then_some((host, out))
    }
}

/// Words of all lanes, `N` to a lane.
type Row<const N: usize> = [[u32; N]; LANES];

/// `first` is where [`Spaces::resolve_row`] found room for all lanes' words.
#[inline(always)]
pub(super) fn load(regs: &mut Registers, first: usize, defs: &[Reg]) {
    match *defs {
        [a] => {
            // SAFETY: `resolve_row` checked all 32 words, 4-byte aligned, in memory that the launch
            // keeps alive. A kernel that races here gets unspecified values, as on hardware.
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
        // SAFETY: as in `load`; parameters, which are read-only, are no window that `resolve_row`
        // knows.
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
