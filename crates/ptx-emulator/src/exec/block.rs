//! A block: its warps taking turns, its shared memory and its sixteen barriers.

use std::collections::HashMap;

use super::bulk::{self, Inbound};
use super::check::{self, Checks, Visitor};
use super::cluster::Peers;
use super::cluster_op::{self, RegisterPool};
use super::cycle::{self, Cycle};
use super::fault::{Fault, FaultKind};
use super::interpret::{self, Worker};
use super::late::{self, Lates};
use super::launch::Launch;
use super::mbarrier::Mbarriers;
use super::registers::{FULL, LANES, lanes};
use super::schedule::Turns;
use super::space::Bytes;
use super::special::thread;
use super::warp::{Group, State, Warp};
use super::wgmma::Warpgroups;
use crate::decode::op::{Barrier as BarrierOp, BarrierReduce, ClusterOp, Op};
use crate::l2::Trace;

/// Turns that a warp may use up while some of its lanes are parked at a join point. After that the
/// parked ones go on: the running ones may be waiting for them.
const PATIENCE: u32 = 64;

/// One of a block's barriers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Barrier {
    pub arrived: u32,
    /// Threads to wait for, where the instruction says; else all that have not exited.
    pub stated: Option<u32>,
    count_true: u32,
    any_false: bool,
}

/// What happened in a launch, a block, a worker.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub warp_instructions: u64,
    pub mma_flops: u64,
    pub barriers: u64,
    /// Blocks that were run to their end.
    pub blocks: u64,
    /// `setmaxnreg` executed by part of a warp.
    pub partial_setmaxnreg: u64,
}

/// What the warps of a block share.
pub(crate) struct Core {
    pub shared: Bytes,
    pub barriers: [Barrier; 16],
    /// Barriers that may be complete, as a bit mask.
    pub check: u32,
    pub live_threads: u32,
    pub index: [u32; 3],
    pub linear: u64,
    /// Within its cluster.
    pub rank: u32,
    pub counts: Counts,
    /// Bulk copies on their way into its shared memory.
    pub bulk: Inbound,
    /// Tensor maps that its threads have fenced, with the number of the last change that they saw.
    pub acquired_maps: HashMap<u64, u32>,
    pub mbarriers: Mbarriers,
    /// Other data on its way into its shared memory.
    pub late: Lates,
    /// Warps of other blocks that have used its shared memory, as far as the checks follow them.
    pub visitors: Vec<Visitor>,
    /// What `setmaxnreg` has done.
    pub registers: RegisterPool,
    pub checks: Option<Box<Checks>>,
    /// Warps whose registers hold undefined bits, as far as the checks know.
    pub tainted: u32,
    /// Operations that may have changed what another thread waits for.
    pub changes: u64,
    /// Whether a thread has ended its turn to let other blocks run.
    pub gave_way: bool,
    /// Whether a thread has executed `griddepcontrol.launch_dependents`.
    pub allows_dependents: bool,
    pub warpgroups: Warpgroups,
    /// Warps whose instructions the checks of `wgmma` look at.
    pub watched: u32,
}

pub(crate) struct Block {
    pub core: Core,
    warps: Vec<Warp>,
    /// Turns each warp has used up with parked lanes.
    waited: Vec<u32>,
    /// What tells a warp that waits from one that works.
    cycles: Vec<Cycle>,
    turns: Turns,
    /// Of the cluster's barrier, as its waiting lanes know it.
    phase: u32,
    /// Whether the block has changed nothing in its last turn, and each warp that could run went
    /// round in circles.
    pub is_idle: bool,
    /// What it has read and written, between turns.
    pub trace: Trace,
}

pub(crate) enum Stop {
    Done,
    /// Other blocks may have a turn.
    Yield,
}

impl Core {
    /// Lanes arrive at a barrier. `whole` tells that they are all that is left of their warp.
    pub fn arrive(&mut self, id: usize, threads: u32, whole: bool, stated: Option<u32>) {
        let barrier = &mut self.barriers[id];
        // With a stated count a warp counts as 32 threads, even where it has fewer (PTX ISA section
        // 9.7.13.1).
        barrier.arrived += if whole && stated.is_some() {
            32
        } else {
            threads
        };
        barrier.stated = stated;
        self.counts.barriers += 1;
        self.check |= 1 << id;
    }

