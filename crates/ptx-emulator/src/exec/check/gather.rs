//! The accesses of a warp's lanes in one instruction, gathered line by line before they are
//! compared with earlier ones.

use super::global::Locked;
use super::line::{Flags, LINE, Line, Record, SILENT, Scene, TOGETHER, Tags, span};
use super::shared::lines;
use super::spot::Spot;
use super::{Checks, Conflict, Me, report};
use crate::exec::interpret::Run;
use crate::exec::registers::{LANES, Wides, lanes};
use crate::exec::trap::Outcome;

/// Where a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its number in the block's shared memory.
    Shared(usize),
    /// Of another block of the cluster, and its number there.
    Peer(u32, usize),
    /// The line and its address.
    Global(*mut Line, u64),
}

impl Place {
    fn slot(self) -> usize {
        match self {
            Place::Shared(line) | Place::Peer(_, line) => line % SLOTS,
            Place::Global(_, va) => (va / LINE) as usize % SLOTS,
        }
    }
}

/// How many records back one of the same place is looked for.
const BACK: usize = 4;

/// Places that are told apart at a glance.
const SLOTS: usize = 64;

/// Lanes side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneRun {
    pub first: usize,
    pub count: usize,
}

impl LaneRun {
    /// The first of `left`, as far as their addresses lie side by side.
    #[inline]
    pub fn of(left: u32, targets: &Wides, bytes: u32) -> LaneRun {
        let first = left.trailing_zeros() as usize % LANES;
        let most = (!(left >> first)).trailing_zeros() as usize;
        let most = most.min(LANES - first);
        let mut count = 1;
        while count < most
            && targets[first + count] == targets[first + count - 1].wrapping_add(u64::from(bytes))
        {
            count += 1;
        }
        LaneRun { first, count }
    }

    pub fn lanes(self) -> std::ops::Range<usize> {
        self.first..self.first + self.count
    }

    pub fn mask(self) -> u32 {
        (u32::MAX >> (LANES - self.count.clamp(1, LANES))) << self.first
    }
}

/// The records of one instruction.
pub(super) struct Gathered {
    open: Vec<(Place, Record)>,
    /// For places by a part of their number: one more than the latest record there.
    slots: [u8; SLOTS],
}

// SAFETY: the lines belong to shadows of allocations that the launch keeps alive, and are only
// touched with their lock held.
unsafe impl Send for Gathered {}

impl Default for Gathered {
    fn default() -> Self {
        Gathered {
            open: Vec::new(),
            slots: [0; SLOTS],
        }
    }
}

/// What becomes of the records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are compared with the earlier ones and remembered.
    Touch,
    /// They take the place of those in flight of the same warp.
    Land,
}

/// Makes a lane's store, or tells at least whether it changes anything: if not, true.
pub(super) type Settle<'a> = &'a mut dyn FnMut(usize) -> bool;

impl Gathered {
    /// Adds a lane's access. `like` is a record without bytes.
    pub fn add(&mut self, spot: &Spot<'_>, lane: usize, bytes: u32, like: &Record) {
        each_line(spot, bytes, |place, first, count| {
            self.put(place, lane, first, count, like);
        });
    }

    /// Adds the accesses of lanes side by side to bytes side by side.
    pub fn add_run(&mut self, spot: &Spot<'_>, run: LaneRun, bytes: u32, like: &Record) {
        if bytes < 4 || !bytes.is_power_of_two() {
            for (step, lane) in run.lanes().enumerate() {
                let spot = spot.behind(step as u64 * u64::from(bytes));
                self.add(&spot, lane, bytes, like);
            }
            return;
        }
        let mut lane = run.first;
        each_line(spot, bytes * run.count as u32, |place, first, count| {
            let here = LaneRun {
                first: lane,
                count: (count / bytes) as usize,
            };
            lane += here.count;
            if first % bytes != 0 || count % bytes != 0 {
                // It will fault.
                return;
            }
            if let Some(record) = self.latest(place)
                && record.flags == like.flags
                && record.step == like.step
                && record.add_lanes(here, first, bytes)
            {
                return;
            }
            let mut record = *like;
            record.add_lanes(here, first, bytes);
            self.push(place, record);
        });
    }

    /// Adds bytes that all lanes of `lanes` access, each of them all.
    pub fn add_together(&mut self, spot: &Spot<'_>, bytes: u32, lanes: u32, like: &Record) {
        let like = Record {
            flags: like.flags | TOGETHER,
            lanes,
            ..*like
        };
        each_line(spot, bytes, |place, first, count| {
            let bytes = span(first, count);
            if let Some(record) = self.latest(place)
                && record.flags == like.flags
                && record.step == like.step
            {
                record.bytes |= bytes;
                return;
            }
            self.push(place, Record { bytes, ..like });
        });
    }

    /// The latest record of a place, if it is at hand.
    fn latest(&mut self, place: Place) -> Option<&mut Record> {
        let at = self.slots[place.slot()].checked_sub(1)?;
        let (found, record) = self.open.get_mut(usize::from(at))?;
        (*found == place).then_some(record)
    }

    fn push(&mut self, place: Place, record: Record) {
        self.open.push((place, record));
        self.slots[place.slot()] = self.open.len().min(255) as u8;
    }

