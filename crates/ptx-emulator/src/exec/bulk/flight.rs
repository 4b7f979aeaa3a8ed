//! Bulk copies in flight: those on their way into a block's shared memory, which complete on its
//! mbarriers, and those on their way out of it, which complete in groups of the issuing thread.

use std::sync::Arc;

use super::reduce::reduce;
use super::tile::{LINE, Swizzle, Tile};
use crate::decode::op::Reduce;
use crate::exec::check::proxy::Flight;
use crate::exec::launch::Launch;
use crate::exec::registers::{LANES, lanes};

/// Who issued a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issuer {
    /// Number of the block.
    pub block: u64,
    pub warp: usize,
    pub lane: usize,
    pub pc: usize,
}

/// What the checks keep of a copy: the bytes that it reads and those that it writes.
#[derive(Default)]
pub(super) struct Flights {
    pub reads: Option<Flight>,
    pub writes: Option<Flight>,
}

/// A copy into a block's shared memory.
pub(crate) struct Arrival {
    pub(super) tile: Arc<Tile>,
    pub(super) reduce: Option<Reduce>,
    /// Where in the block's shared memory.
    pub to: u32,
    /// Where the mbarrier is in the block's shared memory.
    pub mbarrier: u32,
    pub by: Issuer,
    pub(super) flights: Flights,
}

impl Arrival {
    /// Bytes that it completes on its mbarrier: those outside of the tensor count too.
    pub fn bytes(&self) -> u32 {
        self.tile.bytes()
    }

    /// What to say of a block that has exited before the copy was complete.
    pub fn left_behind(&self, launch: &Launch<'_>) -> String {
        let line = launch
            .kernel
            .places
            .get(self.by.pc)
            .map_or(0, |place| place.ptx_line);
        format!(
            "bulk copy in flight: the block exits while {} bytes issued at PTX line {line} are on \
             their way to its shared memory at {:#x}; wait for the mbarrier at {:#x} first",
            self.bytes(),
            self.to,
            self.mbarrier
        )
    }

    /// # Safety
    /// `shared` must be the destination's memory, and the sources must still be valid.
    pub(super) unsafe fn land(&self, shared: *mut u8) {
        match self.reduce {
            // SAFETY: the place was checked when the copy was issued; the caller vouches for the
            // rest.
            None => unsafe { self.tile.load(shared, self.to) },
            Some(how) => {
                for row in &self.tile.rows {
                    // SAFETY: as above; a reduction has one row and no swizzle.
                    unsafe {
                        let to = shared.add(self.to as usize) as usize;
                        let from =
                            std::slice::from_raw_parts(row.host as *const u8, row.bytes as usize);
                        reduce(how, to, from);
                    }
                }
            }
        }
    }
}

/// The copies in flight into a block's shared memory, oldest first.
#[derive(Default)]
pub(crate) struct Inbound {
    arrivals: Vec<Arrival>,
    /// For each 128 bytes of shared memory, how the last box that was written there lies in it.
    /// Empty until there was one.
    written: Vec<Option<Swizzle>>,
}

impl Inbound {
    pub fn clear(&mut self) {
        self.arrivals.clear();
        self.written.fill(None);
    }

    pub fn push(&mut self, arrival: Arrival) {
        self.arrivals.push(arrival);
    }

    pub fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    pub fn first(&self) -> Option<&Arrival> {
        self.arrivals.first()
    }

    /// Takes the oldest copy that completes on an mbarrier.
    pub fn next(&mut self, mbarrier: u32) -> Option<Arrival> {
        let at = self
            .arrivals
            .iter()
            .position(|arrival| arrival.mbarrier == mbarrier)?;
        Some(self.arrivals.remove(at))
    }

    /// Notes how an arrival's bytes lie in shared memory.
    pub(super) fn note(&mut self, arrival: &Arrival, shared_bytes: usize) {
        let swizzle = arrival.tile.swizzle;
        if self.written.is_empty() {
            if swizzle == Swizzle::None {
                return;
            }
            self.written = vec![None; shared_bytes.div_ceil(LINE as usize)];
        }
        let first = (arrival.to / LINE) as usize;
        let last = (arrival.to + arrival.bytes()).div_ceil(LINE) as usize;
        if let Some(lines) = self.written.get_mut(first..last) {
            lines.fill(Some(swizzle));
        }
    }