    pub fn contribute(&mut self, id: usize, threads: u32, true_lanes: u32) {
        let barrier = &mut self.barriers[id];
        barrier.count_true += (threads & true_lanes).count_ones();
        barrier.any_false |= threads & !true_lanes != 0;
    }

    pub fn is_complete(&self, id: usize) -> bool {
        let barrier = &self.barriers[id];
        barrier.arrived > 0 && barrier.arrived >= barrier.stated.unwrap_or(self.live_threads)
    }
}

/// Lets warps go on that have waited for others of their warpgroup.
fn wake_warpgroups(warps: &mut [Warp], warpgroups: &mut Warpgroups) {
    for warp in warps {
        if warpgroups.wakes(warp.index) {
            let waiting = warp.groups.iter_mut();
            let waiting = waiting.filter(|group| group.state == State::Warpgroup);
            waiting.for_each(|group| group.state = State::Ready);
        }
    }
    warpgroups.end_wake();
}

impl Block {
    pub fn new(launch: &Launch<'_>) -> Block {
        let threads = launch.grid.threads();
        let local = launch.kernel.info.local_bytes as usize * LANES;
        let warps = (0..threads.div_ceil(32))
            .map(|_| Warp::new(launch.start.clone(), local))
            .collect();
        Block {
            core: Core {
                shared: Bytes::new(launch.shared_with_reserved()),
                barriers: [Barrier::default(); 16],
                check: 0,
                live_threads: 0,
                index: [0; 3],
                linear: 0,
                rank: 0,
                counts: Counts::default(),
                bulk: Inbound::default(),
                acquired_maps: HashMap::new(),
                mbarriers: Mbarriers::default(),
                late: Lates::default(),
                visitors: Vec::new(),
                registers: RegisterPool::default(),
                checks: launch.checks.as_ref().map(|_| {
                    Box::new(Checks::new(
                        &launch.start,
                        threads.div_ceil(32) as usize,
                        launch.shared_with_reserved(),
                        launch.kernel.info.local_bytes as usize,
                        launch.kernel.sync.narrow,
                    ))
                }),
                tainted: 0,
                changes: 0,
                gave_way: false,
                allows_dependents: false,
                watched: 0,
                warpgroups: Warpgroups::new(launch.kernel.has_wgmma, threads as usize / LANES),
            },
            warps,
            waited: vec![0; threads.div_ceil(32) as usize],
            cycles: (0..threads.div_ceil(32))
                .map(|_| Cycle::default())
                .collect(),
            turns: Turns::new(launch.schedule, 0),
            phase: 0,
            is_idle: false,
            trace: Trace::default(),
        }
    }

    /// Puts the block `rank` of a cluster at the kernel's start.
    pub fn begin(&mut self, launch: &Launch<'_>, cluster: u64, rank: u32, recycled: bool) {
        let threads = launch.grid.threads();
        self.core.index = launch.grid.place(cluster, rank);
        let linear = launch.grid.linear(self.core.index);
        self.core.linear = linear;
        self.core.rank = rank;
        self.core.live_threads = threads;
        self.core.barriers = [Barrier::default(); 16];
        self.core.check = 0;
        self.core.counts = Counts::default();
        self.core.mbarriers.clear();
        self.core.late.clear();
        self.core.visitors.clear();
        self.core.registers.clear();
        self.phase = 0;
        self.core.bulk.clear();
        self.core.acquired_maps.clear();
        if recycled {
            self.core.shared.clear();
            if let Some(checks) = &mut self.core.checks {
                checks.reset(self.core.tainted);
            }
        }
        if let Some(checks) = &mut self.core.checks {
            checks.start(linear, cluster, threads);
        }
        self.core.tainted = 0;
        self.core.warpgroups.reset(launch.early_copies);
        let watched = launch.kernel.may_lack_fence && self.core.checks.is_some();
        self.core.watched = if watched { u32::MAX } else { 0 };
        if let Some(checks) = &mut self.core.checks {
            let reserved = launch.kernel.reserved_shared;
            checks.define_shared(launch.shared_with_reserved() as u64, reserved);
        }
        self.turns = Turns::new(launch.schedule, linear);
        self.core.allows_dependents = false;
        self.is_idle = false;
        self.trace = Trace::default();
        for (index, warp) in self.warps.iter_mut().enumerate() {
            if recycled {
                warp.regs.reset(&launch.start);
            }
            let left = threads - 32 * index as u32;
            let lanes = if left >= 32 { FULL } else { (1 << left) - 1 };
            warp.start(index as u32, lanes);
            warp.copies.early = launch.early_copies;
            let unset = launch.kernel.unset.as_slice();
            if let Some(checks) = self.core.checks.as_mut().filter(|_| !unset.is_empty()) {
                checks.unset(index, lanes, unset);
                self.core.tainted |= 1 << index;
            }
        }
        self.waited.fill(0);
        self.cycles.fill_with(Cycle::default);
    }

