//! A warp's registers: one 32-lane array per slot, predicates as lane masks.

use crate::decode::op::Reg;
use crate::decode::{Constant, Kernel};

pub(crate) const LANES: usize = 32;
pub(crate) const FULL: u32 = u32::MAX;

pub(crate) type Words = [u32; LANES];
pub(crate) type Wides = [u64; LANES];

#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct WordSlot(Words);

#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct WideSlot(Wides);

/// Every lane's value of every register slot.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Registers {
    words: Box<[WordSlot]>,
    wides: Box<[WideSlot]>,
    preds: Box<[u32]>,
}

impl Registers {
    /// Registers at a warp's start: zero, and constants in their slots. `value` gives what a
    /// constant stands for.
    pub fn new(kernel: &Kernel, value: impl Fn(Constant) -> u64) -> Registers {
        let [words, wides, preds] = kernel.slots.map(|n| n as usize);
        let mut registers = Registers {
            words: vec![WordSlot([0; LANES]); words].into(),
            wides: vec![WideSlot([0; LANES]); wides].into(),
            preds: vec![0; preds].into(),
        };
        for &(slot, constant) in &kernel.constants[0] {
            registers.words[slot as usize].0 = [value(constant) as u32; LANES];
        }
        for &(slot, constant) in &kernel.constants[1] {
            registers.wides[slot as usize].0 = [value(constant); LANES];
        }
        registers
    }

    /// Takes over another warp's start values without allocating.
    pub fn reset(&mut self, start: &Registers) {
        self.words.copy_from_slice(&start.words);
        self.wides.copy_from_slice(&start.wides);
        self.preds.copy_from_slice(&start.preds);
    }

    /// As many registers, all zero.
    pub fn zeroed(&self) -> Registers {
        let mut zeroed = self.clone();
        zeroed.clear();
        zeroed
    }

    pub fn clear(&mut self) {
        self.words.fill(WordSlot([0; LANES]));
        self.wides.fill(WideSlot([0; LANES]));
        self.preds.fill(0);
    }

    pub fn is_clear(&self) -> bool {
        self.preds.iter().all(|&p| p == 0)
            && self.words.iter().all(|w| w.0 == [0; LANES])
            && self.wides.iter().all(|w| w.0 == [0; LANES])
    }

    #[inline(always)]
    pub fn word(&self, reg: Reg) -> &Words {
        &self.words[reg.index()].0
    }

    #[inline(always)]
    pub fn wide(&self, reg: Reg) -> &Wides {
        &self.wides[reg.index()].0
    }

    #[inline(always)]
    pub fn word_mut(&mut self, reg: Reg) -> &mut Words {
        &mut self.words[reg.index()].0
    }

    #[inline(always)]
    pub fn wide_mut(&mut self, reg: Reg) -> &mut Wides {
        &mut self.wides[reg.index()].0
    }

    #[inline(always)]
    pub fn pred(&self, reg: Reg) -> u32 {
        self.preds[reg.index()]
    }

    /// Writes the lanes in `mask`.
    #[inline(always)]
    pub fn set_word(&mut self, reg: Reg, mask: u32, values: &Words) {
        let slot = &mut self.words[reg.index()].0;
        if mask == FULL {
            *slot = *values;
            return;
        }
        for lane in 0..LANES {
            slot[lane] = if mask >> lane & 1 == 1 {
                values[lane]
            } else {
                slot[lane]
            };
        }
    }

    /// Writes the lanes in `mask`.
    #[inline(always)]
    pub fn set_wide(&mut self, reg: Reg, mask: u32, values: &Wides) {
        let slot = &mut self.wides[reg.index()].0;
        if mask == FULL {
            *slot = *values;
            return;
        }
        for lane in 0..LANES {
            slot[lane] = if mask >> lane & 1 == 1 {
                values[lane]
            } else {
                slot[lane]
            };
        }
    }

    #[inline(always)]
    pub fn set_pred(&mut self, reg: Reg, mask: u32, bits: u32) {
        let slot = &mut self.preds[reg.index()];
        *slot = (*slot & !mask) | (bits & mask);
    }

    /// A register of either class as 64-bit values.
    #[inline(always)]
    pub fn any(&self, reg: Reg) -> Wides {
        if reg.is_wide() {
            return *self.wide(reg);
        }
        let words = self.word(reg);
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = u64::from(words[lane]);
        }
        out
    }

    /// Writes a register of either class; words take the low half.
    #[inline(always)]
    pub fn set_any(&mut self, reg: Reg, mask: u32, values: &Wides) {
        if reg.is_wide() {
            return self.set_wide(reg, mask, values);
        }
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = values[lane] as u32;
        }
        self.set_word(reg, mask, &out);
    }

    #[inline(always)]
    pub fn map1(&mut self, d: Reg, a: Reg, mask: u32, f: impl Fn(u32) -> u32) {
        let a = self.word(a);
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane]);
        }
        self.set_word(d, mask, &out);
    }

    #[inline(always)]
    pub fn map2(&mut self, d: Reg, a: Reg, b: Reg, mask: u32, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (self.word(a), self.word(b));
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane], b[lane]);
        }
        self.set_word(d, mask, &out);
    }

    #[inline(always)]
    pub fn map3(&mut self, d: Reg, s: [Reg; 3], mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (self.word(s[0]), self.word(s[1]), self.word(s[2]));
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.set_word(d, mask, &out);
    }

    #[inline(always)]
    pub fn wide_map1(&mut self, d: Reg, a: Reg, mask: u32, f: impl Fn(u64) -> u64) {
        let a = self.wide(a);
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane]);
        }
        self.set_wide(d, mask, &out);
    }

    #[inline(always)]
    pub fn wide_map2(&mut self, d: Reg, a: Reg, b: Reg, mask: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.wide(a), self.wide(b));
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane], b[lane]);
        }
        self.set_wide(d, mask, &out);
    }

    #[inline(always)]
    pub fn wide_map3(&mut self, d: Reg, s: [Reg; 3], mask: u32, f: impl Fn(u64, u64, u64) -> u64) {
        let (a, b, c) = (self.wide(s[0]), self.wide(s[1]), self.wide(s[2]));
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.set_wide(d, mask, &out);
    }

    /// A predicate from two words.
    #[inline(always)]
    pub fn test2(&self, a: Reg, b: Reg, f: impl Fn(u32, u32) -> bool) -> u32 {
        let (a, b) = (self.word(a), self.word(b));
        collect(|lane| f(a[lane], b[lane]))
    }

    /// A predicate from two wides.
    #[inline(always)]
    pub fn wide_test2(&self, a: Reg, b: Reg, f: impl Fn(u64, u64) -> bool) -> u32 {
        let (a, b) = (self.wide(a), self.wide(b));
        collect(|lane| f(a[lane], b[lane]))
    }
}

/// A lane mask from a test of each lane.
#[inline(always)]
pub(crate) fn collect(test: impl Fn(usize) -> bool) -> u32 {
    let mut bytes = [0_u32; LANES];
    for lane in 0..LANES {
        bytes[lane] = u32::from(test(lane)) << lane;
    }
    bytes.iter().fold(0, |all, bit| all | bit)
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros() as usize;
        left &= left - 1;
        Some(lane)
    })
}
