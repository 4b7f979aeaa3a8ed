//! Who has touched the bytes of a line of memory: 64 bytes of shared or of global memory.
//!
//! A line holds records. Each is what the lanes of one warp did in one of the warp's steps, with a
//! bit for each byte and the lane of each word. No record of an access is dropped before another
//! one stands for it: one that knows it (then whoever doesn't know the old one doesn't know the new
//! one either). Two records live in the line itself, further ones in a slab.

use super::gather::LaneRun;
use super::order::{Clocks, Stamp};
use super::{Me, What};
use crate::decode::op::Scope;
use crate::exec::launch::Grid;

/// Bytes of a line.
pub(crate) const LINE: u64 = 64;
/// Bytes with a lane of their own in a record.
const WORD: usize = 4;
/// Records of a line beyond which some reads are forgotten, chosen at random.
const MOST: usize = 128;
/// The same where a slab holds many records.
const MOST_IF_FULL: usize = 6;
/// Records that a slab holds before it counts as full: 3 MB.
const SLAB: usize = 1 << 16;

/// What an access was.
pub(crate) type Flags = u16;
pub(super) const WRITE: Flags = 1;
/// Volatile, relaxed, acquire, release or atomic: others may synchronise on it. Two bits above it
/// hold the scope.
pub(super) const STRONG: Flags = 1 << 1;
const SCOPE_SHIFT: u32 = 2;
pub(super) const ATOMIC: Flags = 1 << 4;
/// An atomic compare-and-swap. It and plain reads are no race: a loop of compare-and-swap often
/// reads its first old value plainly, and where that is stale the swap fails.
pub(super) const SWAP: Flags = 1 << 5;
/// Volatile, and no load that waits for a value.
pub(super) const VOLATILE: Flags = 1 << 6;
/// A write that changed nothing.
pub(super) const SILENT: Flags = 1 << 7;
/// A copy that nobody has waited for is reading or writing the bytes.
pub(super) const FLIGHT: Flags = 1 << 8;
/// The write of a `cp.async` that its thread has waited for.
pub(super) const COPIED: Flags = 1 << 9;
/// Each of the lanes has touched each of the bytes.
pub(super) const TOGETHER: Flags = 1 << 10;
/// By the asynchronous proxy: TMA, wgmma.
pub(super) const PROXY: Flags = 1 << 11;
/// Known to whoever knows a phase of an mbarrier: its number is in `lane`, the phase in `step`.
const PHASE: Flags = 1 << 12;
/// `ld.global.nc`.
pub(super) const READ_ONLY: Flags = 1 << 13;
/// No record, but the number of the rest's list in `lanes`. Its `warp` is not 0 if records of
/// strong accesses have been forgotten.
const MORE: Flags = 1 << 15;

/// The scope of a strong access as flags.
pub(super) fn strong(scope: Scope) -> Flags {
    let scope = match scope {
        Scope::Cta => 0,
        Scope::Cluster => 1,
        Scope::Gpu => 2,
        Scope::Sys => 3,
    };
    STRONG | scope << SCOPE_SHIFT
}

/// Accesses of one warp in one of its steps.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Record {
    /// A bit for each byte of the line; none: there is no record.
    pub bytes: u64,
    /// The lane of each word's bytes, if they are not `TOGETHER`.
    pub lane: [u8; 16],
    /// All lanes that take part.
    pub lanes: u32,
    pub step: u32,
    /// The block's number in the grid. Grids beyond 2^32 blocks would take years.
    pub block: u32,
    pub pc: u32,
    pub flags: Flags,
    /// The launch's number.
    pub tag: u16,
    pub warp: u8,
}

impl Record {
    fn has(&self, flags: Flags) -> bool {
        self.flags & flags == flags
    }

    /// The lanes that have touched any byte of a word.
    fn lanes_at(&self, word: usize) -> u32 {
        if self.has(TOGETHER) {
            self.lanes
        } else {
            1 << (self.lane[word] % 32)
        }
    }

