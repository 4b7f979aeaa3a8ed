//! What is known of global memory: who wrote and read each four bytes last in this launch.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::order::{Clocks, Stamp};
use super::{Action, Conflict, Me, Party, Touch, What};
use crate::memory::{AddressMap, Allocation, GRANULE_SHIFT};
use crate::shadow::RACE_GRAIN;

/// Blocks beyond this number are not followed.
const BLOCKS: u64 = 1 << 20;
/// Launches are told apart by a number below this; then the shadows are cleared.
pub(crate) const TAGS: u64 = 63;
const LAST_STEP: u64 = (1 << 21) - 1;
const LAST_PC: u64 = (1 << 18) - 1;
const LAST_TIME: u64 = (1 << 30) - 1;

/// All were atomics.
const ATOMIC: u64 = 1;
/// All were compare-and-swap.
const SWAP: u64 = 2;

/// Order between the blocks of a launch. Two accesses count as ordered if, after the first, both
/// blocks have done an operation that can order threads: an atomic, a fence, a strong access.
pub(crate) struct Between {
    tag: u64,
    now: AtomicU32,
    /// When each block last did such an operation.
    last: Box<[AtomicU32]>,
}

impl Between {
    pub fn new(tag: u64, blocks: u64) -> Self {
        Between {
            tag,
            now: AtomicU32::new(1),
            last: (0..blocks.min(BLOCKS)).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    pub fn order(&self, block: u64) {
        if let Some(last) = self.last.get(block as usize) {
            last.store(self.now.fetch_add(1, Relaxed) + 1, Relaxed);
        }
    }

    fn ordered_since(&self, block: u64, time: u64) -> bool {
        self.last
            .get(block as usize)
            .is_none_or(|last| u64::from(last.load(Relaxed)) > time)
    }
}

/// The allocations as one worker sees them, with the ones used last.
pub(crate) struct Shadows<'a> {
    map: &'a AddressMap,
    cache: [Option<&'a Allocation>; 16],
}

impl<'a> Shadows<'a> {
    pub fn new(map: &'a AddressMap) -> Self {
        Shadows {
            map,
            cache: [None; 16],
        }
    }

    /// The allocation that holds all these bytes.
    pub fn find(&mut self, va: u64, bytes: u32) -> Option<&'a Allocation> {
        let slot = (va >> GRANULE_SHIFT) as usize % self.cache.len();
        let inside = |a: &Allocation| {
            va >= a.base && va - a.base < a.size && a.size - (va - a.base) >= u64::from(bytes)
        };
        if let Some(found) = self.cache[slot].filter(|a| inside(a)) {
            return Some(found);
        }
        let found = self.map.find(va).filter(|a| inside(a))?;
        self.cache[slot] = Some(found);
        Some(found)
    }
}

/// A warp's accesses in one of its steps. First word: step 21 bits, block 20, warp 5, lane 5, bytes
/// 4, tag 6, flags 3; second: time 30, code position 18, own bytes 4, and 12 bits made of the first
/// word, which tell whether two workers have mixed their halves. Lane, position and own bytes are
/// the last lane's, `bytes` are those of all its lanes.
#[derive(Clone, Copy)]
struct Entry([u64; 2]);

fn digest(who: u64) -> u64 {
    who.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52
}

impl Entry {
    fn new(me: &Me, lane: usize, step: u32, bytes: u32, flags: u64, between: &Between) -> Self {
        let step = u64::from(step).min(LAST_STEP);
        let who = step << 43
            | me.block << 23
            | (me.warp as u64) << 18
            | (lane as u64) << 13
            | u64::from(bytes) << 9
            | between.tag << 3
            | flags;
        let time = u64::from(between.now.load(Relaxed)).min(LAST_TIME);
        let pc = (me.pc as u64).min(LAST_PC);
        Entry([
            who,
            time << 34 | pc << 16 | u64::from(bytes) << 12 | digest(who),
        ])
    }

    /// Whether the halves belong together and to this launch.
    fn is_of(self, between: &Between) -> bool {
        let [who, how] = self.0;
        who >> 3 & 63 == between.tag && how & 0xfff == digest(who)
    }

