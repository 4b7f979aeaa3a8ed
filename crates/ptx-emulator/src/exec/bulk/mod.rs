//! Bulk asynchronous copies: `cp.async.bulk`, its tensor forms and its reductions (PTX ISA section
//! 9.7.9.25.4).
//!
//! A copy is checked when it is issued. Its data moves at the latest legal moment: when a thread
//! looks at its mbarrier or waits for its group, at the end of the block, or when nothing else can
//! go on. So a kernel that forgets to wait sees what was there before.

mod checks;
mod element;
mod flight;
mod maps;
mod operands;
mod reduce;
mod tile;

use std::sync::Arc;

use self::flight::Flights;
pub(crate) use self::flight::{Arrival, Departure, Inbound, Issuer, Outbound};
pub(crate) use self::maps::ChangedMaps;
use self::operands::Operands;
pub(crate) use self::tile::Swizzle;
use self::tile::{Refusal, Tile};
use super::block::Core;
use super::count::Moved;
use super::fault::FaultKind;
use super::interpret::{Run, first_lane, list};
use super::launch::Launch;
use super::registers::{LANES, lanes};
use super::space::Spot;
use super::trap::{Outcome, Trap};
use crate::decode::op::{AtomicOp, Bulk, Inst, Reduce, Window};
use crate::l2::Use;

/// What shared addresses of boxes must be multiples of.
const BOX_ALIGNMENT: u32 = 128;
/// What the addresses and sizes of other copies must be multiples of.
const GRANULE: u32 = 16;
const MBARRIER_BYTES: u32 = 8;