    /// Adds a lane's bytes, from `from` on, if the record can tell them from the others'.
    pub fn add(&mut self, lane: usize, from: u32, count: u32) -> bool {
        let bytes = span(from, count);
        let bit = 1 << lane;
        if self.bytes == 0 {
            self.bytes = bytes;
            self.lanes = bit;
            for word in from as usize / WORD..(from + count).div_ceil(4) as usize {
                self.lane[word] = lane as u8;
            }
            return true;
        }
        if self.has(TOGETHER) {
            let same = self.bytes == bytes;
            self.lanes |= if same { bit } else { 0 };
            return same;
        }
        let words = from as usize / WORD..(from + count).div_ceil(4) as usize;
        let free = words
            .clone()
            .all(|word| self.bytes & word_bytes(word) == 0 || self.lane[word] == lane as u8);
        if free {
            self.bytes |= bytes;
            self.lanes |= bit;
            self.lane[words].fill(lane as u8);
            return true;
        }
        if self.lanes.is_power_of_two() && self.bytes == bytes {
            self.flags |= TOGETHER;
            self.lanes |= bit;
            return true;
        }
        false
    }

    /// Adds the bytes of lanes side by side, whole words each. False if other lanes have the words.
    pub fn add_lanes(&mut self, run: LaneRun, from: u32, each: u32) -> bool {
        let bytes = span(from, each * run.count as u32);
        if self.has(TOGETHER) || self.bytes & bytes != 0 {
            return false;
        }
        self.bytes |= bytes;
        self.lanes |= run.mask();
        let (first, words) = (from as usize / WORD, each as usize / WORD);
        let shift = words.trailing_zeros();
        let target = &mut self.lane[first..first + words * run.count];
        for (word, lane) in target.iter_mut().enumerate() {
            *lane = (run.first + (word >> shift)) as u8;
        }
        true
    }

    /// Whether another record is of the same step of the same warp, and of the same kind.
    fn is_like(&self, other: &Record) -> bool {
        self.step == other.step
            && self.warp == other.warp
            && self.block == other.block
            && self.flags == other.flags
            && self.tag == other.tag
            // Operations in flight end one by one.
            && (self.pc == other.pc || !self.has(FLIGHT | PROXY))
    }

    /// Adds all of the bytes of a record that is like this one, if the two can be told apart.
    fn merge(&mut self, other: &Record) -> bool {
        if self.has(TOGETHER) {
            if self.lanes != other.lanes {
                return false;
            }
        } else if self.has(PHASE) {
            if self.lane != other.lane {
                return false;
            }
        } else {
            let mut words = touched_words(other.bytes);
            while words != 0 {
                let word = words.trailing_zeros() as usize % 16;
                words &= words - 1;
                if self.bytes & word_bytes(word) != 0 && self.lane[word] != other.lane[word] {
                    return false;
                }
            }
            let mut words = touched_words(other.bytes);
            while words != 0 {
                let word = words.trailing_zeros() as usize % 16;
                words &= words - 1;
                self.lane[word] = other.lane[word];
            }
        }
        self.bytes |= other.bytes;
        self.lanes |= other.lanes;
        self.pc = other.pc;
        true
    }

    /// A lane of those that touched the byte.
    pub fn lane_of(&self, byte: u32) -> usize {
        if self.has(PHASE) {
            return 0;
        }
        self.lanes_at(byte as usize / WORD % 16).trailing_zeros() as usize % 32
    }

    /// Of its first lane.
    fn stamp(&self) -> Stamp {
        Stamp {
            block: u64::from(self.block),
            warp: u32::from(self.warp),
            lane: self.lanes.trailing_zeros(),
            step: self.step,
        }
    }

    /// Whether an access that is a race with `old` is one with this, too: a strong access is none
    /// with others that are strong and in its scope.
    fn is_as_strict_as(&self, old: &Record) -> bool {
        !self.has(STRONG) || old.has(STRONG) && self.scope() <= old.scope()
    }

    fn scope(&self) -> Flags {
        self.flags >> SCOPE_SHIFT & 3
    }

    pub fn is_together(&self) -> bool {
        self.has(TOGETHER)
    }

    fn is_phase(&self) -> bool {
        self.has(PHASE)
    }

    /// From now on the bytes are known to whoever knows the mbarrier's phase.
    pub fn completes(&mut self, mbarrier: u64, phase: u32) {
        self.flags = self.flags & !FLIGHT | PHASE;
        self.step = phase;
        self.lane[..8].copy_from_slice(&mbarrier.to_le_bytes());
    }

    fn mbarrier(&self) -> u64 {
        let mut raw = [0; 8];
        raw.copy_from_slice(&self.lane[..8]);
        u64::from_le_bytes(raw)
    }
}

