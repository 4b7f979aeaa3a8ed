//! An L2 of lines and sectors, and the replay of what the blocks of a launch really accessed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use super::Traffic;
use crate::device::DeviceModel;

const LINE: u64 = 128;
const SECTOR: u64 = 32;
const SECTORS: u64 = LINE / SECTOR;

/// A block that meets no barrier ends a step of time after this many lines: 64 KiB.
const LONGEST_STEP: u32 = 512;

/// How DRAM traffic of launches is modelled.
#[derive(Debug, Clone)]
pub struct DramModel {
    /// What launch after launch leaves and finds.
    pub l2: Arc<Mutex<L2>>,
    /// Blocks that a multiprocessor holds. Without it what threads, shared memory and block slots
    /// allow: registers are known to ptxas only.
    pub blocks_per_multiprocessor: Option<u32>,
}

impl DramModel {
    /// An empty L2 that may hold `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        DramModel {
            l2: Arc::new(Mutex::new(L2::new(bytes))),
            blocks_per_multiprocessor: None,
        }
    }

    /// The traffic of a launch whose blocks accessed this.
    pub(crate) fn replay(
        &self,
        blocks: &[Trace],
        device: &DeviceModel,
        threads: u32,
        shared_bytes: u32,
    ) -> Traffic {
        let each = self
            .blocks_per_multiprocessor
            .unwrap_or_else(|| device.blocks_per_multiprocessor(threads, shared_bytes));
        let resident = u64::from(device.multiprocessors) * u64::from(each);
        let mut l2 = self.l2.lock().unwrap_or_else(PoisonError::into_inner);
        l2.replay(blocks, resident)
    }
}

/// What an access does with its sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read = 1,
    Write = 2,
    Update = 3,
}

/// Some sectors of one line, used in one way: the line's number, two bits of [`Use`], four of
/// sectors. Zero ends a step of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Touch(u64);

impl Touch {
    const STEP: Touch = Touch(0);

    fn line(self) -> u64 {
        self.0 >> 6
    }

    fn reads(self) -> bool {
        self.0 >> 4 & 1 == 1
    }

    fn writes(self) -> bool {
        self.0 >> 5 & 1 == 1
    }

    fn sectors(self) -> u8 {
        (self.0 & 0xf) as u8
    }
}

/// What one block accessed, in the order of its execution.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    touches: Vec<Touch>,
    /// Since the last step's end.
    in_step: u32,
}

impl Trace {
    /// An access to the sector of this number.
    pub fn touch(&mut self, sector: u64, how: Use) {
        let bit = 1 << (sector % SECTORS);
        let key = ((sector / SECTORS) << 6) | ((how as u64) << 4);
        match self.touches.last_mut() {
            Some(last) if last.0 & !0xf == key => last.0 |= bit,
            _ => {
                if self.in_step == LONGEST_STEP {
                    self.step();
                }
                self.touches.push(Touch(key | bit));
                self.in_step += 1;
            }
        }
    }

    /// The end of a step of time: what other blocks did in their step is over, too.
    pub fn step(&mut self) {
        if self.in_step > 0 {
            self.touches.push(Touch::STEP);
            self.in_step = 0;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.touches.is_empty()
    }
}

struct Slot {
    line: u64,
    /// Neighbours in the order of last use.
    newer: u32,
    older: u32,
    held: u8,
    dirty: u8,
}

const NO_SLOT: u32 = u32::MAX;

/// A fully associative memory of 128-byte lines with four sectors each, that replaces the line used
/// longest ago.
pub struct L2 {
    capacity: usize,
    slots: Vec<Slot>,
    newest: u32,
    oldest: u32,
    places: HashMap<u64, u32, BuildHasherDefault<LineHasher>>,
}

impl std::fmt::Debug for L2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "L2 of {} lines, {} in use",
            self.capacity,
            self.slots.len()
        )
    }
}

