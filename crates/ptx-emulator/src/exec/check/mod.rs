//! Checks of a running kernel: reads of memory that was never written, races, copies in flight,
//! divergent barriers. What they know of a block is here; of device memory in [`crate::shadow`].
//! The interpreter calls the hooks in `hooks`; without checks nothing of this exists.

mod access;
mod atomic;
mod barrier;
mod cluster;
mod copy;
mod flow;
mod gather;
mod global;
mod halves;
mod hooks;
mod line;
mod load;
mod matrix;
mod order;
mod phases;
mod poison;
pub(super) mod proxy;
mod report;
mod shared;
mod spot;
mod store;
mod wgmma;

pub(super) use self::barrier::{left_behind, parted};
pub(super) use self::cluster::{Origin, Visitor, passed, visited};
use self::gather::Gathered;
pub(crate) use self::global::{Between, Shadows, TAGS};
pub(crate) use self::line::{LINE, Line};
use self::order::{Clocks, Home};
pub(super) use self::order::{PhaseClock, SharedPlaces};
use self::shared::Shared;
use self::wgmma::Watch;
use super::registers::{LANES, Registers};
use crate::decode::op::Reg;

/// What the checks know of one block.
pub(crate) struct Checks {
    clocks: Clocks,
    shared: Shared,
    warps: Vec<WarpState>,
    /// Empty, for the next instruction.
    gathered: Gathered,
}

struct WarpState {
    /// The registers' undefined bits.
    poison: Registers,
    /// Instructions until the next look whether any are left.
    until_look: u32,
    /// A bit for each byte of the lanes' local memory: it has been written.
    local: Vec<u64>,
    /// What brought each lane undefined bits last, for reports.
    undefined: [Option<Undefined>; LANES],
    watch: Watch,
}

/// What brought a lane undefined bits.
#[derive(Clone, Copy)]
struct Undefined {
    pc: usize,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    /// Memory that was never written: an address within shared memory or the lane's local memory,
    /// or global.
    Memory { space: &'static str, address: u64 },
    /// A shuffle from a lane that takes no part in it.
    Lane(usize),
}

/// Who makes an access.
#[derive(Clone, Copy)]
pub(super) struct Me {
    pub block: u64,
    pub warp: usize,
    pub pc: usize,
}

/// Another access, for a report.
#[derive(Clone, Copy)]
struct Party {
    block: u64,
    warp: usize,
    lane: usize,
    pc: usize,
}

/// What is wrong with two accesses to the same bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    ReadAfterWrite,
    WriteAfterWrite,
    WriteAfterRead,
    /// Both may synchronise threads, but not the two that made them.
    Scopes,
    /// A `ld.global.nc` of what the launch has written.
    ReadOnly,
    /// The bytes are the destination of a `cp.async` that its thread has not waited for.
    InFlight,
    /// The bytes are the source of such a copy, and are written.
    SourceInFlight,
    /// The copy's thread has waited, but no barrier lies between its wait and this lane's access.
    Unsynchronised,
    /// An asynchronous operation is writing the bytes.
    AsyncWrite,
    /// An asynchronous operation is reading the bytes, and they are written.
    AsyncRead,
    /// An asynchronous operation has written the bytes, but this lane has not seen its mbarrier's
    /// phase complete.
    PhaseNotSeen,
    /// An asynchronous operation reads what ordinary stores have written, without a
    /// `fence.proxy.async` between the two.
    NotProxied,
}

struct Conflict {
    what: What,
    /// Of the byte concerned: within shared memory, or global.
    address: u64,
    /// The lane that makes the later access.
    lane: usize,
    other: Party,
}

impl Conflict {
    fn new(found: line::Found, base: u64) -> Self {
        Conflict {
            what: found.what,
            address: base + u64::from(found.byte),
            lane: found.lane,
            other: Party {
                block: u64::from(found.other.block),
                warp: found.other.warp as usize,
                lane: found.other.lane_of(found.byte),
                pc: found.other.pc as usize,
            },
        }
    }
}

impl Checks {
    pub fn new(
        start: &Registers,
        warps: usize,
        shared_bytes: usize,
        local_bytes: usize,
        narrow: bool,
    ) -> Self {
        Checks {
            clocks: Clocks::new(narrow),
            shared: Shared::new(shared_bytes),
            warps: (0..warps)
                .map(|_| WarpState {
                    poison: start.zeroed(),
                    until_look: 0,
                    local: vec![0; (local_bytes * LANES).div_ceil(64)],
                    undefined: [None; LANES],
                    watch: Watch::default(),
                })
                .collect(),
            gathered: Gathered::default(),
        }
    }

    /// Registers of a warp at its start that hold nothing yet.
    pub fn unset(&mut self, warp: usize, lanes: u32, regs: &[Reg]) {
        let poison = &mut self.warps[warp].poison;
        for &reg in regs {
            poison.taint(reg, lanes, lanes);
        }
    }

    /// The last `bytes` of shared memory, which ends at `end`, hold something from the start.
    pub fn define_shared(&mut self, end: u64, bytes: u32) {
        for at in (end - u64::from(bytes)..end).step_by(4) {
            self.shared.define(at, 4, 15);
        }
    }

    /// A bit for each of `bytes` bytes of shared memory: it has been written.
    pub fn shared_defined(&self, offset: u64, bytes: u32) -> u64 {
        self.shared.defined(offset, bytes)
    }

    /// Sets which of these bytes of shared memory have been written.
    pub fn set_shared_defined(&mut self, offset: u64, bytes: u32, defined: u64) {
        self.shared.define(offset, bytes, defined);
    }

    /// Puts the clocks at the start of a block of a cluster, by their numbers in the grid.
    pub fn start(&mut self, block: u64, cluster: u64, threads: u32) {
        self.clocks.start(Home { block, cluster }, threads);
    }

    /// For a new block. `tainted`: the warps whose registers hold undefined bits.
    pub fn reset(&mut self, tainted: u32) {
        self.shared.reset();
        for (index, warp) in self.warps.iter_mut().enumerate() {
            if tainted >> index & 1 == 1 {
                warp.poison.clear();
                warp.undefined = [None; LANES];
            }
            warp.local.fill(0);
            warp.watch.reset();
        }
    }
}
