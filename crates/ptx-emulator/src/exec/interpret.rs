//! The interpreter's loop: one group of lanes at a time, one instruction after the other.

use super::async_copy::Queue;
use super::block::Core;
use super::check::Shadows;
use super::cluster::Peers;
use super::count::Counting;
use super::fault::FaultKind;
use super::launch::Launch;
use super::registers::{FULL, LANES, Registers, collect, lanes};
use super::space::{GlobalView, Spaces, addresses};
use super::trap::{Outcome, Trap};
use super::warp::{Group, NO_JOIN, State, Warp};
use super::{
    atomic, bits, compare, convert, float, half, int, load_store, mbarrier, mma, moves, special,
};
use crate::decode::op::{
    Access, Async, Barrier, Control, FenceKind, Grid, Inst, Move, NO_LIST, Op, Order, RegList,
    WarpOp, Window,
};

/// What an access that may be waiting for another thread costs of a turn, so that spinning threads
/// don't hold up those they wait for.
pub(super) const WAITING_COST: i64 = 512;
/// Work a group may do while another group of its warp is ready.
const GROUP_TURN: i64 = 2048;

/// What one worker has for itself.
pub(crate) struct Worker<'a> {
    pub global: GlobalView<'a>,
    /// `None` if checks are off.
    pub shadows: Option<Shadows<'a>>,
    /// `None` if counters are off.
    pub counting: Option<Box<Counting>>,
}

/// A trap and the instruction it happened at.
pub(crate) struct Stopped {
    pub pc: usize,
    pub trap: Box<Trap>,
}

/// Runs the warp's groups until none is ready or the fuel is used up.
pub(super) fn run_warp(
    warp: &mut Warp,
    core: &mut Core,
    peers: &mut Peers<'_>,
    launch: &Launch<'_>,
    worker: &mut Worker<'_>,
    fuel: &mut i64,
) -> Result<(), Stopped> {
    while *fuel > 0 {
        let Some(at) = warp.groups.iter().position(|g| g.state == State::Ready) else {
            return Ok(());
        };
        let group = warp.groups.remove(at);
        let others = warp.groups.iter().any(|g| g.state == State::Ready);
        let given = if others { GROUP_TURN.min(*fuel) } else { *fuel };
        let mut run = Run {
            warp,
            core,
            peers: peers.reborrow(),
            launch,
            worker,
            group,
            fuel: given,
        };
        let result = run.go();
        *fuel -= given - run.fuel;
        if let Err(trap) = result {
            return Err(Stopped {
                pc: run.group.pc as usize,
                trap,
            });
        }
    }
    Ok(())
}

/// A group's turn.
pub(super) struct Run<'r, 'l, 'w> {
    pub(super) warp: &'r mut Warp,
    pub(super) core: &'r mut Core,
    /// The other blocks of the cluster.
    pub(super) peers: Peers<'r>,
    pub(super) launch: &'r Launch<'l>,
    pub(super) worker: &'r mut Worker<'w>,
    pub(super) group: Group,
    fuel: i64,
}

/// What the loop does after an instruction.
pub(super) enum Next {
    Step,
    Jump(u32),
    /// The group is gone, or has been put back among the warp's groups.
    Leave,
}

pub(super) fn first_lane(mask: u32) -> usize {
    mask.trailing_zeros() as usize % LANES
}

impl<'w> Run<'_, '_, 'w> {
    /// Registers, copies in flight and reachable memory of the warp, borrowed apart.
    pub(super) fn parts(&mut self) -> (&mut Registers, &mut Queue, Spaces<'_, 'w>) {
        let spaces = Spaces {
            global: &mut self.worker.global,
            shared: &mut self.core.shared,
            peers: self.peers.reborrow(),
            local: &mut self.warp.local,
            local_each: self.launch.kernel.info.local_bytes,
            params: &self.launch.params,
        };
        (&mut self.warp.regs, &mut self.warp.copies, spaces)
    }