    /// How the box that was last written at `offset` of shared memory lies there; `None` if no box
    /// with a swizzle has been written in this block, or none there.
    pub fn written_swizzle(&self, offset: u32) -> Option<Swizzle> {
        self.written
            .get((offset / LINE) as usize)
            .copied()
            .flatten()
    }
}

/// A copy out of shared memory.
pub(crate) struct Departure {
    pub(super) tile: Tile,
    pub(super) reduce: Option<Reduce>,
    /// Where in the block's shared memory.
    pub from: u32,
    /// What it has read there.
    data: Option<Vec<u8>>,
    has_landed: bool,
    pub(super) flights: Flights,
    /// Groups that its thread had committed before it.
    group: u32,
    pub by: Issuer,
}

impl Departure {
    pub(super) fn new(
        tile: Tile,
        reduce: Option<Reduce>,
        from: u32,
        by: Issuer,
        flights: Flights,
    ) -> Self {
        Departure {
            tile,
            reduce,
            from,
            data: None,
            has_landed: false,
            flights,
            group: 0,
            by,
        }
    }

    /// # Safety
    /// `shared` must be the memory of the issuing block.
    pub(super) unsafe fn read(&mut self, shared: *const u8) {
        if self.data.is_none() {
            // SAFETY: the place was checked when the copy was issued.
            self.data = Some(unsafe { self.tile.read(shared, self.from) });
        }
    }

    /// # Safety
    /// As for [`Self::read`]; the destination's memory must still be there.
    pub(super) unsafe fn land(&mut self, shared: *const u8) {
        if std::mem::replace(&mut self.has_landed, true) {
            return;
        }
        // SAFETY: the caller vouches for both.
        unsafe { self.read(shared) };
        for (row, bytes) in self.tile.rows_of(self.data.as_deref().unwrap_or_default()) {
            // SAFETY: as above; the row was found in an allocation when the copy was issued.
            unsafe {
                match self.reduce {
                    None => {
                        let to = row.host as *mut u8;
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
                    }
                    Some(how) => reduce(how, row.host, bytes),
                }
            }
        }
    }
}

/// The copies out of shared memory that a warp's threads have in flight, oldest first.
#[derive(Default)]
pub(crate) struct Outbound {
    departures: Vec<Departure>,
    /// Bulk groups that each lane has committed.
    committed: [u32; LANES],
}

impl Outbound {
    pub fn clear(&mut self) {
        self.departures.clear();
        self.committed = [0; LANES];
    }

    pub fn push(&mut self, mut departure: Departure) {
        departure.group = self.committed[departure.by.lane];
        self.departures.push(departure);
    }

    pub fn commit(&mut self, mask: u32) {
        for lane in lanes(mask) {
            self.committed[lane] += 1;
        }
    }

    /// Takes the copies that a wait for all but the newest `keep` groups of each lane is for.
    pub fn take_due(&mut self, mask: u32, keep: u32) -> Vec<Departure> {
        let committed = self.committed;
        let is_due = |departure: &Departure| {
            let lane = departure.by.lane;
            mask >> lane & 1 == 1 && departure.group < committed[lane].saturating_sub(keep)
        };
        let (due, left) = std::mem::take(&mut self.departures)
            .into_iter()
            .partition(is_due);
        self.departures = left;
        due
    }

    /// The copies that have only read their sources come back.
    pub fn put_back(&mut self, departures: Vec<Departure>) {
        self.departures.splice(0..0, departures);
    }

    /// Lands everything, which remains to be waited for. True if anything has not landed before.
    ///
    /// # Safety
    /// `shared` must be the memory of the warp's block, and the launch's global memory still there.
    pub unsafe fn land_all(&mut self, shared: *const u8) -> bool {
        let mut any = false;
        for departure in &mut self.departures {
            any |= !departure.has_landed;
            // SAFETY: the caller vouches for the memory.
            unsafe { departure.land(shared) };
        }
        any
    }

    /// The block is over.
    pub fn take_all(&mut self) -> Vec<Departure> {
        std::mem::take(&mut self.departures)
    }
}