    /// Runs the block's warps in turns until they have all exited or the block's turn is over.
    pub fn run(
        &mut self,
        launch: &Launch<'_>,
        worker: &mut Worker<'_>,
        peers: &mut Peers<'_>,
    ) -> Result<Stop, Box<Fault>> {
        let mut turn = self.turns.block_turn();
        let before = self.core.changes;
        self.core.gave_way = false;
        loop {
            self.turns.next_round();
            // Whether a warp could run, and whether one did that does not go round in circles.
            let (mut ready, mut progressed) = (false, false);
            let count = self.warps.len();
            let live = self.warps.iter().any(|warp| warp.live != 0);
            for step in 0..count {
                let Some(index) = self.turns.warp(step, count, progressed) else {
                    continue;
                };
                if self.phase != peers.barrier.phase {
                    // The cluster's barrier is complete.
                    self.phase = peers.barrier.phase;
                    for warp in &mut self.warps {
                        let passed = warp.pass(self.phase);
                        if let Some(checks) = self.core.checks.as_mut().filter(|_| passed != 0) {
                            checks.pass_cluster(warp.index, passed, &peers.barrier.clock);
                            check::passed(&mut self.core, self.phase.wrapping_sub(1));
                        }
                    }
                }
                let warp = &mut self.warps[index];
                if !warp.is_ready() {
                    continue;
                }
                ready = true;
                let circles = self.cycles[index].is_closed();
                progressed |= !circles;
                let mut given = self.turns.warp_turn();
                if circles {
                    given = given.min(cycle::LOOK_EVERY);
                }
                let mut fuel = given;
                let changes = self.core.changes;
                warp.gave_way = false;
                let result =
                    interpret::run_warp(warp, &mut self.core, peers, launch, worker, &mut fuel);
                turn -= given - fuel;
                if let Err(stopped) = result {
                    return Err(self.fault(launch, index, stopped.pc, *stopped.trap));
                }
                let cycle = &mut self.cycles[index];
                if self.core.changes == changes {
                    cycle.turn(warp, given - fuel, warp.gave_way);
                    // The lanes that go round may be waiting for those that are parked.
                    if cycle.is_closed() && warp.release() {
                        cycle.reset();
                    }
                } else {
                    cycle.reset();
                }
                if fuel <= 0 && warp.has_parked() {
                    self.waited[index] += 1;
                    if self.waited[index] >= PATIENCE {
                        self.waited[index] = 0;
                        warp.release();
                    }
                }
                if self.core.warpgroups.has_wake() {
                    wake_warpgroups(&mut self.warps, &mut self.core.warpgroups);
                }
                if self.core.check != 0
                    && self.complete_barriers(launch)?
                    && let Some(counting) = &mut worker.counting
                {
                    counting.step();
                }
            }
            if !live {
                self.end_copies(launch)?;
                if !self.core.allows_dependents {
                    launch.dependents.end();
                }
                self.check_end(launch)?;
                return Ok(Stop::Done);
            }
            if !ready && self.core.checks.is_some() {
                self.check_whole(launch, |warp| check::left_behind(launch, warp))?;
            }
            if !ready
                && self
                    .warps
                    .iter_mut()
                    .filter_map(|warp| warp.release().then_some(()))
                    .count()
                    == 0
                && !self.land_copies()
            {
                if self.waits_for_cluster() {
                    self.is_idle = true;
                    return Ok(Stop::Yield);
                }
                return Err(self.deadlock(launch, self.waiting(launch), ""));
            }
            let mut idle = self.core.changes == before && self.is_waiting();
            if idle && self.land_copies() {
                self.core.changes += 1;
                self.wake();
                idle = false;
            }
            if turn <= 0 || self.core.gave_way || idle {
                self.is_idle = idle;
                return Ok(Stop::Yield);
            }
        }
    }

    /// Lands all bulk copies out of shared memory, since nothing else can go on. Those into it land
    /// when a thread looks at their mbarrier. True if there were any.
    fn land_copies(&mut self) -> bool {
        let mut any = false;
        for warp in &mut self.warps {
            any |= bulk::land_departures(&mut warp.bulk, &mut self.core);
        }
        any
    }