    fn go(&mut self) -> Outcome {
        let launch = self.launch;
        let code = launch.kernel.code.as_slice();
        let join_pc = self.warp.join_pc(self.group.join);
        let mut join = (self.group.join, join_pc);
        let mut executed = 0_u64;
        let result = loop {
            let pc = self.group.pc;
            if self.group.join != join.0 {
                join = (self.group.join, self.warp.join_pc(self.group.join));
            }
            if pc == join.1 && join.1 != NO_JOIN {
                self.warp.arrive(self.group);
                break Ok(());
            }
            if self.fuel <= 0 {
                self.warp.groups.push(self.group);
                break Ok(());
            }
            let Some(inst) = code.get(pc as usize) else {
                break Err(Trap::new(
                    FaultKind::LaunchFailed,
                    0,
                    "ran off the end of the code",
                ));
            };
            self.fuel -= 1;
            executed += 1;
            if (self.core.tainted | self.core.watched) >> self.warp.index & 1 == 1
                && let Err(trap) = self.watch_and_follow(inst)
            {
                break Err(trap);
            }
            let mut active = self.group.mask;
            if inst.guard.is_some() {
                let guard = self.warp.regs.pred(inst.guard);
                active &= if inst.guard_negated { !guard } else { guard };
                if active == 0 {
                    if let Some(counting) = &mut self.worker.counting {
                        counting.skipped(pc);
                    }
                    self.group.pc = pc + 1;
                    continue;
                }
            }
            if let Some(counting) = &mut self.worker.counting {
                counting.issued(inst, pc, active, &self.warp.regs);
            }
            match self.execute(inst, active) {
                Ok(Next::Step) => self.group.pc = pc + 1,
                Ok(Next::Jump(to)) => self.group.pc = to,
                Ok(Next::Leave) => break Ok(()),
                Err(trap) => break Err(trap),
            }
        };
        self.core.counts.warp_instructions += executed;
        result
    }

