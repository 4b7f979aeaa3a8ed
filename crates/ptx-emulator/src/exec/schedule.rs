//! In which order blocks and warps have their turns. A GPU promises none, so a right kernel gives
//! the same results in all of them.

use std::str::FromStr;

/// Work a warp may do before the next one's turn; an instruction costs one, a look at what another
/// thread may write [`super::interpret::WAITING_COST`].
const WARP_TURN: i64 = 16 << 10;
/// Work a block may do before another resident block's turn.
const BLOCK_TURN: i64 = 4 << 20;
/// Rounds in which a starved warp has one turn, even if others could go on.
const STARVED_ROUNDS: u64 = 64;

/// An order of blocks and warps. All but [`Schedule::Fair`] run on one thread of the host, so that
/// they can be repeated exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Blocks in order, warps in long turns.
    #[default]
    Fair,
    /// Everything drawn by lot from this seed: the order of blocks and warps, and how long a turn
    /// is.
    Seed(u64),
    /// The block of the highest index always has its turn first.
    LastBlockFirst,
    /// The first block has turns thousands of times as long as the others'.
    OneAhead,
    /// The first warp of each block runs when no other can, and once in a while.
    StarveWarp,
}

/// Text that names no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no schedule: fair, seed:7, last-block-first, one-ahead or starve-warp")]
pub struct ScheduleError {
    given: String,
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Schedule, ScheduleError> {
        let seed = text
            .strip_prefix("seed:")
            .and_then(|seed| seed.parse().ok());
        match (text, seed) {
            (_, Some(seed)) => Ok(Schedule::Seed(seed)),
            ("fair", _) => Ok(Schedule::Fair),
            ("last-block-first", _) => Ok(Schedule::LastBlockFirst),
            ("one-ahead", _) => Ok(Schedule::OneAhead),
            ("starve-warp", _) => Ok(Schedule::StarveWarp),
            _ => Err(ScheduleError {
                given: text.to_owned(),
            }),
        }
    }
}

impl Schedule {
    /// The block that starts as number `index` of `blocks`.
    pub(crate) fn block(self, index: u64, blocks: u64) -> u64 {
        match self {
            Schedule::LastBlockFirst => blocks - 1 - index,
            Schedule::Seed(seed) => {
                let mask = blocks.next_power_of_two() - 1;
                let half = (mask.count_ones() / 2).max(1);
                let mut lot = Lot::new(seed, 0);
                let (factor, offset) = (lot.next() | 1, lot.next());
                let mut at = index;
                // Each step is a bijection below the power of two, so walking until it hits a block
                // is one of the blocks.
                loop {
                    at = at.wrapping_mul(factor).wrapping_add(offset) & mask;
                    at ^= at >> half;
                    if at < blocks {
                        return at;
                    }
                }
            }
            _ => index,
        }
    }

    fn seed(self) -> u64 {
        match self {
            Schedule::Seed(seed) => seed,
            _ => 0,
        }
    }

    pub(crate) fn is_parallel(self) -> bool {
        self == Schedule::Fair
    }
}

/// Numbers drawn by lot: splitmix64.
struct Lot(u64);

impl Lot {
    fn new(seed: u64, stream: u64) -> Self {
        Lot(seed ^ stream.wrapping_mul(0xd605_1f5b_2a25_9c31))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// In which order the clusters of a launch have their turns.
pub(crate) struct Order {
    schedule: Schedule,
    lot: Lot,
}

impl Order {
    pub fn new(schedule: Schedule) -> Self {
        let lot = Lot::new(schedule.seed(), u64::MAX);
        Order { schedule, lot }
    }

    /// Whether another cluster starts before those that wait have a turn.
    pub fn starts_another(&mut self) -> bool {
        match self.schedule {
            Schedule::Seed(_) => self.lot.next() & 1 == 1,
            _ => true,
        }
    }

    /// Which of the `waiting` clusters has its turn; the first has waited longest.
    pub fn next(&mut self, waiting: usize) -> usize {
        match self.schedule {
            Schedule::Seed(_) => (self.lot.next() % waiting.max(1) as u64) as usize,
            _ => 0,
        }
    }
}

/// The turns of one block.
pub(crate) struct Turns {
    schedule: Schedule,
    linear: u64,
    lot: Lot,
    round: u64,
    /// Where this round starts, drawn by lot.
    start: u64,
}

impl Turns {
    pub fn new(schedule: Schedule, linear: u64) -> Self {
        Turns {
            schedule,
            linear,
            lot: Lot::new(schedule.seed(), linear + 1),
            round: 0,
            start: 0,
        }
    }

    pub fn next_round(&mut self) {
        self.round += 1;
        if let Schedule::Seed(_) = self.schedule {
            self.start = self.lot.next() >> 1;
        }
    }

    /// The warp whose turn comes as number `step` of the round's `warps`; `None` if it is passed
    /// over. `progressed`: another has run.
    pub fn warp(&self, step: usize, warps: usize, progressed: bool) -> Option<usize> {
        match self.schedule {
            Schedule::Seed(_) => {
                let at = (self.start as usize + step) % warps;
                Some(if self.start & 1 == 1 {
                    warps - 1 - at
                } else {
                    at
                })
            }
            Schedule::StarveWarp => {
                let warp = warps - 1 - step;
                (warp > 0 || !progressed || self.round.is_multiple_of(STARVED_ROUNDS))
                    .then_some(warp)
            }
            _ => Some(step),
        }
    }

    pub fn warp_turn(&mut self) -> i64 {
        match self.schedule {
            Schedule::Seed(_) => 1 << (self.lot.next() % 12),
            _ => WARP_TURN,
        }
    }

    pub fn block_turn(&mut self) -> i64 {
        match self.schedule {
            Schedule::Seed(_) => 1 << (6 + self.lot.next() % 12),
            Schedule::OneAhead if self.linear == 0 => BLOCK_TURN << 6,
            Schedule::OneAhead => BLOCK_TURN >> 6,
            _ => BLOCK_TURN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_runs_every_block_once() {
        for schedule in [
            "fair",
            "seed:1",
            "seed:99",
            "last-block-first",
            "one-ahead",
            "starve-warp",
        ] {
            let schedule: Schedule = schedule.parse().unwrap();
            for blocks in [1, 2, 7, 64, 100] {
                let mut seen: Vec<u64> = (0..blocks)
                    .map(|index| schedule.block(index, blocks))
                    .collect();
                seen.sort_unstable();
                assert_eq!(
                    seen,
                    (0..blocks).collect::<Vec<_>>(),
                    "{schedule:?} of {blocks}"
                );
            }
        }
        assert!("seed:x".parse::<Schedule>().is_err());
        assert!("".parse::<Schedule>().is_err());
    }

    #[test]
    fn every_warp_has_a_turn_in_a_round() {
        for schedule in [Schedule::Fair, Schedule::Seed(3), Schedule::StarveWarp] {
            let mut turns = Turns::new(schedule, 5);
            turns.next_round();
            let mut seen: Vec<_> = (0..6)
                .filter_map(|step| turns.warp(step, 6, false))
                .collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        }
    }
}
