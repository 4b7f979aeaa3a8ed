//! Barriers in shared memory on which threads and asynchronous operations arrive (PTX ISA section
//! 9.7.13.15).
//!
//! What an mbarrier counts is kept beside shared memory; its eight bytes hold a pattern that tells
//! whether something else has been written there since.

use std::collections::{BTreeMap, BTreeSet};

use super::block::Core;
use super::check::{Origin, PhaseClock};
use super::space::Bytes;

/// The largest number of arrivals, and the largest transaction count in either direction (PTX ISA
/// section 9.7.13.15.1).
const MOST: u32 = (1 << 20) - 1;
/// Bits of a state below those of its phase.
const STATE_PENDING_BITS: u32 = 20;

/// The mbarriers of a block, by their offset in shared memory.
#[derive(Default)]
pub(crate) struct Mbarriers {
    live: BTreeMap<u32, Mbarrier>,
    invalidated: BTreeSet<u32>,
    /// How many there have been.
    made: u32,
}

pub(crate) struct Mbarrier {
    /// Phases that are complete.
    pub phase: u32,
    /// Arrivals that each phase waits for.
    pub expected: u32,
    /// Arrivals that the current phase still waits for.
    pub pending: u32,
    /// Bytes that the current phase still waits for. Below zero where more have come than were
    /// expected so far.
    pub tx: i32,
    /// Its number among those of the block.
    pub number: u32,
    /// What is known by those who see a phase complete.
    pub clock: PhaseClock,
    pattern: u64,
    /// Its initialisation, where the checks follow it.
    pub origin: Option<Origin>,
}

/// A phase that a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The current or the last phase, whichever has this parity.
    Parity(u32),
    Phase(u32),
}

impl Mbarrier {
    fn is_done(&self, awaited: Awaited) -> bool {
        match awaited {
            Awaited::Parity(parity) => self.phase & 1 != parity,
            Awaited::Phase(phase) => self.phase != phase,
        }
    }

    /// The opaque state of the current phase.
    fn state(&self) -> u64 {
        u64::from(self.phase) << STATE_PENDING_BITS | u64::from(self.pending)
    }

    /// A number that no other mbarrier of the launch has, that of its block given.
    pub fn id(&self, block: u64) -> u64 {
        block << 32 | u64::from(self.number)
    }

    fn complete_if_due(&mut self) -> bool {
        let is_due = self.pending == 0 && self.tx == 0;
        if is_due {
            self.phase = self.phase.wrapping_add(1);
            self.pending = self.expected;
        }
        is_due
    }

    /// Adds to the transaction count.
    fn add_tx(&mut self, bytes: i64) -> Result<(), String> {
        let tx = i64::from(self.tx) + bytes;
        if tx.unsigned_abs() > u64::from(MOST) {
            return Err(format!(
                "its transaction count would be {tx} bytes; from -{MOST} to {MOST} are allowed"
            ));
        }
        self.tx = tx as i32;
        Ok(())
    }

    /// What the current phase waits for, for a report.
    pub fn counts(&self) -> String {
        let Mbarrier {
            phase,
            expected,
            pending,
            tx,
            ..
        } = self;
        let bytes = match tx {
            0 => "transaction count 0".to_owned(),
            1.. => format!("transaction count {tx}: that many expected bytes have not come"),
            _ => format!(
                "transaction count {tx}: {} bytes more have come than were expected",
                tx.unsigned_abs()
            ),
        };
        format!("phase {phase}, {pending} of {expected} arrivals pending, {bytes}")
    }
}

/// The phase and the pending arrivals that a state holds.
pub(super) fn of_state(state: u64) -> (u32, u32) {
    let pending = state & u64::from(MOST);
    ((state >> STATE_PENDING_BITS) as u32, pending as u32)
}

impl Mbarriers {
    /// For a new block.
    pub fn clear(&mut self) {
        self.live.clear();
        self.invalidated.clear();
        self.made = 0;
    }

    /// What is known through the mbarrier at an offset.
    pub fn clock(&mut self, at: u32) -> Option<&mut PhaseClock> {
        self.live.get_mut(&at).map(|found| &mut found.clock)
    }

    /// The mbarrier at an offset, for a report.
    pub fn find(&self, at: u32) -> Option<&Mbarrier> {
        self.live.get(&at)
    }

    pub fn find_mut(&mut self, at: u32) -> Option<&mut Mbarrier> {
        self.live.get_mut(&at)
    }

    fn get(&mut self, shared: &Bytes, at: u32) -> Result<&mut Mbarrier, String> {
        let invalidated = self.invalidated.contains(&at);
        let Some(found) = self.live.get_mut(&at) else {
            return Err(if invalidated {
                "it was invalidated (mbarrier.inval) and not initialised again".to_owned()
            } else {
                "nothing has initialised it (mbarrier.init)".to_owned()
            });
        };
        if shared.word(at) != found.pattern {
            return Err("something else has been written over its eight bytes".to_owned());
        }
        Ok(found)
    }
}