/// Bits of `count` bytes from `from` on.
pub(super) fn span(from: u32, count: u32) -> u64 {
    (u64::MAX >> (64 - count.clamp(1, 64))) << (from % 64)
}

fn word_bytes(word: usize) -> u64 {
    0xf << (4 * (word % 16))
}

/// A bit for each word of which any byte is set.
fn touched_words(bytes: u64) -> u32 {
    let any = bytes | bytes >> 1 | bytes >> 2 | bytes >> 3;
    // Every fourth bit, brought together.
    let mut bits = any & 0x1111_1111_1111_1111;
    bits = (bits | bits >> 3) & 0x0303_0303_0303_0303;
    bits = (bits | bits >> 6) & 0x000f_000f_000f_000f;
    bits = (bits | bits >> 12) & 0x0000_00ff_0000_00ff;
    ((bits | bits >> 24) & 0xffff) as u32
}

/// The record of a number, first those in the line itself.
fn seat<'a>(near: &'a mut [Record], far: &'a mut [Record], at: usize) -> Option<&'a mut Record> {
    match at.checked_sub(near.len()) {
        None => near.get_mut(at),
        Some(at) => far.get_mut(at),
    }
}

/// Where a new record may go, by the number of the record there.
#[derive(Clone, Copy, Default)]
struct Seats {
    /// One that it may be joined with.
    like: Option<usize>,
    /// A place without a record that counts.
    room: Option<usize>,
}

/// With room for `N` records.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Records<const N: usize> {
    records: [Record; N],
}

/// A line of global memory.
pub(crate) type Line = Records<2>;
/// A line of shared memory, which more accesses come to.
pub(super) type SharedLine = Records<4>;

impl<const N: usize> Default for Records<N> {
    fn default() -> Self {
        Records {
            records: [Record::default(); N],
        }
    }
}

/// The records for which lines have no room.
#[derive(Default)]
pub(crate) struct Slab {
    lists: Vec<Vec<Record>>,
    free: Vec<u32>,
    held: usize,
    /// For the choice of what is forgotten.
    dice: u32,
}

impl Slab {
    fn open(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.lists.push(Vec::new());
            self.lists.len() as u32 - 1
        })
    }

    /// Forgets all lists. Their lines must be forgotten, too.
    pub fn clear(&mut self) {
        self.free.clear();
        self.free.extend(0..self.lists.len() as u32);
        self.lists.iter_mut().for_each(Vec::clear);
        self.held = 0;
    }

    fn roll(&mut self) -> usize {
        self.dice = self
            .dice
            .wrapping_mul(0x9e37_79b1)
            .wrapping_add(0x7f4a_7c15);
        (self.dice >> 16) as usize
    }
}

/// Marks of records that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tags {
    pub own: u16,
    /// Of the launch that this one may run beside, which is the first of the two; or 0.
    pub primary: u16,
    /// Of the launch that may run beside this one; or 0.
    pub secondary: u16,
}

impl Tags {
    /// No other launch's records count.
    pub fn only(own: u16) -> Self {
        Tags {
            own,
            ..Tags::default()
        }
    }

    #[inline]
    fn count(self, tag: u16) -> bool {
        tag == self.own || tag != 0 && (tag == self.primary || tag == self.secondary)
    }
}

/// What a comparison of accesses depends on.
pub(super) struct Scene<'a> {
    pub clocks: &'a Clocks,
    pub me: Me,
    pub tags: Tags,
    /// Whether this is shared memory.
    pub shared: bool,
    pub grid: &'a Grid,
}

/// Two accesses that nothing orders, or a copy in flight.
pub(super) struct Found {
    pub what: What,
    pub other: Record,
    /// Of the line.
    pub byte: u32,
    /// The lane that makes the later access.
    pub lane: usize,
}

enum Verdict {
    /// The new access knows the old one.
    Known,
    /// Nothing orders them, which is no mistake.
    Forgiven,
    Wrong(What, u32),
}

