//! Polls: strong loads that a warp repeats until another thread has changed what they read. One
//! that finds what it found before ends the turn of its warp, so that the other thread may run.

use super::registers::{Registers, Wides, lanes};
use crate::decode::op::Reg;

/// Places of a kernel, or groups of lanes, that a warp polls by turns and that are told apart.
const PLACES: usize = 8;

/// What a group of lanes found at one instruction.
#[derive(Clone, Copy, Default)]
struct Look {
    pc: u32,
    lanes: u32,
    /// Of the addresses and what was there.
    hash: u64,
}

/// What a warp's latest strong loads found.
#[derive(Default)]
pub(crate) struct Polls {
    looks: [Look; PLACES],
}

impl Polls {
    /// Remembers what the lanes in `mask` have read at `addresses` into `found`. True if they found
    /// the same there before.
    pub fn repeats(
        &mut self,
        pc: u32,
        mask: u32,
        addresses: &Wides,
        regs: &Registers,
        found: &[Reg],
    ) -> bool {
        let mut hash = Hash(0x9e37_79b9_7f4a_7c15);
        lanes(mask).for_each(|lane| hash.add(addresses[lane]));
        for &reg in found {
            let values = regs.any(reg);
            lanes(mask).for_each(|lane| hash.add(values[lane]));
        }
        let look = Look {
            pc,
            lanes: mask,
            hash: hash.0,
        };
        // Lanes that poll at the same instruction, each group for itself, must not displace each
        // other.
        let at = (pc as usize + mask.trailing_zeros() as usize) % PLACES;
        let before = std::mem::replace(&mut self.looks[at], look);
        (before.pc, before.lanes, before.hash) == (look.pc, look.lanes, look.hash)
    }

    pub fn clear(&mut self) {
        *self = Polls::default();
    }
}

struct Hash(u64);

impl Hash {
    fn add(&mut self, value: u64) {
        self.0 = (self.0 ^ value)
            .wrapping_mul(0xd605_1f5b_2a25_9c31)
            .rotate_left(29);
    }
}
