//! What is known of shared memory: for each four bytes which are defined, which a `cp.async` is
//! still writing, and who wrote and read them last.

use super::order::{Clocks, Stamp};
use super::{Action, Conflict, Me, Party, Touch, What};

/// Nobody's steps are told apart beyond this one.
const LAST_STEP: u64 = (1 << 24) - 1;
const LAST_PC: u64 = (1 << 18) - 1;

/// A warp's accesses in one of its steps: step 24 bits, code position 18, lane 5, warp 5, bytes 4,
/// own bytes 4, flags 4. Position, lane and own bytes are the last lane's, `bytes` are those of all
/// its lanes. Zero is none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Entry(u64);

const COPIED: u64 = 1;
/// All were atomics.
const ATOMIC: u64 = 2;
/// All were compare-and-swap.
const SWAP: u64 = 4;

impl Entry {
    fn new(me: &Me, lane: usize, step: u32, bytes: u32, flags: u64) -> Self {
        let step = u64::from(step).min(LAST_STEP);
        let pc = (me.pc as u64).min(LAST_PC);
        let bytes = u64::from(bytes);
        Entry(
            step << 40
                | pc << 22
                | (lane as u64) << 17
                | (me.warp as u64) << 12
                | bytes << 8
                | bytes << 4
                | flags,
        )
    }

    /// This access, together with the earlier ones of its warp in the same step.
    fn after(self, last: Entry) -> Self {
        if last.0 == 0 || last.warp() != self.warp() || last.step() != self.step() {
            return self;
        }
        let not_shared = (ATOMIC | SWAP) & !last.0;
        let same_lane = if last.lane() == self.lane() {
            last.0 & 0xf0
        } else {
            0
        };
        Entry((self.0 & !not_shared) | last.0 & 0xf00 | same_lane)
    }

    fn step(self) -> u64 {
        self.0 >> 40
    }

    fn warp(self) -> usize {
        (self.0 >> 12 & 31) as usize
    }

    fn lane(self) -> usize {
        (self.0 >> 17 & 31) as usize
    }

    /// The bytes that any lane of the warp has accessed.
    fn bytes(self) -> u32 {
        (self.0 >> 8 & 15) as u32
    }

    fn own_bytes(self) -> u32 {
        (self.0 >> 4 & 15) as u32
    }

    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    fn party(self) -> Party {
        Party {
            block: None,
            warp: self.warp(),
            lane: self.lane(),
            pc: self.pc(),
        }
    }

    fn pc(self) -> usize {
        (self.0 >> 22 & LAST_PC) as usize
    }

    /// Whether this access and that of `lane` of `me` are unordered.
    fn races(self, me: &Me, lane: usize, bytes: u32, clocks: &Clocks) -> bool {
        if self.0 == 0 || self.bytes() & bytes == 0 || self.step() >= LAST_STEP {
            return false;
        }
        let stamp = Stamp {
            block: me.block,
            warp: self.warp() as u32,
            lane: self.lane() as u32,
            step: self.step() as u32,
        };
        let known = clocks.knows(me, 1 << lane, stamp) != 0;
        if self.warp() != me.warp {
            return !known;
        }
        // If several lanes write in one instruction, one of them wins.
        let together = self.pc() == me.pc && !self.has(COPIED);
        !known && self.own_bytes() & bytes != 0 && !together
    }
}

#[derive(Clone, Copy, Default)]
struct Cell {
    write: Entry,
    /// The last read, and the last one of another warp than that.
    reads: [Entry; 2],
}

/// Four bytes: defined ones in bits 0 to 3, in flight 4 to 7, defined once they have landed 8
/// to 11.
#[derive(Clone, Copy, Default)]
struct Bits(u16);

pub(super) struct Shared {
    cells: Vec<Cell>,
    bits: Vec<Bits>,
}

impl Shared {
    pub fn new(bytes: usize) -> Self {
        Shared {
            cells: vec![Cell::default(); bytes.div_ceil(4)],
            bits: vec![Bits::default(); bytes.div_ceil(4)],
        }
    }

    pub fn reset(&mut self) {
        self.cells.fill(Cell::default());
        self.bits.fill(Bits::default());
    }

    /// The words that an access touches, with the bytes of each.
    fn words(&self, offset: u64, bytes: u32) -> impl Iterator<Item = (usize, u32)> + use<> {
        let (first, end, len) = (offset, offset + u64::from(bytes), self.cells.len() as u64);
        (first / 4..end.div_ceil(4).min(len)).map(move |word| {
            let low = first.max(word * 4) - word * 4;
            let high = end.min(word * 4 + 4) - word * 4;
            (word as usize, ((1_u32 << high) - 1) & !((1 << low) - 1))
        })
    }