    fn put(&mut self, place: Place, lane: usize, first: u32, count: u32, like: &Record) {
        if let Some(record) = self.latest(place)
            && record.flags & !TOGETHER == like.flags
            && record.step == like.step
            && record.add(lane, first, count)
        {
            return;
        }
        // Lanes that share words have records of their own.
        for (at, record) in self.open.iter_mut().rev().take(BACK) {
            if *at == place
                && record.flags & !TOGETHER == like.flags
                && record.step == like.step
                && record.add(lane, first, count)
            {
                return;
            }
        }
        let mut record = *like;
        record.add(lane, first, count);
        self.push(place, record);
    }

    fn clear(&mut self) {
        self.open.clear();
        self.slots = [0; SLOTS];
    }
}

/// Calls `f` with each line that an access touches, the first byte in it, and how many.
fn each_line(spot: &Spot<'_>, bytes: u32, mut f: impl FnMut(Place, u32, u32)) {
    let offset = match *spot {
        Spot::Shared(at) | Spot::Peer(_, at) => at,
        Spot::Global(a, va) => va - a.base,
        Spot::Local(_) | Spot::None => return,
    };
    for (line, first, count) in lines(offset, u64::from(bytes)) {
        let place = match *spot {
            Spot::Global(a, _) => match a.shadow.line(line) {
                Some(at) => Place::Global(at, a.base + line * LINE),
                None => return,
            },
            Spot::Peer(rank, _) => Place::Peer(rank, line as usize),
            _ => Place::Shared(line as usize),
        };
        f(place, first, count);
    }
}

impl Run<'_, '_, '_> {
    /// A record of this instruction without bytes.
    pub(super) fn blank(&self, checks: &Checks, me: &Me, flags: Flags) -> Record {
        Record {
            step: checks.clocks.now(me.warp),
            block: me.block as u32,
            pc: me.pc as u32,
            flags,
            warp: me.warp as u8,
            ..Record::default()
        }
    }

    /// Compares what was gathered with earlier accesses, and remembers it.
    pub(super) fn commit(
        &mut self,
        checks: &mut Checks,
        me: &Me,
        gathered: &mut Gathered,
        fate: Fate,
        mut settle: Option<Settle<'_>>,
    ) -> Outcome {
        let launch = self.launch;
        let Some(between) = &launch.checks else {
            return Ok(());
        };
        // Stamps have 32 bits for a block.
        if me.block > u64::from(u32::MAX) {
            gathered.clear();
            return Ok(());
        }
        let Checks { clocks, shared, .. } = checks;
        let mut scene = Scene {
            clocks,
            me: *me,
            tags: Tags::default(),
            shared: true,
            grid: &launch.grid,
        };
        gathered.slots = [0; SLOTS];
        for (place, mut record) in gathered.open.drain(..) {
            let (mut slab, mut locked);
            let other;
            let (space, shared, line) = match place {
                Place::Shared(line) => ("shared", Some(&mut *shared), line),
                Place::Peer(rank, line) => {
                    other = self.peers.core(rank as usize);
                    let Some(checks) = other.and_then(|core| core.checks.as_mut()) else {
                        continue;
                    };
                    ("shared", Some(&mut checks.shared), line)
                }
                Place::Global(..) => ("global", None, 0),
            };
            scene.shared = shared.is_some();
            scene.tags = shared
                .as_ref()
                .map_or(between.tags(), |shared| shared.tags());
            record.tag = scene.tags.own;
            let done = match (shared, place) {
                (Some(shared), _) if fate == Fate::Land => {
                    shared.land(line, &record, &scene);
                    Ok(())
                }
                (Some(shared), _) => divide(record, &mut settle, &mut |record| {
                    shared.touch(line, record, &scene)
                }),
                (None, Place::Global(line, va)) => {
                    slab = between.lock(va);
                    // SAFETY: `each_line` got the line from the shadow of an allocation that the
                    // launch keeps alive, at this address.
                    locked = unsafe { Locked::new(line, &mut slab, va) };
                    if fate == Fate::Land {
                        locked.land(&record, &scene);
                        Ok(())
                    } else {
                        divide(record, &mut settle, &mut |record| {
                            locked.touch(record, &scene)
                        })
                    }
                }
                (None, _) => Ok(()),
            };
            if let Err(found) = done {
                return Err(report::conflict(launch, space, me, &found));
            }
        }
        Ok(())
    }
}

/// Parts a store's record into what changes something and what doesn't.
fn divide(
    mut record: Record,
    settle: &mut Option<Settle<'_>>,
    touch: &mut dyn FnMut(&Record) -> Result<(), Conflict>,
) -> Result<(), Conflict> {
    let Some(settle) = settle else {
        return touch(&record);
    };
    let mut silent = 0;
    for lane in lanes(record.lanes) {
        silent |= u32::from(settle(lane)) << lane;
    }
    if silent == 0 || record.is_together() {
        if silent != 0 && silent == record.lanes {
            record.flags |= SILENT;
        }
        return touch(&record);
    }
    let parts = [(record.lanes & !silent, 0), (record.lanes & silent, SILENT)];
    for (lanes, flag) in parts.into_iter().filter(|(lanes, _)| *lanes != 0) {
        let mut part = record;
        part.lanes = lanes;
        part.flags |= flag;
        for word in 0..16 {
            if lanes >> (record.lane[word] % 32) & 1 == 0 {
                part.bytes &= !span(4 * word as u32, 4);
            }
        }
        touch(&part)?;
    }
    Ok(())
}
