//! Block barriers: what they order, and warps that reach them in parts.

use super::Checks;
use super::report::line;
use crate::decode::op::{Control, Op};
use crate::exec::fault::FaultKind;
use crate::exec::launch::Launch;
use crate::exec::trap::Trap;
use crate::exec::warp::{State, Warp};

impl Checks {
    pub(in crate::exec) fn arrive(&mut self, warp: u32, lanes: u32, barrier: usize) {
        self.clocks.arrive(warp as usize, lanes, barrier);
    }

    pub(in crate::exec) fn depart(&mut self, warp: u32, lanes: u32, barrier: usize, of_all: bool) {
        self.clocks.depart(warp as usize, lanes, barrier, of_all);
    }

    pub(in crate::exec) fn open(&mut self, barrier: usize) {
        self.clocks.open(barrier);
    }

    pub(in crate::exec) fn exit(&mut self, warp: u32, lanes: u32) {
        self.clocks.exit(warp as usize, lanes);
    }
}

/// `bar` and `.aligned` barriers have `imm` set.
fn is_aligned(launch: &Launch<'_>, pc: u32) -> bool {
    launch
        .kernel
        .code
        .get(pc as usize)
        .is_some_and(|inst| inst.imm != 0)
}

fn exits(launch: &Launch<'_>, pc: u32) -> bool {
    let inst = launch.kernel.code.get(pc as usize);
    inst.is_some_and(|inst| inst.op == Op::Control(Control::Exit) && !inst.guard.is_some())
}

/// A warp whose lanes wait for one barrier at different instructions: (code position, finding).
#[cold]
pub(in crate::exec) fn parted(
    launch: &Launch<'_>,
    warp: &Warp,
    barrier: u8,
) -> Option<(usize, Box<Trap>)> {
    let mut here = warp
        .groups
        .iter()
        .filter(|g| g.state == State::Barrier(barrier));
    let first = here.next()?;
    let other = here.find(|g| g.pc != first.pc)?;
    if !is_aligned(launch, first.pc) && !is_aligned(launch, other.pc) {
        return None;
    }
    let message = format!(
        "divergent barrier: lanes {:#010x} of the warp wait here for barrier {barrier}, lanes {:#010x} at {}; a warp must come to an \
         aligned barrier as a whole",
        first.mask,
        other.mask,
        line(launch, other.pc as usize)
    );
    let lane = first.mask.trailing_zeros() as usize % 32;
    Some((
        first.pc as usize,
        Trap::new(FaultKind::LaunchFailed, lane, message),
    ))
}

/// A warp whose one part waits for an aligned barrier while the rest waits for that part where
/// their branch ends.
#[cold]
pub(in crate::exec) fn left_behind(launch: &Launch<'_>, warp: &Warp) -> Option<(usize, Box<Trap>)> {
    let waiting = warp.groups.iter().find(|g| match g.state {
        State::Barrier(_) => is_aligned(launch, g.pc),
        _ => false,
    })?;
    // Lanes whose next instruction is the end have exited but for a formality.
    let (pc, lanes) = warp.parked().find(|&(pc, _)| !exits(launch, pc))?;
    let message = format!(
        "divergent barrier: lanes {:#010x} of the warp wait here, and lanes {lanes:#010x} have gone past to {} without it; a warp must \
         come to an aligned barrier as a whole",
        waiting.mask,
        line(launch, pc as usize)
    );
    let lane = waiting.mask.trailing_zeros() as usize % 32;
    Some((
        waiting.pc as usize,
        Trap::new(FaultKind::LaunchFailed, lane, message),
    ))
}
