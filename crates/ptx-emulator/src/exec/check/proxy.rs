//! Accesses by the asynchronous proxy: what TMA, bulk copies and wgmma read and write.
//!
//! How an operation uses this, when checks are on (without, nothing happens and nothing is found):
//! - At its issue it calls [`Run::async_read_begin`] with the bytes it reads and
//!   [`Run::async_write_begin`] with those it writes, with the lanes that issue it: one for TMA,
//!   all of the warp for wgmma. Both return a [`Flight`], which the operation keeps. From then on
//!   whoever writes bytes being read, or touches bytes being written, is reported, the issuing
//!   thread, too. An ordinary store that the issuer knows but that no `fence.proxy.async` follows
//!   is reported as the read begins.
//! - A reduction calls [`Run::async_reduce_begin`] with the bytes that it updates: each of its
//!   elements is an atomic operation of its own, so two of them are no race.
//! - An operation whose thread waits for it (bulk groups, `wgmma.wait_group`) then calls
//!   [`Run::async_end`] in the waiting warp: the bytes count as touched by that warp's lanes now.
//! - An operation that completes on an mbarrier calls [`complete`] when its bytes have landed, with
//!   the mbarrier's number and phase as `order` has them. Whoever touches the bytes after that must
//!   know the phase.
//!
//! A multicast is one flight for each destination. Bytes that are written count as defined from the
//! flight's end.

use super::global::{Between, Locked};
use super::line::{
    ATOMIC, FLIGHT, Flags, LINE, Line, PROXY, Record, Scene, TOGETHER, Tags, WRITE, strong,
};
use super::shared::spans;
use super::{Checks, Conflict, Me, report};
use crate::decode::op::Scope;
use crate::exec::block::Core;
use crate::exec::cluster::Peers;
use crate::exec::interpret::Run;
use crate::exec::launch::Launch;
use crate::exec::trap::{Outcome, Trap};

/// Bytes side by side that an asynchronous operation touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exec) enum Piece {
    /// In the shared memory of the cluster's block `rank`.
    Shared {
        rank: u32,
        offset: u64,
        bytes: u64,
    },
    Global {
        va: u64,
        bytes: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Shared { rank: u32, line: usize },
    Global { line: *mut Line, va: u64 },
}

/// Bytes that an operation not yet complete reads or writes.
#[must_use = "an operation that began must end or complete"]
pub(in crate::exec) struct Flight {
    parts: Vec<(Place, u64)>,
    /// Without bytes.
    like: Record,
}

// SAFETY: the lines belong to shadows of allocations that the launch keeps alive, and are only
// touched with their lock held.
unsafe impl Send for Flight {}