impl L2 {
    /// An empty one of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        L2 {
            capacity: usize::try_from(bytes / LINE)
                .map_or(NO_SLOT as usize, |lines| lines.min(NO_SLOT as usize)),
            slots: Vec::new(),
            newest: NO_SLOT,
            oldest: NO_SLOT,
            places: HashMap::default(),
        }
    }

    /// Forgets everything it holds.
    pub fn flush(&mut self) {
        self.slots.clear();
        self.places.clear();
        (self.newest, self.oldest) = (NO_SLOT, NO_SLOT);
    }

    fn take_out(&mut self, at: u32) {
        let Slot { newer, older, .. } = self.slots[at as usize];
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn put_first(&mut self, at: u32) {
        let newest = std::mem::replace(&mut self.newest, at);
        let slot = &mut self.slots[at as usize];
        (slot.newer, slot.older) = (NO_SLOT, newest);
        match self.slots.get_mut(newest as usize) {
            Some(slot) => slot.newer = at,
            None => self.oldest = at,
        }
    }

    /// The line's slot, now the newest; an empty one if it was not there. `None` where there is no
    /// room for any line.
    fn find(&mut self, line: u64) -> Option<&mut Slot> {
        let at = match self.places.get(&line) {
            Some(&at) => {
                if at != self.newest {
                    self.take_out(at);
                    self.put_first(at);
                }
                at
            }
            None if self.capacity == 0 => return None,
            None => {
                let fresh = Slot {
                    line,
                    newer: NO_SLOT,
                    older: NO_SLOT,
                    held: 0,
                    dirty: 0,
                };
                let at = if self.slots.len() < self.capacity {
                    self.slots.push(fresh);
                    self.slots.len() as u32 - 1
                } else {
                    let at = self.oldest;
                    self.take_out(at);
                    let before = std::mem::replace(&mut self.slots[at as usize], fresh);
                    self.places.remove(&before.line);
                    at
                };
                self.put_first(at);
                self.places.insert(line, at);
                at
            }
        };
        self.slots.get_mut(at as usize)
    }

    /// Serves an access. A sector that is read and not held comes from DRAM. One that is written
    /// goes there once for as long as it stays: it is counted at once, for the launch that wrote
    /// it. A write fetches nothing.
    fn serve(&mut self, touch: Touch, traffic: &mut Traffic) {
        let sectors = touch.sectors();
        let (held, dirty) = match self.find(touch.line()) {
            Some(slot) => {
                let before = (slot.held, slot.dirty);
                slot.held |= sectors;
                slot.dirty |= if touch.writes() { sectors } else { 0 };
                before
            }
            None => (0, 0),
        };
        if touch.reads() {
            traffic.read += SECTOR * u64::from((sectors & !held).count_ones());
        }
        if touch.writes() {
            traffic.written += SECTOR * u64::from((sectors & !dirty).count_ones());
        }
    }

    /// Runs the blocks again, `resident` at a time: each does its step of time, one after the
    /// other, and then all do their next. One that is done gives its place to the next block.
    pub(crate) fn replay(&mut self, blocks: &[Trace], resident: u64) -> Traffic {
        let mut traffic = Traffic::default();
        let mut waiting = blocks.iter().map(|trace| trace.touches.as_slice());
        let resident = usize::try_from(resident).unwrap_or(usize::MAX).max(1);
        let mut running: Vec<&[Touch]> = waiting.by_ref().take(resident).collect();
        while !running.is_empty() {
            running.retain_mut(|left| {
                let end = left.iter().position(|&touch| touch == Touch::STEP);
                let (step, rest) = match end {
                    Some(end) => (&left[..end], &left[end + 1..]),
                    None => (*left, &[][..]),
                };
                for &touch in step {
                    self.serve(touch, &mut traffic);
                }
                *left = rest;
                if !left.is_empty() {
                    return true;
                }
                let next = waiting.next();
                *left = next.unwrap_or_default();
                next.is_some()
            });
        }
        traffic
    }
}

/// Spreads line numbers, which come in rows and columns, over a table.
#[derive(Default)]
struct LineHasher(u64);

impl Hasher for LineHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block that uses lines of four sectors, a step for each inner list.
    fn block(steps: &[&[u64]], how: Use) -> Trace {
        let mut trace = Trace::default();
        for step in steps {
            for line in *step {
                (0..SECTORS).for_each(|sector| trace.touch(SECTORS * line + sector, how));
            }
            trace.step();
        }
        trace
    }

    fn lines(traffic: Traffic) -> (u64, u64) {
        (traffic.read / LINE, traffic.written / LINE)
    }

    #[test]
    fn the_line_used_longest_ago_goes_first() {
        let mut l2 = L2::new(3 * LINE);
        let order: [&[u64]; 1] = [&[1, 2, 3, 1, 4, 1, 2, 3]];
        // 4 takes the place of 2, which takes that of 3.
        assert_eq!(lines(l2.replay(&[block(&order, Use::Read)], 1)), (6, 0));
        assert_eq!(l2.slots.len(), 3);
        l2.flush();
        assert_eq!(lines(l2.replay(&[block(&[&[3, 3]], Use::Read)], 1)), (1, 0));
    }

    #[test]
    fn blocks_take_turns_step_by_step() {
        let streams = |first: u64| block(&[&[first], &[first + 1], &[first + 2]], Use::Read);
        let same = [streams(0), streams(0), streams(0)];
        // Room for one line: it is shared only by those that come to it in the same step.
        assert_eq!(lines(L2::new(LINE).replay(&same, 3)), (3, 0));
        assert_eq!(lines(L2::new(LINE).replay(&same, 1)), (9, 0));
        // The third begins when the first two are done.
        assert_eq!(lines(L2::new(LINE).replay(&same, 2)), (6, 0));
        assert_eq!(lines(L2::new(0).replay(&same, 3)), (9, 0));
        let apart = [streams(0), streams(10), streams(20)];
        assert_eq!(lines(L2::new(1 << 20).replay(&apart, 2)), (9, 0));
    }

    #[test]
    fn a_write_is_counted_once_while_it_stays() {
        let mut l2 = L2::new(2 * LINE);
        assert_eq!(
            lines(l2.replay(&[block(&[&[1, 1, 2, 1]], Use::Write)], 1)),
            (0, 2)
        );
        // What was written can be read, and what was replaced is written again.
        assert_eq!(lines(l2.replay(&[block(&[&[2]], Use::Read)], 1)), (0, 0));
        assert_eq!(
            lines(l2.replay(&[block(&[&[3, 1]], Use::Write)], 1)),
            (0, 2)
        );
        assert_eq!(
            lines(l2.replay(&[block(&[&[5, 5]], Use::Update)], 1)),
            (1, 1)
        );
    }

    #[test]
    fn sectors_come_one_by_one() {
        let mut trace = Trace::default();
        for sector in [0, 2, 2, 0, 3] {
            trace.touch(sector, Use::Read);
        }
        assert_eq!(trace.touches.len(), 1);
        let traffic = L2::new(1 << 10).replay(&[trace], 1);
        assert_eq!((traffic.read, traffic.written), (3 * SECTOR, 0));
    }

    #[test]
    fn a_step_ends_by_itself_after_64_kib() {
        let mut trace = Trace::default();
        (0..SECTORS * 1025).for_each(|sector| trace.touch(sector, Use::Read));
        let steps = trace
            .touches
            .iter()
            .filter(|&&touch| touch == Touch::STEP)
            .count();
        assert_eq!(steps, 2);
    }
}