    /// This access, together with the earlier ones of its warp in the same step.
    fn after(self, last: Entry, between: &Between) -> Self {
        // Step, block and warp.
        const SAME: u64 = u64::MAX << 18;
        let ([who, how], [before, _]) = (self.0, last.0);
        if (who ^ before) & SAME != 0 || self.step() == LAST_STEP || !last.is_of(between) {
            return self;
        }
        let not_shared = (ATOMIC | SWAP) & !before;
        let who = who & !not_shared | before & (15 << 9);
        let same_lane = if last.lane() == self.lane() {
            last.0[1] & (15 << 12)
        } else {
            0
        };
        Entry([who, how & !0xfff | same_lane | digest(who)])
    }

    fn load(from: &[AtomicU64; 2]) -> Self {
        Entry([from[0].load(Relaxed), from[1].load(Relaxed)])
    }

    fn store(self, to: &[AtomicU64; 2]) {
        to[0].store(self.0[0], Relaxed);
        to[1].store(self.0[1], Relaxed);
    }

    fn bytes(self) -> u32 {
        (self.0[0] >> 9 & 15) as u32
    }

    fn block(self) -> u64 {
        self.0[0] >> 23 & (BLOCKS - 1)
    }

    fn warp(self) -> usize {
        (self.0[0] >> 18 & 31) as usize
    }

    fn lane(self) -> usize {
        (self.0[0] >> 13 & 31) as usize
    }

    fn step(self) -> u64 {
        self.0[0] >> 43
    }

    fn own_bytes(self) -> u32 {
        (self.0[1] >> 12 & 15) as u32
    }

    fn pc(self) -> usize {
        (self.0[1] >> 16 & LAST_PC) as usize
    }

    fn has(self, flag: u64) -> bool {
        self.0[0] & flag != 0
    }

    fn party(self) -> Party {
        Party {
            block: Some(self.block()),
            warp: self.warp(),
            lane: self.lane(),
            pc: self.pc(),
        }
    }

    fn races(self, me: &Me, lane: usize, bytes: u32, clocks: &Clocks, between: &Between) -> bool {
        if self.bytes() & bytes == 0 || !self.is_of(between) || self.step() >= LAST_STEP {
            return false;
        }
        let stamp = Stamp {
            block: self.block(),
            warp: self.warp() as u32,
            lane: self.lane() as u32,
            step: self.step() as u32,
        };
        let known = clocks.knows(me, 1 << lane, stamp) != 0;
        if self.block() != me.block || self.warp() != me.warp {
            return !known;
        }
        // If several lanes write in one instruction, one of them wins.
        !known && self.own_bytes() & bytes != 0 && self.pc() != me.pc
    }
}

/// Checks and records one lane's access to bytes of one allocation.
pub(super) fn access(
    allocation: &Allocation,
    me: &Me,
    va: u64,
    touch: Touch,
    clocks: &Clocks,
    between: &Between,
) -> Result<(), Conflict> {
    let Touch {
        lane,
        action,
        silent,
        ..
    } = touch;
    if me.block >= BLOCKS {
        return Ok(());
    }
    let first = va - allocation.base;
    let end = first + u64::from(touch.bytes);
    let flags =
        if action.is_atomic() { ATOMIC } else { 0 } | if action == Action::Swap { SWAP } else { 0 };
    let step = clocks.now(me.warp);
    let mut word = first / RACE_GRAIN;
    while word * RACE_GRAIN < end {
        let Some(cell) = allocation.shadow.race(word * RACE_GRAIN) else {
            return Ok(());
        };
        let low = first.max(word * 4) - word * 4;
        let high = end.min(word * 4 + 4) - word * 4;
        let bytes = ((1_u32 << high) - 1) & !((1 << low) - 1);
        let conflict = |what, entry: Entry| Conflict {
            what,
            offset: allocation.base + word * 4,
            other: entry.party(),
        };
        let entry = Entry::new(me, lane, step, bytes, flags, between);
        let write = Entry::load(&cell.write);
        let forgiven =
            action.is_atomic() && write.has(ATOMIC) || action == Action::Read && write.has(SWAP);
        if !silent && !forgiven && write.races(me, lane, bytes, clocks, between) {
            let what = if action == Action::Read {
                What::ReadAfterWrite
            } else {
                What::WriteAfterWrite
            };
            return Err(conflict(what, write));
        }
        let read = Entry::load(&cell.read);
        if action == Action::Read {
            entry.after(read, between).store(&cell.read);
        } else if !silent {
            if action != Action::Swap && read.races(me, lane, bytes, clocks, between) {
                return Err(conflict(What::WriteAfterRead, read));
            }
            entry.after(write, between).store(&cell.write);
        }
        word += 1;
    }
    Ok(())
}