impl Run<'_, '_, '_> {
    /// An asynchronous read of these bytes begins, issued by `lanes` of the warp.
    ///
    /// # Errors
    /// Nothing orders the read after a write; or the write was an ordinary one, and no
    /// `fence.proxy.async` follows it.
    pub(in crate::exec) fn async_read_begin(
        &mut self,
        lanes: u32,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> Result<Flight, Box<Trap>> {
        self.async_begin(lanes, pieces, 0)
    }

    /// An asynchronous write of these bytes begins, issued by `lanes` of the warp.
    ///
    /// # Errors
    /// Nothing orders the write after an earlier access.
    pub(in crate::exec) fn async_write_begin(
        &mut self,
        lanes: u32,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> Result<Flight, Box<Trap>> {
        self.async_begin(lanes, pieces, WRITE)
    }

    /// Relaxed atomic operations on these bytes begin, issued by `lanes` of the warp.
    ///
    /// # Errors
    /// Nothing orders them after an earlier access, which is no atomic operation.
    pub(in crate::exec) fn async_reduce_begin(
        &mut self,
        lanes: u32,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> Result<Flight, Box<Trap>> {
        self.async_begin(lanes, pieces, WRITE | ATOMIC | strong(Scope::Gpu))
    }

    fn async_begin(
        &mut self,
        lanes: u32,
        pieces: impl IntoIterator<Item = Piece>,
        write: Flags,
    ) -> Result<Flight, Box<Trap>> {
        let mut flight = Flight {
            parts: Vec::new(),
            like: Record::default(),
        };
        let Some(mut checks) = self.core.checks.take() else {
            return Ok(flight);
        };
        let me = checks.me(self);
        flight.like = Record {
            lanes,
            ..self.blank(&checks, &me, write | PROXY | TOGETHER | FLIGHT)
        };
        self.find_parts(pieces, &mut flight.parts);
        let done = self.begin_parts(&mut checks, &me, &flight);
        self.core.checks = Some(checks);
        done.map(|()| flight)
    }

    /// The lines of the pieces. What lies outside of memory is left to the access, which faults.
    fn find_parts(
        &mut self,
        pieces: impl IntoIterator<Item = Piece>,
        parts: &mut Vec<(Place, u64)>,
    ) {
        for piece in pieces {
            match piece {
                Piece::Shared {
                    rank,
                    offset,
                    bytes,
                } => {
                    for (line, bits) in spans(offset, bytes) {
                        let line = line as usize;
                        join(parts, Place::Shared { rank, line }, bits);
                    }
                }
                Piece::Global { va, bytes } => {
                    let shadows = self.worker.shadows.as_mut();
                    let small = u32::try_from(bytes).unwrap_or(u32::MAX);
                    let Some(found) = shadows.and_then(|s| s.find(va, small)) else {
                        continue;
                    };
                    for (number, bits) in spans(va - found.base, bytes) {
                        if let Some(line) = found.shadow.line(number) {
                            let va = found.base + number * LINE;
                            join(parts, Place::Global { line, va }, bits);
                        }
                    }
                }
            }
        }
    }

    fn begin_parts(&mut self, checks: &mut Checks, me: &Me, flight: &Flight) -> Outcome {
        let own = self.core.rank;
        let launch = self.launch;
        let mut scene = Scene {
            clocks: &checks.clocks,
            me: *me,
            tags: Tags::default(),
            shared: true,
            grid: &launch.grid,
        };
        for &(place, bytes) in &flight.parts {
            let mut record = Record {
                bytes,
                ..flight.like
            };
            let (space, done) = match place {
                Place::Shared { rank, line } => {
                    let shared = if rank == own {
                        Some(&mut checks.shared)
                    } else {
                        let peer = self.peers.core(rank as usize);
                        peer.and_then(|core| core.checks.as_mut())
                            .map(|checks| &mut checks.shared)
                    };
                    let Some(shared) = shared else {
                        continue;
                    };
                    scene.tags = shared.tags();
                    scene.shared = true;
                    record.tag = scene.tags.own;
                    ("shared", shared.touch(line, &record, &scene))
                }
                Place::Global { line, va } => {
                    let Some(between) = &launch.checks else {
                        continue;
                    };
                    scene.tags = between.tags();
                    scene.shared = false;
                    record.tag = scene.tags.own;
                    ("global", touch_global(between, line, va, &record, &scene))
                }
            };
            done.map_err(|found| report::conflict(launch, space, me, &found))?;
        }
        Ok(())
    }

    /// The warp has waited for an operation of its own: from now on whoever knows `lanes` of the
    /// warp to have come this far may write the bytes, or touch those that were written.
    pub(in crate::exec) fn async_end(&mut self, lanes: u32, flight: Flight) {
        let Some(checks) = &self.core.checks else {
            return;
        };
        let me = checks.me(self);
        let ended = Record {
            lanes,
            ..self.blank(checks, &me, flight.like.flags & !FLIGHT)
        };
        finish(self.core, &mut self.peers, self.launch, flight, ended);
    }
}

/// An operation that completes on an mbarrier has done so: whoever knows the phase knows its bytes
/// to have been read or written.
pub(in crate::exec) fn complete(
    core: &mut Core,
    peers: &mut Peers<'_>,
    launch: &Launch<'_>,
    flight: Flight,
    mbarrier: u64,
    phase: u32,
) {
    let mut ended = flight.like;
    ended.completes(mbarrier, phase);
    finish(core, peers, launch, flight, ended);
}

/// `ended` takes the place of the flight's records.
fn finish(
    core: &mut Core,
    peers: &mut Peers<'_>,
    launch: &Launch<'_>,
    flight: Flight,
    ended: Record,
) {
    let writes = flight.like.flags & WRITE != 0;
    for (place, bytes) in flight.parts {
        match place {
            Place::Shared { rank, line } => {
                let core = if rank == core.rank {
                    Some(&mut *core)
                } else {
                    peers.core(rank as usize)
                };
                let Some(checks) = core.and_then(|core| core.checks.as_mut()) else {
                    continue;
                };
                let tag = checks.shared.tags().own;
                let record = Record {
                    bytes,
                    tag,
                    ..ended
                };
                checks.shared.end(line, &flight.like, &record);
                if writes {
                    checks.shared.define_line(line, bytes);
                }
            }
            Place::Global { line, va } => {
                let Some(between) = &launch.checks else {
                    continue;
                };
                let tags = between.tags();
                let record = Record {
                    bytes,
                    tag: tags.own,
                    ..ended
                };
                let mut slab = between.lock(va);
                // SAFETY: `find_parts` got the line from the shadow of an allocation that the
                // launch keeps alive, at this address.
                unsafe { Locked::new(line, &mut slab, va) }.end(&flight.like, &record, tags);
                if writes && let Some(found) = launch.map.find(va) {
                    let first = u64::from(bytes.trailing_zeros());
                    let count = u64::from(64 - bytes.leading_zeros()) - first;
                    found.shadow.define(va - found.base + first, count);
                }
            }
        }
    }
}

fn touch_global(
    between: &Between,
    line: *mut Line,
    va: u64,
    record: &Record,
    scene: &Scene<'_>,
) -> Result<(), Conflict> {
    let mut slab = between.lock(va);
    // SAFETY: `find_parts` got the line from the shadow of an allocation that the launch keeps
    // alive, at this address.
    unsafe { Locked::new(line, &mut slab, va) }.touch(record, scene)
}

/// Adds bytes of a line to what was gathered.
fn join(parts: &mut Vec<(Place, u64)>, place: Place, bits: u64) {
    match parts.last_mut() {
        Some((last, bytes)) if *last == place => *bytes |= bits,
        _ => parts.push((place, bits)),
    }
}