impl Scene<'_> {
    fn is_stale(&self, record: &Record) -> bool {
        !self.tags.count(record.tag)
    }

    /// The first byte at which a lane of `new` doesn't know what `old` did.
    fn unknown(&self, old: &Record, new: &Record, bytes: u64) -> Option<u32> {
        if old.tag != self.tags.own {
            let known = old.tag == self.tags.primary
                && self.clocks.knows_primary(&self.me, new.lanes) == new.lanes;
            return (!known).then_some(bytes.trailing_zeros());
        }
        let proxied = new.has(PROXY) && !new.has(WRITE) && old.has(WRITE) && !old.has(PROXY);
        let same_warp = u64::from(old.block) == self.me.block
            && usize::from(old.warp) == self.me.warp
            && !proxied;
        if old.is_phase() {
            let (clocks, lanes) = (self.clocks, new.lanes);
            let known = clocks.knows_phase(&self.me, lanes, old.mbarrier(), old.step);
            return (lanes & !known != 0).then_some(bytes.trailing_zeros());
        }
        if !proxied && self.clocks.all_know(&self.me, old.stamp()) {
            return None;
        }
        let mut words = touched_words(bytes);
        let (mut last, mut fine) = ((0, 0), false);
        while words != 0 {
            let word = words.trailing_zeros() as usize % 16;
            words &= words - 1;
            let (theirs, mine) = (old.lanes_at(word), new.lanes_at(word));
            if same_warp && theirs == mine && theirs.is_power_of_two() {
                continue;
            }
            if last != (theirs, mine) {
                last = (theirs, mine);
                fine = self.know(old, theirs, mine, proxied);
            }
            if !fine {
                return Some((bytes & word_bytes(word)).trailing_zeros());
            }
        }
        None
    }

    fn know(&self, old: &Record, theirs: u32, mine: u32, proxied: bool) -> bool {
        let mut left = theirs;
        while left != 0 {
            let lane = left.trailing_zeros();
            left &= left - 1;
            let stamp = Stamp {
                lane,
                ..old.stamp()
            };
            let known = if proxied {
                self.clocks.knows_proxied(&self.me, mine, stamp)
            } else {
                self.clocks.knows(&self.me, mine, stamp)
            };
            if mine & !known != 0 {
                return false;
            }
        }
        true
    }

    /// Whether the scopes of two strong accesses include each other's thread.
    fn in_scope(&self, old: &Record, new: &Record) -> bool {
        let scope = |record: &Record| record.flags >> SCOPE_SHIFT & 3;
        let (block, other) = (self.me.block, u64::from(old.block));
        let needed = if old.tag != self.tags.own {
            2
        } else if block == other {
            0
        } else if self.grid.in_one_cluster(block, other) {
            1
        } else {
            2
        };
        scope(old) >= needed && scope(new) >= needed
    }

    /// Of several conflicts the one with the greatest rank is reported.
    fn rank(&self, old: &Record) -> u8 {
        let block = u64::from(old.block) != self.me.block || old.tag != self.tags.own;
        let warp = block || usize::from(old.warp) != self.me.warp;
        u8::from(block) << 2 | u8::from(warp) << 1 | u8::from(old.has(WRITE))
    }

    fn judge(&self, old: &Record, new: &Record, bytes: u64) -> Verdict {
        let (old_writes, writes) = (old.has(WRITE), new.has(WRITE));
        if !old_writes && !writes {
            let stands_for = u64::from(old.block) == self.me.block
                && old.tag == self.tags.own
                && !old.has(FLIGHT)
                && (!old.has(STRONG) || new.has(STRONG))
                && self.unknown(old, new, bytes).is_none();
            return if stands_for {
                Verdict::Known
            } else {
                Verdict::Forgiven
            };
        }
        let first = bytes.trailing_zeros();
        if old.has(FLIGHT) {
            // Atomic operations by bulk reductions, or others, on the same bytes.
            if old.has(ATOMIC) && new.has(ATOMIC) && self.in_scope(old, new) {
                return Verdict::Forgiven;
            }
            if !old_writes && new.has(SILENT) {
                return Verdict::Forgiven;
            }
            // A thread that copies to one place again has the later copy.
            let again = new.has(FLIGHT | WRITE)
                && (old.flags ^ new.flags) & PROXY == 0
                && old_writes
                && !new.has(PROXY)
                && old.tag == self.tags.own
                && u64::from(old.block) == self.me.block
                && usize::from(old.warp) == self.me.warp
                && old.lane_of(first) == new.lane_of(first);
            if again {
                return Verdict::Known;
            }
            let what = match (old_writes, old.has(PROXY)) {
                (true, false) => What::InFlight,
                (false, false) => What::SourceInFlight,
                (true, true) => What::AsyncWrite,
                (false, true) => What::AsyncRead,
            };
            return Verdict::Wrong(what, first);
        }
        if new.has(READ_ONLY) && !old.has(SILENT) && old.tag == self.tags.own {
            return Verdict::Wrong(What::ReadOnly, first);
        }
        let Some(byte) = self.unknown(old, new, bytes) else {
            return Verdict::Known;
        };
        if new.has(SILENT) || old.has(SILENT) && !writes {
            return Verdict::Forgiven;
        }
        let same_warp = old.tag == self.tags.own
            && u64::from(old.block) == self.me.block
            && usize::from(old.warp) == self.me.warp;
        if old.has(STRONG) && new.has(STRONG) {
            if !self.in_scope(old, new) {
                return Verdict::Wrong(What::Scopes, byte);
            }
            // Of global memory only those of a block that has done nothing to order its reads: a
            // last block's volatile reads after a ticket, or reads between two looks at a counter,
            // are right.
            let heeded = !self.shared && (!old_writes || self.clocks.heeds_order());
            let volatile =
                !heeded && old.has(VOLATILE) && new.has(VOLATILE) && old_writes != writes;
            if !volatile || same_warp {
                return Verdict::Forgiven;
            }
        }
        if new.has(SWAP) && !old_writes || old.has(SWAP) && !writes {
            return Verdict::Forgiven;
        }
        // If several lanes write in one instruction, one of them wins.
        if same_warp && old.pc == new.pc && old.step == new.step && old_writes && writes {
            return Verdict::Forgiven;
        }
        let what = match (old_writes, writes) {
            _ if old.is_phase() => What::PhaseNotSeen,
            _ if old_writes && !writes && new.has(PROXY) && !old.has(PROXY) => What::NotProxied,
            (true, _) if old.has(COPIED) && same_warp => What::Unsynchronised,
            (true, false) => What::ReadAfterWrite,
            (true, true) => What::WriteAfterWrite,
            (false, _) => What::WriteAfterRead,
        };
        Verdict::Wrong(what, byte)
    }
}