    /// Whether lanes wait for other blocks of the cluster.
    fn waits_for_cluster(&self) -> bool {
        let mut groups = self.warps.iter().flat_map(|warp| &warp.groups);
        groups.any(|group| matches!(group.state, State::Cluster(_)))
    }

    /// What the block leaves behind when all of its threads have exited.
    fn check_end(&self, launch: &Launch<'_>) -> Result<(), Box<Fault>> {
        if launch.checks.is_none() {
            return Ok(());
        }
        let end = launch.kernel.code.len().saturating_sub(1);
        if let Some(trap) = late::left_over(&self.core) {
            return Err(self.fault(launch, 0, end, *trap));
        }
        if let Some(trap) = check::visited(launch, &self.core) {
            return Err(self.fault(launch, 0, end, *trap));
        }
        if let Some((warp, message)) = cluster_op::uneven_registers(&self.core) {
            let trap = super::trap::Trap::new(FaultKind::IllegalInstruction, 0, message);
            return Err(self.fault(launch, warp, end, *trap));
        }
        Ok(())
    }

    /// All threads have exited: their copies out of shared memory land. Those into it should have
    /// been waited for.
    fn end_copies(&mut self, launch: &Launch<'_>) -> Result<(), Box<Fault>> {
        for warp in &mut self.warps {
            bulk::end_departures(&mut warp.bulk, &mut self.core, launch);
        }
        let Some(arrival) = self.core.bulk.first().filter(|_| launch.checks.is_some()) else {
            return Ok(());
        };
        let (by, message) = (arrival.by, arrival.left_behind(launch));
        let trap = super::trap::Trap::new(FaultKind::LaunchFailed, by.lane, message);
        Err(self.fault(launch, by.warp, by.pc, *trap))
    }

    /// Somebody else has changed memory.
    pub fn wake(&mut self) {
        self.is_idle = false;
        self.cycles.iter_mut().for_each(Cycle::reset);
    }

    /// Whether every warp that could run goes round in circles.
    fn is_waiting(&self) -> bool {
        let mut warps = self.warps.iter().zip(&self.cycles);
        warps.all(|(warp, cycle)| cycle.is_closed() || !warp.is_ready())
    }

    /// Lets threads pass the barriers to which all have come. True if there was one.
    fn complete_barriers(&mut self, launch: &Launch<'_>) -> Result<bool, Box<Fault>> {
        let check = std::mem::take(&mut self.core.check);
        let mut completed = false;
        for id in lanes(check) {
            if !self.core.is_complete(id) {
                continue;
            }
            completed = true;
            self.core.changes += 1;
            let barrier = std::mem::take(&mut self.core.barriers[id]);
            if self.core.checks.is_some() {
                self.check_whole(launch, |warp| check::parted(launch, warp, id as u8))?;
            }
            for warp in &mut self.warps {
                if let Some(checks) = &mut self.core.checks {
                    let here = warp
                        .groups
                        .iter()
                        .filter(|g| g.state == State::Barrier(id as u8));
                    let lanes = here.fold(0, |all, group| all | group.mask);
                    if lanes != 0 {
                        checks.depart(warp.index, lanes, id, barrier.stated.is_none());
                    }
                }
                for group in &mut warp.groups {
                    if group.state != State::Barrier(id as u8) {
                        continue;
                    }
                    let inst = &launch.kernel.code[group.pc as usize];
                    if let Op::Barrier(BarrierOp::Reduce(reduce, _)) = inst.op {
                        match reduce {
                            BarrierReduce::Popc => {
                                warp.regs.set_word(
                                    inst.d[0],
                                    group.mask,
                                    &[barrier.count_true; LANES],
                                );
                            }
                            BarrierReduce::And => {
                                warp.regs.set_pred(
                                    inst.d[0],
                                    group.mask,
                                    if barrier.any_false { 0 } else { FULL },
                                );
                            }
                            BarrierReduce::Or => {
                                warp.regs.set_pred(
                                    inst.d[0],
                                    group.mask,
                                    if barrier.count_true > 0 { FULL } else { 0 },
                                );
                            }
                        }
                    }
                    group.pc += 1;
                    group.state = State::Ready;
                }
            }
            if let Some(checks) = &mut self.core.checks {
                checks.open(id);
            }
        }
        Ok(completed)
    }

