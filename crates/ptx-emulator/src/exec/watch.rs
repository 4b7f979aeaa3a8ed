//! Finding a launch that goes on for ever: every thread looks again and again at memory that nobody
//! changes.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long nothing may change. A turn in which something does takes less.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the workers of a launch know together.
pub(crate) struct Watch {
    started: Instant,
    /// Milliseconds at which something changed last.
    changed: AtomicU64,
    changes: AtomicU64,
    /// Workers with a block that has not looked in vain since the last change.
    active: AtomicUsize,
}

impl Watch {
    pub fn new(workers: usize) -> Self {
        Watch {
            started: Instant::now(),
            changed: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            active: AtomicUsize::new(workers),
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// A turn is over. Gives a number that another change makes another one.
    pub fn stamp(&self, idle: bool) -> u64 {
        if !idle {
            self.changed.store(self.now(), SeqCst);
            return self.changes.fetch_add(1, SeqCst) + 1;
        }
        self.changes.load(SeqCst)
    }

    /// Whether all blocks of a worker have looked in vain since the last change. `active`: what it
    /// said before.
    pub fn turn(&self, active: &mut bool, idle: bool) {
        match (*active, idle) {
            (true, true) => self.active.fetch_sub(1, SeqCst),
            (false, false) => self.active.fetch_add(1, SeqCst),
            _ => return,
        };
        *active = !idle;
    }

    /// A worker has no more to do.
    pub fn leave(&self, active: bool) {
        if active {
            self.active.fetch_sub(1, SeqCst);
        }
    }

    pub fn is_stuck(&self) -> bool {
        let since = self.now().saturating_sub(self.changed.load(SeqCst));
        self.active.load(SeqCst) == 0 && u128::from(since) > PATIENCE.as_millis()
    }
}