impl<const N: usize> Records<N> {
    /// The records in the line itself, and the list of the others.
    fn parts<'a>(
        &'a mut self,
        slab: &'a mut Slab,
        tags: Tags,
    ) -> (&'a mut [Record], &'a mut [Record]) {
        let more = &self.records[N - 1];
        if more.flags == MORE && tags.count(more.tag) {
            let list = slab.lists.get_mut(more.lanes as usize);
            return (
                &mut self.records[..N - 1],
                list.map_or(&mut [][..], Vec::as_mut_slice),
            );
        }
        (&mut self.records, &mut [])
    }

    /// Whether an ordinary write of a byte is remembered.
    pub(super) fn is_written_plainly(&mut self, slab: &mut Slab, tags: Tags, byte: u32) -> bool {
        let (near, far) = self.parts(slab, tags);
        near.iter().chain(&*far).any(|record| {
            let here = tags.count(record.tag) && record.bytes >> byte & 1 == 1;
            here && record.has(WRITE) && !record.has(PROXY)
        })
    }

    /// Compares an access with the earlier ones to the same bytes, and remembers it.
    pub(super) fn touch(
        &mut self,
        slab: &mut Slab,
        new: &Record,
        scene: &Scene<'_>,
    ) -> Result<(), Found> {
        let mut worst: Option<Found> = None;
        // What has happened between two accesses of which one is strong may order them.
        let (mut observable, mut witness) = (false, false);
        let mut seats = Seats::default();
        let (near, far) = self.parts(slab, scene.tags);
        for (at, old) in near.iter_mut().chain(far).enumerate() {
            if old.bytes == 0 || scene.is_stale(old) {
                seats.room.get_or_insert(at);
                continue;
            }
            if old.is_like(new) {
                seats.like.get_or_insert(at);
            }
            let bytes = old.bytes & new.bytes;
            if bytes == 0 {
                continue;
            }
            match scene.judge(old, new, bytes) {
                Verdict::Known => {
                    witness |= old.has(STRONG);
                    // A read doesn't stand for a write, nor a write that changes nothing for one
                    // that did.
                    let stands = if new.has(WRITE) {
                        !new.has(SILENT) || old.has(SILENT | WRITE)
                    } else {
                        !old.has(WRITE)
                    };
                    if stands && new.is_as_strict_as(old) {
                        old.bytes &= !bytes;
                        if old.bytes == 0 {
                            seats.room.get_or_insert(at);
                        }
                    }
                }
                Verdict::Forgiven => {}
                Verdict::Wrong(what, byte) => {
                    if old.has(STRONG) && !old.has(FLIGHT) && !new.has(STRONG) {
                        observable = true;
                    } else if worst
                        .as_ref()
                        .is_none_or(|last| scene.rank(&last.other) < scene.rank(old))
                    {
                        worst = Some(Found {
                            what,
                            other: *old,
                            byte,
                            lane: new.lane_of(byte),
                        });
                    }
                }
            }
        }
        if observable
            && !witness
            && let Some(found) = self.unobserved(slab, new, scene)
            && worst
                .as_ref()
                .is_none_or(|last| scene.rank(&last.other) < scene.rank(&found.other))
        {
            worst = Some(found);
        }
        if let Some(found) = worst {
            return Err(found);
        }
        self.remember(slab, new, scene.tags, seats, Some(scene));
        Ok(())
    }

    fn is_lossy(&self, tags: Tags) -> bool {
        let more = &self.records[N - 1];
        more.flags == MORE && tags.count(more.tag) && more.warp != 0
    }

    /// A conflict of a weak access with a strong one, unless another strong access to the same
    /// bytes lies between the two, the thread's own or one that it knows: what that one observed is
    /// known, too (PTX ISA section 8.9.5).
    #[cold]
    fn unobserved(&mut self, slab: &mut Slab, new: &Record, scene: &Scene<'_>) -> Option<Found> {
        if self.is_lossy(scene.tags) {
            return None;
        }
        let (near, far) = self.parts(slab, scene.tags);
        let strong = near
            .iter()
            .chain(far.iter())
            .filter(|old| old.bytes & new.bytes != 0 && !scene.is_stale(old))
            .filter(|old| old.has(STRONG) && !old.has(FLIGHT));
        let mut found = None;
        for old in strong {
            let bytes = old.bytes & new.bytes;
            scene.unknown(old, new, bytes)?;
            if let Verdict::Wrong(what, byte) = scene.judge(old, new, bytes) {
                found = Some(Found {
                    what,
                    other: *old,
                    byte,
                    lane: new.lane_of(byte),
                });
            }
        }
        found
    }

    /// A copy of `new`'s warp is over: `new` takes the place of its records in flight.
    pub(super) fn land(&mut self, slab: &mut Slab, new: &Record, scene: &Scene<'_>) {
        let mut new = *new;
        let (near, far) = self.parts(slab, scene.tags);
        for old in near.iter_mut().chain(far) {
            let bytes = old.bytes & new.bytes;
            let landed = bytes != 0
                && !scene.is_stale(old)
                && old.has(FLIGHT)
                && old.block == new.block
                && old.warp == new.warp
                && (old.flags ^ new.flags) & (WRITE | PROXY) == 0;
            if landed {
                new.pc = old.pc;
                old.bytes &= !bytes;
            }
        }
        let seats = self.seats(slab, &new, scene.tags);
        self.remember(slab, &new, scene.tags, seats, Some(scene));
    }

    /// An asynchronous operation is over: `ended` takes the place of what it `began` with.
    pub(super) fn end(&mut self, slab: &mut Slab, began: &Record, ended: &Record, tags: Tags) {
        let (near, far) = self.parts(slab, tags);
        let mut left = ended.bytes;
        for old in near.iter_mut().chain(far) {
            let same = old.tag == ended.tag
                && old.flags == began.flags
                && old.block == began.block
                && old.warp == began.warp
                && old.lanes == began.lanes
                && old.pc == began.pc;
            if same {
                let bytes = old.bytes & left;
                old.bytes &= !bytes;
                left &= !bytes;
            }
        }
        let mut ended = *ended;
        ended.pc = began.pc;
        let seats = self.seats(slab, &ended, tags);
        self.remember(slab, &ended, tags, seats, None);
    }

    fn seats(&mut self, slab: &mut Slab, new: &Record, tags: Tags) -> Seats {
        let mut seats = Seats::default();
        let (near, far) = self.parts(slab, tags);
        for (at, old) in near.iter().chain(far.iter()).enumerate() {
            if old.bytes == 0 || !tags.count(old.tag) {
                seats.room.get_or_insert(at);
            } else if old.is_like(new) {
                seats.like.get_or_insert(at);
            }
        }
        seats
    }

    /// `scene`: to tell what `new` stands for, where there is little room.
    fn remember(
        &mut self,
        slab: &mut Slab,
        new: &Record,
        tags: Tags,
        seats: Seats,
        scene: Option<&Scene<'_>>,
    ) {
        let tag = new.tag;
        let (near, far) = self.parts(slab, tags);
        let held = near.len();
        if let Some(at) = seats.like
            && let Some(old) = seat(near, far, at)
            && old.bytes != 0
            && old.merge(new)
        {
            return;
        }
        if let Some(at) = seats.room
            && let Some(place) = seat(near, far, at)
        {
            *place = *new;
            return;
        }
        if held == N {
            let list = slab.open();
            slab.lists[list as usize].push(self.records[N - 1]);
            slab.held += 1;
            self.records[N - 1] = Record {
                flags: MORE,
                lanes: list,
                tag,
                ..Record::default()
            };
        }
        let list = self.records[N - 1].lanes as usize;
        let most = if slab.held > SLAB { MOST_IF_FULL } else { MOST };
        if slab.lists[list].len() < most {
            slab.lists[list].push(*new);
            slab.held += 1;
            return;
        }
        match scene {
            Some(scene) => self.make_room(slab, list, new, scene),
            None => {
                slab.lists[list].push(*new);
                slab.held += 1;
            }
        }
    }

    /// The list is full: what `new` knows is dropped, else a read chosen at random, so that of many
    /// lines' readers each is found in some line.
    #[cold]
    fn make_room(&mut self, slab: &mut Slab, list: usize, new: &Record, scene: &Scene<'_>) {
        let dice = slab.roll();
        let records = &mut slab.lists[list];
        let before = records.len();
        records.retain(|old| {
            let droppable = !old.has(FLIGHT) && (old.flags ^ new.flags) & WRITE == 0;
            let covered = old.bytes & !new.bytes == 0;
            let stands = (!old.has(STRONG) || new.has(STRONG))
                && new.is_as_strict_as(old)
                && !new.has(SILENT);
            old.bytes != 0
                && !(droppable && covered && stands && scene.unknown(old, new, old.bytes).is_none())
        });
        if records.len() < before {
            slab.held -= before - records.len();
            slab.held += 1;
            records.push(*new);
            return;
        }
        let victims = |record: &Record| {
            let harmless = !record.has(WRITE) || record.has(SILENT) || record.has(STRONG);
            harmless && !record.has(FLIGHT)
        };
        let at = (0..records.len())
            .map(|step| (dice + step) % records.len())
            .find(|&at| victims(&records[at]));
        let Some(at) = at else {
            records.push(*new);
            slab.held += 1;
            return;
        };
        if records[at].has(STRONG) {
            self.records[N - 1].warp = 1;
        }
        records[at] = *new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_bytes() {
        assert_eq!(touched_words(0), 0);
        assert_eq!(touched_words(0xf), 1);
        assert_eq!(touched_words(0x8000_0000_0000_0010), 0x8002);
        assert_eq!(touched_words(u64::MAX), 0xffff);
        for word in 0..16 {
            assert_eq!(touched_words(word_bytes(word)), 1 << word);
        }
    }

    #[test]
    fn a_record_tells_lanes_apart_by_words() {
        let mut record = Record::default();
        assert!(record.add(3, 8, 4) && record.add(4, 12, 8));
        assert_eq!((record.lane_of(9), record.lane_of(19)), (3, 4));
        // Another lane's half of a word needs a record of its own.
        assert!(!record.add(5, 18, 2));
        let mut halves = Record::default();
        assert!(halves.add(0, 0, 2) && !halves.add(1, 2, 2));
    }

    #[test]
    fn lanes_that_touch_the_same_bytes_are_together() {
        let mut record = Record::default();
        assert!((0..32).all(|lane| record.add(lane, 16, 4)));
        assert_eq!((record.lanes, record.bytes), (u32::MAX, 0xf_0000));
        assert!(!record.add(0, 20, 4));
    }
}