impl Run<'_, '_, '_> {
    #[cold]
    #[inline(never)]
    pub(super) fn bulk(&mut self, inst: &Inst, active: u32, op: Bulk) -> Outcome {
        match op {
            Bulk::Commit => self.warp.bulk.commit(active),
            Bulk::Wait { read } => self.wait_bulk(active, inst.imm.cast_unsigned(), read),
            Bulk::PublishMap => {
                let lane = first_lane(active);
                self.publish_map(&mut self.operands(inst, lane), lane)?;
            }
            Bulk::Store { reduce: None } | Bulk::StoreTile { reduce: None, .. } => {
                for lane in lanes(self.different(inst, active)) {
                    self.bulk_lane(inst, lane, op)?;
                }
            }
            _ => {
                for lane in lanes(active) {
                    self.bulk_lane(inst, lane, op)?;
                }
            }
        }
        self.core.changes += 1;
        Ok(())
    }

    /// The first of the lanes that give the same operands. All lanes of a warp may issue one and
    /// the same store, as CUTLASS's epilogues do: it is done once, and belongs to that lane.
    fn different(&self, inst: &Inst, active: u32) -> u32 {
        let uses = &list(self.launch, inst).uses;
        let values: Vec<_> = uses.iter().map(|&reg| self.warp.regs.any(reg)).collect();
        lanes(active).fold(0, |first, lane| {
            let known = lanes(first).any(|other| values.iter().all(|v| v[other] == v[lane]));
            first | u32::from(!known) << lane
        })
    }

    fn operands(&self, inst: &Inst, lane: usize) -> Operands {
        Operands::new(&self.warp.regs, &list(self.launch, inst).uses, lane)
    }

    fn bulk_lane(&mut self, inst: &Inst, lane: usize, op: Bulk) -> Outcome {
        let mut operands = self.operands(inst, lane);
        match op {
            Bulk::Load { multicast } => {
                let (to, from) = (operands.address(), operands.address());
                let (size, mbarrier) = (operands.word(), operands.address());
                let mask = multicast.then(|| operands.word());
                let host = self.global_bytes(lane, from, size)?;
                let tile = Tile::flat(from, host, size);
                self.deliver(lane, tile, None, Route { to, mbarrier, mask }, GRANULE)
            }
            Bulk::Send { reduce } => {
                let (to, from) = (operands.address(), operands.address());
                let (size, mbarrier) = (operands.word(), operands.address());
                aligned("the size", lane, u64::from(size), GRANULE)?;
                let from = self.own_place(lane, from, size, GRANULE)?;
                let host = self.core.shared.pointer() as usize + from as usize;
                let tile = Tile::flat(0, host, size);
                let route = Route {
                    to,
                    mbarrier,
                    mask: None,
                };
                self.deliver(lane, tile, reduce, route, GRANULE)
            }
            Bulk::LoadTile { rank, multicast } => {
                let (to, map) = (operands.address(), operands.address());
                let start = operands.coordinates(rank);
                let mbarrier = operands.address();
                let mask = multicast.then(|| operands.word());
                let tile = self.tile(lane, map, &start)?;
                self.deliver(
                    lane,
                    tile,
                    None,
                    Route { to, mbarrier, mask },
                    BOX_ALIGNMENT,
                )
            }
            Bulk::Store { reduce } => {
                let (to, from, size) = (operands.address(), operands.address(), operands.word());
                let host = self.global_bytes(lane, to, size)?;
                self.depart(lane, Tile::flat(to, host, size), reduce, from, GRANULE)
            }
            Bulk::StoreTile { rank, reduce } => {
                let (map, from) = (operands.address(), operands.address());
                let start = operands.coordinates(rank);
                let reduce = match reduce {
                    Some(op) => Some(self.element_reduction(lane, map, op)?),
                    None => None,
                };
                let tile = self.tile(lane, map, &start)?;
                self.depart(lane, tile, reduce, from, BOX_ALIGNMENT)
            }
            Bulk::Prefetch => {
                let (from, size) = (operands.address(), operands.word());
                let host = self.global_bytes(lane, from, size)?;
                self.count_bulk(&Tile::flat(from, host, size), Use::Read, 0);
                Ok(())
            }
            Bulk::PrefetchTile { rank } => {
                let map = operands.address();
                let tile = self.tile(lane, map, &operands.coordinates(rank))?;
                self.count_bulk(&tile, Use::Read, 0);
                Ok(())
            }
            Bulk::Replace { window, field } => {
                self.replace_field(&mut operands, lane, window, field)
            }
            Bulk::Commit | Bulk::Wait { .. } | Bulk::PublishMap => Ok(()),
        }
    }

    /// Checks a copy's bytes in global memory and finds them.
    fn global_bytes(&mut self, lane: usize, va: u64, size: u32) -> Result<usize, Box<Trap>> {
        aligned("the size", lane, u64::from(size), GRANULE)?;
        aligned("the global address", lane, va, GRANULE)?;
        if size == 0 {
            return Ok(0);
        }
        self.worker.global.range(lane, va, u64::from(size))
    }

    /// The box of a tensor map at `start`.
    fn tile(&mut self, lane: usize, map: u64, start: &[i64]) -> Result<Tile, Box<Trap>> {
        let map = self.tensor_map(lane, map)?;
        let global = &mut self.worker.global;
        Tile::of_box(&map, start, |va, bytes| global.range(lane, va, bytes)).map_err(|refusal| {
            match refusal {
                Refusal::Reason(reason) => illegal(lane, reason),
                Refusal::Trap(trap) => trap,
            }
        })
    }

    fn element_reduction(
        &mut self,
        lane: usize,
        map: u64,
        op: AtomicOp,
    ) -> Result<Reduce, Box<Trap>> {
        let map = self.tensor_map(lane, map)?;
        element::reduction(&map, op).map_err(|reason| illegal(lane, reason))
    }

    fn issuer(&self, lane: usize) -> Issuer {
        Issuer {
            block: self.core.linear,
            warp: self.warp.index as usize,
            lane,
            pc: self.group.pc as usize,
        }
    }

    /// Sends a copy to the shared memory of the blocks that are meant.
    fn deliver(
        &mut self,
        lane: usize,
        tile: Tile,
        reduce: Option<Reduce>,
        route: Route,
        alignment: u32,
    ) -> Outcome {
        let (rank, to) = self.place(lane, route.to, tile.span(), alignment)?;
        let (home, mbarrier) = self.place(lane, route.mbarrier, MBARRIER_BYTES, MBARRIER_BYTES)?;
        if route.mask.is_none() && home != rank {
            return Err(illegal(
                lane,
                format!(
                    "the copy goes to block {rank} of the cluster, its mbarrier is in block \
                     {home}: they must be in the same block"
                ),
            ));
        }
        let targets = match route.mask {
            Some(mask) => self.targets(lane, mask)?,
            None => 1 << rank,
        };
        self.count_bulk(&tile, Use::Read, targets.count_ones());
        let (tile, by) = (Arc::new(tile), self.issuer(lane));
        let mut reads = self.begin_source(lane, &tile)?;
        for rank in lanes(targets) {
            let spot = Spot {
                rank: rank as u32,
                offset: mbarrier,
            };
            self.check_mbarriers(1 << lane, &[spot; LANES])?;
            self.on(spot, lane, |core, at| core.is_mbarrier(at))?;
            let arrival = Arrival {
                flights: Flights {
                    reads: reads.take(),
                    writes: self.begin_destination(lane, &tile, reduce.is_some(), rank, to)?,
                },
                tile: Arc::clone(&tile),
                reduce,
                to,
                mbarrier,
                by,
            };
            if self.launch.early_copies {
                self.arrive_bulk(spot, lane, arrival)?;
            } else {
                self.on(spot, lane, |core, _| {
                    core.changes += 1;
                    core.bulk.push(arrival);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Lands the oldest copy that completes on an mbarrier of the block. True if there was one.
    pub(super) fn land_next_bulk(&mut self, spot: Spot, lane: usize) -> Result<bool, Box<Trap>> {
        match self.core.bulk.next(spot.offset) {
            Some(arrival) => self.arrive_bulk(spot, lane, arrival).map(|()| true),
            None => Ok(false),
        }
    }

    /// Lands a copy whose mbarrier is at `spot`.
    fn arrive_bulk(&mut self, spot: Spot, lane: usize, arrival: Arrival) -> Outcome {
        let (mbarrier, bytes) = (arrival.mbarrier, arrival.bytes());
        self.on(spot, lane, |core, _| {
            // SAFETY: the places were checked at issue, the cluster's shared memory and the
            // launch's snapshot of global memory outlive the copies.
            unsafe { arrival.land(core.shared.pointer()) };
            core.bulk.note(&arrival, core.shared.len());
            Ok(())
        })?;
        self.end_arrival(spot, arrival);
        self.on(spot, lane, |core, _| core.complete_tx(mbarrier, bytes))
    }

    /// The blocks of a multicast, by rank.
    fn targets(&self, lane: usize, mask: u32) -> Result<u32, Box<Trap>> {
        let (mask, size) = (mask & 0xffff, self.peers.size());
        if mask == 0 || mask >> size != 0 {
            return Err(illegal(
                lane,
                format!(
                    "multicast to blocks {mask:#06x} of a cluster of {size}: at least one, and \
                     none that there is not"
                ),
            ));
        }
        Ok(mask)
    }

    fn depart(
        &mut self,
        lane: usize,
        tile: Tile,
        reduce: Option<Reduce>,
        from: u64,
        alignment: u32,
    ) -> Outcome {
        let from = self.own_place(lane, from, tile.span(), alignment)?;
        let how = if reduce.is_some() {
            Use::Update
        } else {
            Use::Write
        };
        self.count_bulk(&tile, how, 1);
        let flights = self.begin_departure(lane, &tile, reduce.is_some(), from)?;
        let departure = Departure::new(tile, reduce, from, self.issuer(lane), flights);
        self.warp.bulk.push(departure);
        if self.launch.early_copies {
            land_departures(&mut self.warp.bulk, self.core);
        }
        Ok(())
    }

    fn wait_bulk(&mut self, active: u32, keep: u32, only_read: bool) {
        let shared = self.core.shared.pointer();
        let mut due = self.warp.bulk.take_due(active, keep);
        for departure in &mut due {
            // SAFETY: the memory is this block's; the launch keeps its global memory alive.
            unsafe {
                if only_read {
                    departure.read(shared);
                } else {
                    departure.land(shared);
                }
            }
            self.end_departure(departure, only_read);
        }
        if only_read {
            self.warp.bulk.put_back(due);
        }
    }

    /// Shared memory of this block.
    fn own_place(
        &mut self,
        lane: usize,
        address: u64,
        bytes: u32,
        alignment: u32,
    ) -> Result<u32, Box<Trap>> {
        let (rank, offset) = self.place(lane, address, bytes, alignment)?;
        if rank != self.peers.rank() {
            return Err(illegal(
                lane,
                format!("the source is in block {rank} of the cluster: it must be in this one"),
            ));
        }
        Ok(offset)
    }

    /// The block of the cluster and the place in its shared memory that an address means.
    fn place(
        &mut self,
        lane: usize,
        address: u64,
        bytes: u32,
        alignment: u32,
    ) -> Result<(usize, u32), Box<Trap>> {
        aligned("the shared address", lane, address, alignment)?;
        let spot = self.shared_spot(Window::Cluster, address, bytes, lane)?;
        Ok((spot.rank as usize, spot.offset))
    }

    /// Enters a copy in the counters. `copies`: how many times it goes through shared memory.
    fn count_bulk(&mut self, tile: &Tile, how: Use, copies: u32) {
        if let Some(counting) = &mut self.worker.counting {
            let rows = tile.rows.iter().filter(|row| row.bytes > 0 && row.va != 0);
            counting.moved(
                self.group.pc,
                Moved {
                    rows: &mut rows.map(|row| (row.va, row.bytes)),
                    how,
                    shared_bytes: if copies > 0 { tile.bytes() } else { 0 },
                    copies,
                },
            );
        }
    }
}

/// Where a copy goes.
struct Route {
    to: u64,
    mbarrier: u64,
    /// The blocks of a multicast.
    mask: Option<u32>,
}

/// Lands all of a warp's copies out of its block's shared memory. True if there were any that had
/// not landed.
pub(super) fn land_departures(copies: &mut Outbound, core: &mut Core) -> bool {
    // SAFETY: the memory is that of the warp's block; the launch keeps its global memory alive.
    let any = unsafe { copies.land_all(core.shared.pointer()) };
    core.changes += u64::from(any);
    any
}

/// All threads of the block have exited: what a warp's copies write has been written.
pub(super) fn end_departures(copies: &mut Outbound, core: &mut Core, launch: &Launch<'_>) {
    land_departures(copies, core);
    for departure in copies.take_all() {
        checks::define_rows(launch, core, &departure);
    }
}

fn illegal(lane: usize, message: impl Into<String>) -> Box<Trap> {
    Trap::new(FaultKind::IllegalInstruction, lane, message)
}

fn aligned(what: &str, lane: usize, value: u64, to: u32) -> Outcome {
    if value.is_multiple_of(u64::from(to)) {
        return Ok(());
    }
    let message = format!("{what} of a bulk copy is {value:#x}: it must be a multiple of {to}");
    Err(Trap::new(FaultKind::Misaligned, lane, message))
}
