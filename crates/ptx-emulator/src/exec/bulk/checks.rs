//! What the checks know of bulk copies: the bytes in flight, and which of them are defined.

use super::flight::{Arrival, Departure, Flights};
use super::tile::{CHUNK, Row, Tile};
use crate::exec::block::Core;
use crate::exec::check::proxy::{self, Flight, Piece};
use crate::exec::interpret::Run;
use crate::exec::launch::Launch;
use crate::exec::space::Spot;
use crate::exec::trap::Trap;

fn global_pieces(tile: &Tile) -> impl Iterator<Item = Piece> {
    let rows = tile.rows.iter().filter(|row| row.bytes > 0);
    rows.map(|row| Piece::Global {
        va: row.va,
        bytes: u64::from(row.bytes),
    })
}

fn shared_pieces(tile: &Tile, rank: usize, start: u32) -> Vec<Piece> {
    let mut out = Vec::new();
    tile.each_place(start, |offset, bytes| {
        out.push(Piece::Shared {
            rank: rank as u32,
            offset: u64::from(offset),
            bytes: u64::from(bytes),
        });
    });
    out
}

impl Run<'_, '_, '_> {
    /// A copy begins to read its source: global memory, or this block's shared memory.
    pub(super) fn begin_source(
        &mut self,
        lane: usize,
        tile: &Tile,
    ) -> Result<Option<Flight>, Box<Trap>> {
        if self.core.checks.is_none() {
            return Ok(None);
        }
        let pieces: Vec<Piece> = match own_offset(self.core, tile) {
            Some(offset) => shared_pieces(tile, self.peers.rank(), offset),
            None => global_pieces(tile).collect(),
        };
        self.async_read_begin(1 << lane, pieces).map(Some)
    }

    /// A copy begins to write shared memory of the block `rank` of the cluster.
    pub(super) fn begin_destination(
        &mut self,
        lane: usize,
        tile: &Tile,
        reduces: bool,
        rank: usize,
        to: u32,
    ) -> Result<Option<Flight>, Box<Trap>> {
        if self.core.checks.is_none() {
            return Ok(None);
        }
        let pieces = shared_pieces(tile, rank, to);
        self.begin_write(lane, pieces, reduces).map(Some)
    }

    fn begin_write(
        &mut self,
        lane: usize,
        pieces: impl IntoIterator<Item = Piece>,
        reduces: bool,
    ) -> Result<Flight, Box<Trap>> {
        if reduces {
            self.async_reduce_begin(1 << lane, pieces)
        } else {
            self.async_write_begin(1 << lane, pieces)
        }
    }

    /// A copy out of this block's shared memory begins.
    pub(super) fn begin_departure(
        &mut self,
        lane: usize,
        tile: &Tile,
        reduces: bool,
        from: u32,
    ) -> Result<Flights, Box<Trap>> {
        if self.core.checks.is_none() {
            return Ok(Flights::default());
        }
        let reads = shared_pieces(tile, self.peers.rank(), from);
        let reads = self.async_read_begin(1 << lane, reads)?;
        let writes = self.begin_write(lane, global_pieces(tile), reduces)?;
        Ok(Flights {
            reads: Some(reads),
            writes: Some(writes),
        })
    }

    /// A copy has landed in shared memory of the block of `spot`, where its mbarrier is.
    pub(super) fn end_arrival(&mut self, spot: Spot, mut arrival: Arrival) {
        let flights = std::mem::take(&mut arrival.flights);
        let rank = spot.rank as usize;
        let own = rank == self.peers.rank();
        let target = if own {
            Some(&mut *self.core)
        } else {
            self.peers.core(rank)
        };
        let Some((number, phase)) = target.and_then(|core| core.phase_of(arrival.mbarrier)) else {
            return;
        };
        for flight in [flights.reads, flights.writes].into_iter().flatten() {
            proxy::complete(
                self.core,
                &mut self.peers,
                self.launch,
                flight,
                number,
                phase,
            );
        }
        let target = if own {
            Some(&mut *self.core)
        } else {
            self.peers.core(rank)
        };
        if let Some(core) = target {
            undefine(self.launch, core, &arrival);
        }
    }

    /// The warp has waited for a copy of its own.
    pub(super) fn end_departure(&mut self, departure: &mut Departure, only_read: bool) {
        let lanes = 1 << departure.by.lane;
        if let Some(flight) = departure.flights.reads.take() {
            self.async_end(lanes, flight);
        }
        if only_read {
            return;
        }
        if let Some(flight) = departure.flights.writes.take() {
            self.async_end(lanes, flight);
        }
        define_rows(self.launch, self.core, departure);
    }
}

/// Where in the block's shared memory a copy's source is; `None` if it is in global memory.
fn own_offset(core: &mut Core, tile: &Tile) -> Option<u32> {
    let row = tile
        .rows
        .first()
        .filter(|row| row.va == 0 && row.host != 0)?;
    let start = core.shared.pointer() as usize;
    u32::try_from(row.host.checked_sub(start)?).ok()
}

/// Calls `f` with each part of a row that lies within a chunk of shared memory: where it is there
/// without swizzling, bytes from the row's start, and how many.
fn each_part(start: u32, row: &Row, mut f: impl FnMut(u32, u32, u32)) {
    let mut done = 0;
    while done < row.bytes {
        let bytes = (CHUNK - (start + done) % CHUNK).min(row.bytes - done);
        f(start + done, done, bytes);
        done += bytes;
    }
}

fn all(bytes: u32) -> u64 {
    u64::MAX >> (64 - bytes)
}

/// Bytes that a copy has brought from global memory where nothing had been written hold nothing.
fn undefine(launch: &Launch<'_>, core: &mut Core, arrival: &Arrival) {
    let Some(checks) = &mut core.checks else {
        return;
    };
    let tile = &arrival.tile;
    for (index, row) in tile.rows.iter().enumerate() {
        let Some(found) = launch.map.find(row.va).filter(|_| row.bytes > 0) else {
            continue;
        };
        let start = arrival.to + index as u32 * tile.row_bytes + row.lead;
        each_part(start, row, |place, skip, bytes| {
            let at = row.va - found.base + u64::from(skip);
            let bits = found.shadow.defined(at, bytes);
            if bits != all(bytes) {
                let place = tile.swizzle.place(place);
                checks.set_shared_defined(u64::from(place), bytes, bits);
            }
        });
    }
}

/// What a copy out of shared memory leaves in global memory is as defined as its source.
pub(super) fn define_rows(launch: &Launch<'_>, core: &Core, departure: &Departure) {
    let tile = &departure.tile;
    for (index, row) in tile.rows.iter().enumerate() {
        let Some(found) = launch.map.find(row.va).filter(|_| row.bytes > 0) else {
            continue;
        };
        let first = row.va - found.base;
        found.shadow.define(first, u64::from(row.bytes));
        let Some(checks) = core.checks.as_ref().filter(|_| departure.reduce.is_none()) else {
            continue;
        };
        let start = departure.from + index as u32 * tile.row_bytes + row.lead;
        each_part(start, row, |place, skip, bytes| {
            let place = tile.swizzle.place(place);
            let bits = checks.shared_defined(u64::from(place), bytes);
            for byte in (0..bytes).filter(|byte| bits >> byte & 1 == 0) {
                let at = first + u64::from(skip + byte);
                found.shadow.undefine(at, 1);
            }
        });
    }
}