    /// A bit for each byte: it has been written.
    pub fn defined(&self, offset: u64, bytes: u32) -> u64 {
        let mut out = 0;
        for (word, _) in self.words(offset, bytes) {
            let shift = word as i64 * 4 - offset as i64;
            let bits = u64::from(self.bits[word].0 & 15);
            out |= if shift >= 0 {
                bits << shift
            } else {
                bits >> -shift
            };
        }
        out & (u64::MAX >> (64 - bytes.clamp(1, 64)))
    }

    /// Sets which bytes are defined.
    pub fn define(&mut self, offset: u64, bytes: u32, defined: u64) {
        for (word, mask) in self.words(offset, bytes) {
            let shift = word as i64 * 4 - offset as i64;
            let bits = if shift >= 0 {
                defined >> shift
            } else {
                defined << -shift
            };
            let bits = (bits as u16) & mask as u16;
            let cell = &mut self.bits[word].0;
            *cell = *cell & !(mask as u16) | bits;
        }
    }

    /// Checks and records one lane's access.
    pub fn access(
        &mut self,
        me: &Me,
        offset: u64,
        touch: Touch,
        clocks: &Clocks,
    ) -> Result<(), Conflict> {
        let Touch {
            lane,
            bytes,
            action,
            silent,
        } = touch;
        let flags = if action.is_atomic() { ATOMIC } else { 0 }
            | if action == Action::Swap { SWAP } else { 0 };
        let step = clocks.now(me.warp);
        for (word, mask) in self.words(offset, bytes) {
            let cell = &mut self.cells[word];
            let conflict = |what, entry: Entry| Conflict {
                what,
                offset: word as u64 * 4,
                other: entry.party(),
            };
            if self.bits[word].0 >> 4 & mask as u16 != 0
                && !(action == Action::Copy && cell.write.lane() == lane)
            {
                return Err(conflict(What::InFlight, cell.write));
            }
            let forgiven = action.is_atomic() && cell.write.has(ATOMIC)
                || action == Action::Read && cell.write.has(SWAP);
            if !silent && !forgiven && cell.write.races(me, lane, mask, clocks) {
                let what = if cell.write.has(COPIED) && cell.write.warp() == me.warp {
                    What::Unsynchronised
                } else if action == Action::Read {
                    What::ReadAfterWrite
                } else {
                    What::WriteAfterWrite
                };
                return Err(conflict(what, cell.write));
            }
            if action == Action::Read {
                let last = cell.reads[0];
                if last.0 != 0 && last.warp() != me.warp {
                    cell.reads[1] = last;
                }
                cell.reads[0] = Entry::new(me, lane, step, mask, flags).after(last);
                continue;
            }
            if silent {
                continue;
            }
            if action != Action::Swap
                && let Some(read) = cell.reads.iter().find(|r| r.races(me, lane, mask, clocks))
            {
                return Err(conflict(What::WriteAfterRead, *read));
            }
            cell.write = Entry::new(me, lane, step, mask, flags).after(cell.write);
            if mask == 15 {
                cell.reads = [Entry::default(); 2];
            }
        }
        Ok(())
    }

    /// A `cp.async` has been issued, which `access` has let pass as a write.
    pub fn issue(&mut self, offset: u64, bytes: u32, defined: u64) {
        for (word, mask) in self.words(offset, bytes) {
            let shift = word as u64 * 4 - offset;
            let mask = mask as u16;
            let after = (defined >> shift) as u16 & mask;
            let bits = &mut self.bits[word].0;
            *bits = *bits & !(mask << 8) | mask << 4 | after << 8;
        }
    }

    /// The copy has landed: its writer has waited for it.
    pub fn land(&mut self, me: &Me, lane: usize, offset: u64, bytes: u32, clocks: &Clocks) {
        let step = clocks.now(me.warp);
        for (word, mask) in self.words(offset, bytes) {
            let small = mask as u16;
            let bits = &mut self.bits[word].0;
            *bits = *bits & !(small << 4 | small) | (*bits >> 8 & small);
            let write = &mut self.cells[word].write;
            let issued = Me {
                pc: write.party().pc,
                ..*me
            };
            *write = Entry::new(&issued, lane, step, mask, COPIED);
        }
    }
}