/// What the interpreter and asynchronous operations do to the mbarriers of a block. Offsets are
/// those in shared memory, multiples of 8 inside of it. An error says what is wrong with the
/// mbarrier.
impl Core {
    fn mbarrier(&mut self, at: u32) -> Result<&mut Mbarrier, String> {
        self.mbarriers.get(&self.shared, at)
    }

    pub(super) fn init_mbarrier(&mut self, at: u32, count: u32) -> Result<(), String> {
        if !(1..=MOST).contains(&count) {
            return Err(format!(
                "initialised for {count} arrivals; 1 to {MOST} are allowed"
            ));
        }
        if self.mbarrier(at).is_ok() {
            return Err(
                "it is initialised already: mbarrier.inval must come before another mbarrier.init"
                    .to_owned(),
            );
        }
        self.mbarriers.made = self.mbarriers.made.wrapping_add(1);
        let number = self.mbarriers.made;
        // Nothing that a kernel stores on purpose: high bits that depend on place and time.
        let mixed = (u64::from(at) << 32 | u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pattern = mixed ^ mixed >> 29 | 0xfff8 << 48;
        self.shared.set_word(at, pattern);
        self.mbarriers.invalidated.remove(&at);
        self.mbarriers.live.insert(
            at,
            Mbarrier {
                phase: 0,
                expected: count,
                pending: count,
                tx: 0,
                number,
                clock: PhaseClock::default(),
                pattern,
                origin: None,
            },
        );
        Ok(())
    }

    pub(super) fn invalidate_mbarrier(&mut self, at: u32) -> Result<(), String> {
        self.mbarrier(at)?;
        self.mbarriers.live.remove(&at);
        self.mbarriers.invalidated.insert(at);
        Ok(())
    }

    /// Bytes that the current phase is to wait for. They may be announced after they have come.
    pub(super) fn expect_tx(&mut self, at: u32, bytes: u32) -> Result<(), String> {
        let mbarrier = self.mbarrier(at)?;
        mbarrier.add_tx(i64::from(bytes))?;
        self.complete_mbarrier(at);
        Ok(())
    }

    /// An asynchronous operation has brought `bytes`.
    pub(super) fn complete_tx(&mut self, at: u32, bytes: u32) -> Result<(), String> {
        let mbarrier = self.mbarrier(at)?;
        mbarrier.add_tx(-i64::from(bytes))?;
        self.complete_mbarrier(at);
        Ok(())
    }

    /// Gives the state before the arrivals.
    pub(super) fn arrive_mbarrier(&mut self, at: u32, arrival: Arrival) -> Result<u64, String> {
        let mbarrier = self.mbarrier(at)?;
        let Arrival {
            count,
            expects,
            drops,
            no_complete,
        } = arrival;
        let before = mbarrier.counts();
        let state = mbarrier.state();
        mbarrier.add_tx(i64::from(expects))?;
        if count == 0 || count > mbarrier.pending {
            return Err(format!(
                "{count} arrivals where its phase doesn't wait for as many: {before}"
            ));
        }
        if no_complete && count == mbarrier.pending {
            return Err(format!(
                "an arrival with .noComplete completes the phase: {before}"
            ));
        }
        mbarrier.pending -= count;
        if drops {
            mbarrier.expected -= count.min(mbarrier.expected);
        }
        self.complete_mbarrier(at);
        Ok(state)
    }

    /// An mbarrier's number, which nothing else of the launch has, and its running phase.
    pub(super) fn phase_of(&self, at: u32) -> Option<(u64, u32)> {
        let found = self.mbarriers.find(at)?;
        Some((found.id(self.linear), found.phase))
    }

    /// Whether there is one, or why not.
    pub(super) fn is_mbarrier(&mut self, at: u32) -> Result<(), String> {
        self.mbarrier(at).map(|_| ())
    }

    /// One more arrival that the current phase waits for.
    pub(super) fn add_pending(&mut self, at: u32) -> Result<(), String> {
        let mbarrier = self.mbarrier(at)?;
        if mbarrier.pending == MOST {
            return Err(format!("its phase waits for {MOST} arrivals already"));
        }
        mbarrier.pending += 1;
        Ok(())
    }

    /// Whether the phase is complete.
    pub(super) fn test_mbarrier(&mut self, at: u32, awaited: Awaited) -> Result<bool, String> {
        let mbarrier = self.mbarrier(at)?;
        if let Awaited::Phase(phase) = awaited
            && !matches!(mbarrier.phase.wrapping_sub(phase), 0 | 1)
        {
            return Err(format!(
                "the state waited with is of phase {phase}, which is neither the current one nor the \
                 one before it: {}",
                mbarrier.counts()
            ));
        }
        Ok(mbarrier.is_done(awaited))
    }

    fn complete_mbarrier(&mut self, at: u32) {
        self.changes += 1;
        if let Some(mbarrier) = self.mbarriers.live.get_mut(&at) {
            let phase = mbarrier.phase;
            if mbarrier.complete_if_due() {
                let id = mbarrier.id(self.linear);
                mbarrier.clock.complete(id, phase);
            }
        }
    }
}

/// An arrive-on operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub count: u32,
    /// Bytes to expect.
    pub expects: u32,
    /// Later phases expect as many arrivals less.
    pub drops: bool,
    pub no_complete: bool,
}
