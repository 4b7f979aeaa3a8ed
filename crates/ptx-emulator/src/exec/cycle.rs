//! Finding a warp that goes round in circles: it changes no memory, and its registers are what they
//! were the last time round.

use super::registers::Registers;
use super::warp::{Position, Warp};
use crate::decode::Kernel;
use crate::decode::op::{Move, Op, Special};

/// Work between two looks at a warp.
const LOOK_EVERY: i64 = 4096;
/// Looks in which a warp changes nothing before its state is kept and compared.
const PATIENCE: u64 = 64;

/// What is known of one warp.
#[derive(Default)]
pub(super) struct Cycle {
    spent: i64,
    /// Looks since the warp changed something.
    looks: u64,
    saved: Option<(Registers, Position)>,
    /// Looks within which the saved state must come again.
    left: u64,
}

impl Cycle {
    /// The warp has done `work` and changed nothing.
    pub fn turn(&mut self, warp: &Warp, work: i64) {
        self.spent += work;
        if self.spent < LOOK_EVERY {
            return;
        }
        self.spent = 0;
        self.looks += 1;
        self.left = self.left.saturating_sub(1);
        if self.looks < PATIENCE {
            return;
        }
        if let Some((regs, position)) = &self.saved
            && *regs == warp.regs
            && *position == warp.position()
        {
            // It was saved at a power of two, so fewer looks than that number lie between.
            self.left = self.looks;
        }
        // After a power of two come as many looks as before it: in the end the saved state lies
        // inside the circle, and all of it is seen.
        if self.looks.is_power_of_two() && self.left == 0 {
            self.saved = Some((warp.regs.clone(), warp.position()));
        }
    }

    /// The warp has changed something, or is another one.
    pub fn reset(&mut self) {
        *self = Cycle::default();
    }

    /// Whether the warp has been where it is before, and so will be again.
    pub fn is_closed(&self) -> bool {
        self.left > 0
    }
}

/// Whether a kernel looks at a clock: it may come to an end without anything else changing.
pub(super) fn has_clock(kernel: &Kernel) -> bool {
    kernel.code.iter().any(|inst| match inst.op {
        Op::Move(Move::Special(which)) => matches!(
            which,
            Special::Clock
                | Special::Clock64
                | Special::GlobalTimer
                | Special::GlobalTimerLow
                | Special::GlobalTimerHigh
        ),
        _ => false,
    })
}