    /// Fails with what `look` finds in a warp.
    fn check_whole(
        &self,
        launch: &Launch<'_>,
        look: impl Fn(&Warp) -> Option<(usize, Box<super::trap::Trap>)>,
    ) -> Result<(), Box<Fault>> {
        for (index, warp) in self.warps.iter().enumerate() {
            if let Some((pc, trap)) = look(warp) {
                return Err(self.fault(launch, index, pc, *trap));
            }
        }
        Ok(())
    }

    fn fault(
        &self,
        launch: &Launch<'_>,
        warp: usize,
        pc: usize,
        trap: super::trap::Trap,
    ) -> Box<Fault> {
        let linear = 32 * warp as u32 + trap.lane as u32;
        let place = launch.kernel.places.get(pc).copied().unwrap_or_default();
        Box::new(Fault {
            kind: trap.kind,
            kernel: launch.kernel.info.name.clone(),
            place,
            file: launch.file(place.file),
            block: self.core.index,
            thread: thread(launch.grid.block, linear),
            message: trap.message,
            counters: None,
        })
    }

    /// Where each group of lanes is.
    pub fn waiting(&self, launch: &Launch<'_>) -> Vec<String> {
        let groups = self
            .warps
            .iter()
            .flat_map(|w| w.groups.iter().map(|g| (w.index, w.gave_way, g)));
        groups
            .map(|(warp, gave_way, group)| {
                let line = launch
                    .kernel
                    .places
                    .get(group.pc as usize)
                    .map_or(0, |p| p.ptx_line);
                let what = match group.state {
                    State::Barrier(id) => {
                        let Barrier {
                            arrived, stated, ..
                        } = self.core.barriers[usize::from(id)];
                        let count = stated.unwrap_or(self.core.live_threads);
                        format!("for barrier {id}, to which {arrived} of {count} threads have come")
                    }
                    State::Rendezvous(mask) => format!("for lanes {mask:#010x}"),
                    State::Warpgroup => "for the other warps of its warpgroup, which have not \
                                         executed the wgmma that it waits for"
                        .to_owned(),
                    State::Cluster(_) => {
                        "for the cluster's barrier (barrier.cluster.wait)".to_owned()
                    }
                    State::Ready if let Some(what) = self.spin(launch, warp, group) => what,
                    State::Ready if gave_way => "looking again and again".to_owned(),
                    State::Ready => "in an endless loop".to_owned(),
                };
                format!(
                    "warp {warp} lanes {:#010x} at PTX line {line} {what}",
                    group.mask
                )
            })
            .collect()
    }

    /// What lanes wait for that look again and again, where that is known.
    fn spin(&self, launch: &Launch<'_>, warp: u32, group: &Group) -> Option<String> {
        let op = launch.kernel.code.get(group.pc as usize)?.op;
        if let Op::Cluster(ClusterOp::SetRegisters { .. }) = op {
            return Some(format!(
                "for registers (setmaxnreg): {} for each thread of a warp are free",
                self.core.registers.free
            ));
        }
        let warp = self.warps.get(warp as usize)?;
        let spin = lanes(group.mask).find_map(|lane| warp.spins.of(lane))?;
        let at = spin.at;
        let counts = match self.core.mbarriers.find(at) {
            Some(found) => found.counts(),
            None => "invalidated meanwhile".to_owned(),
        };
        Some(format!(
            "for phase {} of the mbarrier at {at:#x} of shared memory ({counts})",
            spin.phase
        ))
    }

    /// No lane can go on, now or later. `all`: where lanes wait.
    pub fn deadlock(&self, launch: &Launch<'_>, all: Vec<String>, note: &str) -> Box<Fault> {
        const SHOWN: usize = 16;
        let shown = &all[..all.len().min(SHOWN)];
        let mut message = format!(
            "deadlock: no thread can go on; waiting are {}",
            shown.join("; ")
        );
        if all.len() > SHOWN {
            message.push_str(&format!("; and {} more", all.len() - SHOWN));
        }
        message.push_str(note);
        let mut groups = self
            .warps
            .iter()
            .flat_map(|w| w.groups.iter().map(move |g| (w.index, g)));
        let (warp, pc, lane) = groups.next().map_or((0, 0, 0), |(warp, g)| {
            (
                warp as usize,
                g.pc as usize,
                g.mask.trailing_zeros() as usize % LANES,
            )
        });
        let trap = super::trap::Trap::new(FaultKind::LaunchFailed, lane, message);
        self.fault(launch, warp, pc, *trap)
    }
}
