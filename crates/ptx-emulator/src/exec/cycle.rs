//! Finding a warp that goes round in circles: it changes no memory, and its registers are what they
//! were the last time round.

use super::registers::Registers;
use super::warp::{Position, Warp};

/// Work between two looks at a warp that does not give way.
pub(super) const LOOK_EVERY: i64 = 4096;
/// Looks in which a warp changes nothing before its state is kept and compared.
const PATIENCE: u64 = 16;

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
    /// The warp has done `work` and changed nothing. `gave_way`: its turn ended at a place where it
    /// waits for another thread, which it comes to again in every round.
    pub fn turn(&mut self, warp: &Warp, work: i64, gave_way: bool) {
        self.spent += work;
        if self.spent < LOOK_EVERY && !gave_way {
            return;
        }
        self.spent = 0;
        self.looks += 1;
        self.left = self.left.saturating_sub(1);
        if self.looks < PATIENCE {
            return;
        }
        if let Some((regs, position)) = &self.saved
            && warp.is_at(position)
            && *regs == warp.regs
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

    /// Something has changed, by this warp or another thread.
    pub fn reset(&mut self) {
        if self.looks > 0 {
            *self = Cycle::default();
        }
    }

    /// Whether the warp has been where it is before, and so will be again.
    pub fn is_closed(&self) -> bool {
        self.left > 0
    }
}
