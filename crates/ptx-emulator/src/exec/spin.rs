//! What the lanes of a warp last waited for in vain on an mbarrier.

use super::registers::LANES;

/// A wait that found its phase incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spin {
    pub pc: u32,
    /// Offset of the mbarrier.
    pub at: u32,
    /// The phase that was the current one then.
    pub phase: u32,
}

#[derive(Default)]
pub(crate) struct Spins {
    lanes: [Option<Spin>; LANES],
    any: bool,
}

impl Spins {
    pub fn of(&self, lane: usize) -> Option<Spin> {
        self.lanes[lane]
    }

    /// The lane finds its phase incomplete. What it waits for is the phase that was the current
    /// one when it began to.
    pub fn waits(&mut self, lane: usize, pc: u32, at: u32, phase: u32) {
        let began = self.lanes[lane].filter(|spin| (spin.pc, spin.at) == (pc, at));
        let phase = began.map_or(phase, |spin| spin.phase);
        self.lanes[lane] = Some(Spin { pc, at, phase });
        self.any = true;
    }

    pub fn done(&mut self, lane: usize) {
        self.lanes[lane] = None;
    }

    /// The lanes have met other threads, so they may know by other means what they waited for.
    pub fn forget(&mut self, mask: u32) {
        if !self.any {
            return;
        }
        for (lane, spin) in self.lanes.iter_mut().enumerate() {
            if mask >> lane & 1 == 1 {
                *spin = None;
            }
        }
        self.any = self.lanes.iter().any(Option::is_some);
    }
}