    /// Before an instruction of a warp with undefined bits, or with products in flight.
    #[cold]
    fn watch_and_follow(&mut self, inst: &Inst) -> Outcome {
        if self.core.watched >> self.warp.index & 1 == 1 {
            self.watch(inst)?;
        }
        if self.core.tainted >> self.warp.index & 1 == 1 {
            self.follow(inst)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn execute(&mut self, inst: &Inst, active: u32) -> Result<Next, Box<Trap>> {
        let regs = &mut self.warp.regs;
        match inst.op {
            Op::Control(control) => return self.control(inst, active, control),
            Op::Int(op, int) => int::arithmetic(regs, inst, active, op, int),
            Op::Bits(op, int) => bits::bits(regs, inst, active, op, int),
            Op::Compare(compare) => compare::compare(regs, inst, active, compare),
            Op::Move(Move::Special(which)) => {
                if which.is_clock() {
                    // Time passes: a loop that looks at it may come to an end.
                    self.core.changes += 1;
                }
                special::read(
                    regs,
                    inst,
                    active,
                    which,
                    self.core,
                    self.warp.index,
                    &self.launch.grid,
                );
            }
            Op::Move(op) => moves::moves(regs, inst, active, op, list(self.launch, inst)),
            Op::Convert(how) => convert::convert(regs, inst, active, how),
            Op::F32(op, mods) => float::f32_op(regs, inst, active, op, mods),
            Op::F64(op, mods) => float::f64_op(regs, inst, active, op, mods),
            Op::Half(op, half, mods) => half::half_op(regs, inst, active, op, half, mods),
            Op::Approx(op, mods) => float::approximate(regs, inst, active, op, mods),
            Op::Select(select) => compare::select(regs, inst, active, select),
            Op::PredLogic(op) => bits::predicates(regs, inst, active, op),
            Op::Lop3(table) => bits::lop3(regs, inst, active, table),
            Op::Carry(op, int) => int::carry(regs, inst, active, op, int),
            Op::Load(_) | Op::Store(_) | Op::Atomic(_) | Op::LoadParam(..) | Op::Async(_) => {
                self.memory(inst, active)?
            }
            Op::Bulk(op) => self.bulk(inst, active, op)?,
            Op::Warp(op) => return self.warp_op(inst, active, op),
            Op::Mma(op) => {
                if active != FULL {
                    return self.meet(inst, active, FULL);
                }
                self.core.counts.mma_flops += mma::flops(op);
                mma::mma(regs, list(self.launch, inst), op, self.launch.numerics);
                if self.core.tainted != 0 {
                    self.check_together(inst, active)?;
                }
            }
            Op::Barrier(op) => return self.barrier(inst, active, op),
            Op::Wgmma(op) => return self.wgmma(inst, active, op),
            Op::Cluster(op) => return self.cluster_op(inst, active, op),
            Op::Mbarrier(op) => return self.mbarrier(inst, active, op),
            Op::AsyncStore(op) => return self.async_store(inst, active, op),
            Op::MbarrierPending => {
                let states = *regs.wide(inst.s[0]);
                let pending = std::array::from_fn(|lane| mbarrier::of_state(states[lane]).1);
                regs.set_word(inst.d[0], active, &pending);
            }
            Op::Nop => {}
            Op::Grid(grid) => return Ok(self.grid(inst, active, grid)),
            Op::Print => self.print(inst, active)?,
            Op::Fence(kind) => {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                if let FenceKind::ProxyTensormap { acquire, .. } = kind {
                    self.fence_maps(inst, active, acquire);
                }
                if self.core.checks.is_some() {
                    self.check_fence(active, kind);
                }
            }
        }
        Ok(Next::Step)
    }

    fn memory(&mut self, inst: &Inst, active: u32) -> Outcome {
        if self.core.checks.is_some() {
            self.checked_access(inst, active)?;
        } else {
            self.access(inst, active)?;
        }
        match inst.op {
            Op::Load(access) if access.is_strong() => self.looked(inst, active, access),
            // Others may be working through the same counter, or hold the lock.
            Op::Atomic(op) if inst.d[0].is_some() => self.give_way(op.window),
            _ => {}
        }
        Ok(())
    }

    fn grid(&mut self, inst: &Inst, active: u32, grid: Grid) -> Next {
        let supervisor = self.launch.supervisor;
        let waits = grid == Grid::Wait
            && supervisor.is_some_and(|supervisor| !supervisor.prerequisites_ended());
        if waits {
            self.give_way(Window::Generic);
            return Next::Jump(self.group.pc);
        }
        if let Some(counting) = &mut self.worker.counting {
            counting.executed(inst, self.group.pc, active, &self.warp.regs);
        }
        if let (Grid::Wait, Some(checks)) = (grid, &mut self.core.checks) {
            checks.learn_primary(self.warp.index, active);
        }
        if grid == Grid::LaunchDependents
            && !std::mem::replace(&mut self.core.allows_dependents, true)
        {
            self.launch.dependents.allow();
            self.give_way(Window::Generic);
        }
        Next::Step
    }

    /// After a strong load: if the lanes found what they had found there before, they may be
    /// waiting for another thread.
    fn looked(&mut self, inst: &Inst, active: u32, access: Access) {
        let regs = &self.warp.regs;
        let addresses = addresses(regs, inst.s[0], inst.imm);
        let found = &list(self.launch, inst).defs;
        let polls = &mut self.warp.polls;
        if polls.repeats(self.group.pc, active, &addresses, regs, found) {
            self.give_way(access.window);
        }
    }

    /// Ends the turn of this group of lanes, and the block's after this round, unless only threads
    /// of the block itself can change what is in `window`.
    pub(super) fn give_way(&mut self, window: Window) {
        self.fuel = 0;
        self.warp.gave_way = true;
        self.core.gave_way |= window != Window::Shared;
    }

    /// With the checks' record before it, and with what a strong access orders after it.
    fn checked_access(&mut self, inst: &Inst, active: u32) -> Outcome {
        let strong = match inst.op {
            Op::Load(access) | Op::Store(access) => access.is_strong(),
            Op::Atomic(_) => true,
            _ => false,
        };
        if !strong {
            self.check_memory(inst, active)?;
            return self.access(inst, active);
        }
        let pending = self.begin_strong(inst, active);
        self.check_memory(inst, active)?;
        self.access(inst, active)?;
        if let Some(pending) = pending {
            self.end_strong(inst, pending);
        }
        Ok(())
    }

    #[inline(always)]
    fn access(&mut self, inst: &Inst, active: u32) -> Outcome {
        match inst.op {
            Op::Load(access) if access.is_strong() => self.fuel -= WAITING_COST,
            Op::Atomic(_) => self.fuel -= WAITING_COST,
            Op::Store(_) => self.core.changes += 1,
            Op::Async(op) => {
                self.core.changes += 1;
                let waits = matches!(op, Async::WaitGroup | Async::WaitAll);
                if waits && !self.core.late.is_empty() {
                    self.land_own_copies(active)?;
                }
            }
            _ => {}
        }
        let launch = self.launch;
        let (regs, copies, mut spaces) = self.parts();
        match inst.op {
            Op::Load(access) => {
                load_store::load(regs, &mut spaces, inst, list(launch, inst), active, access)
            }
            Op::Store(access) => {
                load_store::store(regs, &mut spaces, inst, list(launch, inst), active, access)
            }
            Op::Atomic(op) => {
                let changed =
                    atomic::atomic(regs, &mut spaces, inst, list(launch, inst), active, op)?;
                self.core.changes += u64::from(changed);
                Ok(())
            }
            Op::LoadParam(width, extend) => load_store::load_param(
                regs,
                spaces.params,
                inst,
                list(launch, inst),
                active,
                width,
                extend,
            ),
            Op::Async(Async::Copy {
                bytes,
                ignore_negated,
            }) => copies.issue(regs, &mut spaces, inst, active, bytes, ignore_negated),
            Op::Async(Async::Commit) => {
                copies.commit(active);
                Ok(())
            }
            Op::Async(Async::WaitGroup) => {
                copies.wait_group(active, inst.imm.cast_unsigned());
                Ok(())
            }
            _ => {
                copies.wait_all(active);
                Ok(())
            }
        }
    }

    fn control(&mut self, inst: &Inst, active: u32, control: Control) -> Result<Next, Box<Trap>> {
        match control {
            Control::Branch => {
                let target = inst.imm.cast_unsigned();
                if active == self.group.mask {
                    return Ok(Next::Jump(target));
                }
                self.group = self.warp.split(self.group, active, target, inst.list);
                // `split` has moved what stays to the next instruction.
                Ok(Next::Jump(self.group.pc))
            }
            Control::BranchIndexed => self.branch_indexed(inst, active),
            Control::Exit => {
                if self.core.checks.is_some() {
                    self.check_exit(active)?;
                }
                if let Some(checks) = &mut self.core.checks {
                    checks.exit(self.warp.index, active);
                }
                if self.peers.size() > 1 {
                    // The cluster's barrier counts those who have exited as having arrived.
                    self.give_cluster(active, Order::Release);
                }
                self.core.live_threads -= active.count_ones();
                let phase = self.peers.barrier.phase;
                let arrived = self.warp.arrived.of(phase) & active;
                self.warp.arrived.exit(active);
                self.peers
                    .barrier
                    .exit(active.count_ones(), arrived.count_ones());
                // Barriers without a stated count no longer wait for these threads.
                self.core.check = 0xffff;
                self.core.changes += 1;
                self.group.mask &= !active;
                self.warp.exit(active);
                self.wake_meetings();
                Ok(if self.group.mask == 0 {
                    Next::Leave
                } else {
                    Next::Step
                })
            }
            Control::Trap => Err(Trap::new(
                FaultKind::LaunchFailed,
                first_lane(active),
                "the kernel executed a trap instruction",
            )),
            Control::Recursion => Err(Trap::new(
                FaultKind::IllegalInstruction,
                first_lane(active),
                "a call through a register of a function that is being called: recursion is not \
                 supported",
            )),
            Control::NoFunction => Err(Trap::new(
                FaultKind::IllegalInstruction,
                first_lane(active),
                "a call through a register that holds the address of no function with these \
                 parameters",
            )),
            Control::Assert => Err(self.assertion(inst, active)),
        }
    }

    fn branch_indexed(&mut self, inst: &Inst, active: u32) -> Result<Next, Box<Trap>> {
        let table = self
            .launch
            .kernel
            .tables
            .get(inst.list as usize)
            .map_or(&[][..], Vec::as_slice);
        let index = *self.warp.regs.word(inst.s[0]);
        if let Some(lane) = lanes(active).find(|&lane| index[lane] as usize >= table.len()) {
            let message = format!("index {} of a table of {} labels", index[lane], table.len());
            return Err(Trap::new(FaultKind::IllegalInstruction, lane, message));
        }
        let mut left = active;
        while left != 0 {
            let target = index[first_lane(left)];
            let same = left & collect(|lane| index[lane] == target);
            let to = table[target as usize];
            if same == self.group.mask {
                return Ok(Next::Jump(to));
            }
            let pc = self.group.pc;
            self.group = self
                .warp
                .split(self.group, same, to, inst.imm.cast_unsigned());
            self.group.pc = pc;
            left &= !same;
        }
        Ok(Next::Step)
    }

    fn barrier(&mut self, inst: &Inst, active: u32, op: Barrier) -> Result<Next, Box<Trap>> {
        let lane = first_lane(active);
        let id = self.warp.regs.word(inst.s[0])[lane] as usize;
        if id >= self.core.barriers.len() {
            return Err(Trap::new(
                FaultKind::IllegalInstruction,
                lane,
                format!("barrier {id}: there are 16"),
            ));
        }
        let stated = inst.s[1]
            .is_some()
            .then(|| self.warp.regs.word(inst.s[1])[lane]);
        if let Some(count) = stated
            && (count % 32 != 0 || (count == 0 && op == Barrier::Arrive))
        {
            let message =
                format!("barrier {id} for {count} threads: the number must be a multiple of 32");
            return Err(Trap::new(FaultKind::IllegalInstruction, lane, message));
        }
        if self.core.is_complete(id) {
            // Those who waited go first: this arrival is one of the next round's.
            self.fuel = 0;
            return Ok(Next::Jump(self.group.pc));
        }
        self.check_count(id, stated, lane)?;
        if let Some(counting) = &mut self.worker.counting {
            counting.executed(inst, self.group.pc, active, &self.warp.regs);
        }
        if let Some(checks) = &mut self.core.checks {
            checks.arrive(self.warp.index, active, id);
        }
        let whole = active == self.warp.live;
        self.core
            .arrive(id, active.count_ones(), whole, stated.filter(|&n| n > 0));
        if let Barrier::Reduce(_, negated) = op {
            let value = self.warp.regs.pred(inst.s[2]);
            self.core
                .contribute(id, active, if negated { !value } else { value });
        }
        if op == Barrier::Arrive {
            return Ok(Next::Step);
        }
        self.park(active, State::Barrier(id as u8))
    }

    /// Finds a barrier that others have come to with another count. What a GPU does then is not
    /// defined.
    fn check_count(&self, id: usize, stated: Option<u32>, lane: usize) -> Outcome {
        let barrier = &self.core.barriers[id];
        if self.core.checks.is_none() || barrier.arrived == 0 {
            return Ok(());
        }
        let all = self.launch.grid.threads().next_multiple_of(LANES as u32);
        let count = |stated: Option<u32>| stated.filter(|&n| n > 0).unwrap_or(all);
        let (mine, before) = (count(stated), count(barrier.stated));
        if mine == before {
            return Ok(());
        }
        let message = format!(
            "barrier {id} with different counts: {} threads have come for {before}, and this one \
             comes for {mine}; all that take part must state the same",
            barrier.arrived
        );
        Err(Trap::new(FaultKind::IllegalInstruction, lane, message))
    }

    /// Puts the active lanes aside in `state`; lanes outside the guard go on.
    pub(super) fn park(&mut self, active: u32, state: State) -> Result<Next, Box<Trap>> {
        self.warp.groups.push(Group {
            mask: active,
            state,
            ..self.group
        });
        self.group.mask &= !active;
        Ok(if self.group.mask == 0 {
            Next::Leave
        } else {
            Next::Step
        })
    }

    #[inline(always)]
    fn warp_op(&mut self, inst: &Inst, active: u32, op: WarpOp) -> Result<Next, Box<Trap>> {
        match op {
            WarpOp::ActiveMask => {
                self.warp.regs.set_word(inst.d[0], active, &[active; LANES]);
                return Ok(Next::Step);
            }
            WarpOp::Pause => {
                self.give_way(Window::Generic);
                return Ok(Next::Step);
            }
            WarpOp::LoadMatrix { .. } | WarpOp::StoreMatrix { .. } | WarpOp::MoveMatrix => {
                if active != FULL {
                    return self.meet(inst, active, FULL);
                }
            }
            _ => {
                let members = self.warp.regs.word(inst.s[3]);
                let mask = members[first_lane(active)];
                let all_say_so = collect(|lane| members[lane] == mask) & active == active;
                if !all_say_so || mask & self.warp.live != active {
                    return self.meet_by_mask(inst, active);
                }
            }
        }
        self.together(inst, active)?;
        Ok(Next::Step)
    }
}

pub(super) fn list<'l>(launch: &Launch<'l>, inst: &Inst) -> &'l RegList {
    static EMPTY: RegList = RegList {
        defs: Vec::new(),
        uses: Vec::new(),
    };
    if inst.list == NO_LIST {
        return &EMPTY;
    }
    launch
        .kernel
        .lists
        .get(inst.list as usize)
        .unwrap_or(&EMPTY)
}
