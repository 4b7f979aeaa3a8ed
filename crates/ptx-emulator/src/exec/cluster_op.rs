//! The instructions of clusters, and `setmaxnreg`.

use super::block::Core;
use super::check;
use super::fault::FaultKind;
use super::interpret::{Next, Run, first_lane};
use super::registers::{LANES, lanes};
use super::space::{block_of, mapped};
use super::trap::{Outcome, Trap};
use super::warp::State;
use crate::decode::op::{ClusterOp, Inst, Order, Window};

/// Threads of a warp.
const WARP: u32 = LANES as u32;
/// Warps of a warpgroup.
pub(super) const WARPGROUP: usize = 4;

/// Lanes of a warp that have arrived at the cluster's barrier and not waited yet, by the parity of
/// the phase.
#[derive(Clone, Copy, Default)]
pub(crate) struct Arrived {
    lanes: [u32; 2],
    /// The last arrival of the current phase that a warp must make as a whole.
    aligned_at: Option<u32>,
}

impl Arrived {
    /// Lanes that have arrived in a phase.
    pub fn of(&self, phase: u32) -> u32 {
        self.lanes[(phase & 1) as usize]
    }

    /// Lanes that have arrived and not waited.
    fn all(&self) -> u32 {
        self.lanes[0] | self.lanes[1]
    }

    pub fn exit(&mut self, mask: u32) {
        self.lanes.iter_mut().for_each(|lanes| *lanes &= !mask);
    }
}

/// The registers of a block's warps, as `setmaxnreg` moves them (PTX ISA section 9.7.20.5).
#[derive(Clone, Debug, Default)]
pub(crate) struct RegisterPool {
    /// Registers of each thread, by warp; empty until the first `setmaxnreg`.
    of: Vec<u32>,
    /// How often each warp has executed it.
    times: Vec<u32>,
    /// Registers of one thread of each warp that no warp has.
    pub free: u32,
}

impl RegisterPool {
    pub fn clear(&mut self) {
        *self = RegisterPool::default();
    }

    /// `each`: a thread's registers at the launch.
    fn start(&mut self, warps: usize, each: u32) {
        if self.of.is_empty() {
            self.of = vec![each; warps];
            self.times = vec![0; warps];
        }
    }

    /// A warp of a warpgroup that has executed `setmaxnreg` while another one has not, as often.
    fn uneven(&self, warp: usize) -> Option<(usize, usize)> {
        let first = warp / WARPGROUP * WARPGROUP;
        let group = first..(first + WARPGROUP).min(self.times.len());
        let most = group.clone().max_by_key(|&w| self.times[w])?;
        let least = group.min_by_key(|&w| self.times[w])?;
        (self.times[most] != self.times[least]).then_some((most, least))
    }
}

impl Run<'_, '_, '_> {
    pub(super) fn cluster_op(
        &mut self,
        inst: &Inst,
        active: u32,
        op: ClusterOp,
    ) -> Result<Next, Box<Trap>> {
        let window = |generic| {
            if generic {
                Window::Generic
            } else {
                Window::Cluster
            }
        };
        match op {
            ClusterOp::Map { generic } => {
                let from = self.warp.regs.any(inst.s[0]);
                let ranks = *self.warp.regs.word(inst.s[1]);
                let mut out = [0; LANES];
                for lane in lanes(active) {
                    out[lane] = mapped(window(generic), from[lane], ranks[lane])
                        .ok_or_else(|| not_shared(from[lane], lane))?;
                }
                self.warp.regs.set_any(inst.d[0], active, &out);
            }
            ClusterOp::RankOf { generic } => {
                let from = self.warp.regs.any(inst.s[0]);
                let mut out = [0; LANES];
                for lane in lanes(active) {
                    let (rank, _) = block_of(window(generic), from[lane])
                        .ok_or_else(|| not_shared(from[lane], lane))?;
                    out[lane] = rank.unwrap_or(self.core.rank);
                }
                self.warp.regs.set_word(inst.d[0], active, &out);
            }
            ClusterOp::IsShared { cluster } => {
                let from = *self.warp.regs.wide(inst.s[0]);
                let me = self.core.rank;
                let is_shared = |va| {
                    block_of(Window::Generic, va)
                        .is_some_and(|(rank, _)| cluster || rank.is_none_or(|rank| rank == me))
                };
                let found = super::registers::collect(|lane| is_shared(from[lane]));
                self.warp.regs.set_pred(inst.d[0], active, found);
            }
            ClusterOp::Arrive { order, aligned } => {
                self.cluster_arrive(active, order, aligned)?;
            }
            ClusterOp::Wait { .. } => return self.cluster_wait(active),
            ClusterOp::SetRegisters { increase } => {
                return self.set_registers(active, inst.imm.cast_unsigned(), increase);
            }
        }
        Ok(Next::Step)
    }

    fn cluster_arrive(&mut self, active: u32, order: Order, aligned: bool) -> Outcome {
        let phase = self.peers.barrier.phase;
        let arrived = &mut self.warp.arrived;
        let twice = arrived.all() & active;
        if twice != 0 {
            let message = "a second barrier.cluster.arrive of a thread without a \
                           barrier.cluster.wait between them";
            return Err(Trap::new(
                FaultKind::IllegalInstruction,
                first_lane(twice),
                message,
            ));
        }
        if arrived.of(phase) == 0 {
            arrived.aligned_at = None;
        }
        if let Some(other) = arrived.aligned_at.filter(|&pc| pc != self.group.pc)
            && self.core.checks.is_some()
        {
            let message = format!(
                "divergent barrier: other lanes of the warp have come to barrier.cluster.arrive at \
                 PTX line {}; a warp must come to an aligned one as a whole",
                self.launch
                    .kernel
                    .places
                    .get(other as usize)
                    .map_or(0, |place| place.ptx_line)
            );
            return Err(Trap::new(
                FaultKind::LaunchFailed,
                first_lane(active),
                message,
            ));
        }
        if aligned {
            arrived.aligned_at = Some(self.group.pc);
        }
        arrived.lanes[(phase & 1) as usize] |= active;
        self.core.counts.barriers += 1;
        self.core.changes += 1;
        self.warp.spins.forget(active);
        self.give_cluster(active, order);
        self.peers.barrier.arrive(active.count_ones());
        Ok(())
    }

    fn cluster_wait(&mut self, active: u32) -> Result<Next, Box<Trap>> {
        let phase = self.peers.barrier.phase;
        let arrived = &mut self.warp.arrived;
        let missing = active & !arrived.all();
        if missing != 0 {
            let message = "barrier.cluster.wait of a thread that has not arrived \
                           (barrier.cluster.arrive)";
            return Err(Trap::new(
                FaultKind::IllegalInstruction,
                first_lane(missing),
                message,
            ));
        }
        let waiting = active & arrived.of(phase);
        let passed = active & !waiting;
        arrived.exit(passed);
        if passed != 0 {
            check::passed(self.core, phase.wrapping_sub(1));
        }
        self.pass_cluster(passed);
        self.warp.spins.forget(active);
        if waiting != 0 {
            return self.park(waiting, State::Cluster(phase));
        }
        Ok(Next::Step)
    }

    /// `setmaxnreg`: gives registers back to the block's pool, or takes them once there are enough.
    fn set_registers(
        &mut self,
        active: u32,
        count: u32,
        increase: bool,
    ) -> Result<Next, Box<Trap>> {
        let lane = first_lane(active);
        let warp = self.warp.index as usize;
        let warps = self.launch.grid.threads().div_ceil(WARP) as usize;
        let each = self.launch.registers_per_thread();
        let pool = &mut self.core.registers;
        pool.start(warps, each);
        let now = pool.of[warp];
        let refuse = |message: String| Err(Trap::new(FaultKind::IllegalInstruction, lane, message));
        let is_known = self.launch.kernel.info.registers.is_some();
        if is_known && increase && count < now {
            return refuse(format!(
                "setmaxnreg.inc to {count} registers of a warp that has {now}"
            ));
        }
        if is_known && !increase && count > now {
            return refuse(format!(
                "setmaxnreg.dec to {count} registers of a warp that has {now}"
            ));
        }
        if increase && count.saturating_sub(now) > pool.free {
            // Until others have given theirs back.
            self.give_way(Window::Shared);
            return Ok(Next::Jump(self.group.pc));
        }
        if increase == (count > now) {
            pool.free = (pool.free + now).saturating_sub(count);
            pool.of[warp] = count;
        }
        // One elected thread in the place of the warp is what some kernels do (DeepGEMM); nothing
        // tells what the rest of the warpgroup has then.
        if active == self.warp.live {
            pool.times[warp] += 1;
        } else {
            self.core.counts.partial_setmaxnreg += 1;
        }
        self.core.changes += 1;
        Ok(Next::Step)
    }
}

fn not_shared(va: u64, lane: usize) -> Box<Trap> {
    let message = format!("{va:#x} is no address of shared memory");
    Trap::new(FaultKind::IllegalAddress, lane, message)
}

/// A warpgroup of a block whose threads have all exited has executed `setmaxnreg` in part.
pub(super) fn uneven_registers(core: &Core) -> Option<(usize, String)> {
    let warps = core.registers.times.len();
    let (most, least) = (0..warps)
        .step_by(WARPGROUP)
        .find_map(|warp| core.registers.uneven(warp))?;
    let message = format!(
        "setmaxnreg by part of a warpgroup: warp {most} has executed it {} times and warp {least} {} \
         times; all warps of a warpgroup must execute the same one",
        core.registers.times[most], core.registers.times[least]
    );
    Some((most, message))
}
