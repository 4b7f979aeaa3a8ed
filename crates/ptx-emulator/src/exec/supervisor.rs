//! What a launch asks whoever runs it: whether it may try again once it can't go on by itself, and
//! how it takes turns with the launches before and after it (programmatic dependent launch).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::check::Between;

/// Runs several launches side by side. A launch calls it on the thread that runs the launch, while
/// none of its blocks runs.
pub trait Supervisor: std::fmt::Debug + Send + Sync {
    /// No block can go on before somebody else changes memory. Returns when that may have happened:
    /// true to try again, false to end the launch as a deadlock. `changed`: the launch itself has
    /// changed memory since the last call.
    fn stuck(&self, changed: bool) -> bool;

    /// Every block has executed `griddepcontrol.launch_dependents` or ended: the launch behind this
    /// one may start. Returns when this one is to go on. It is called at most once. `checks`: what
    /// the checks know of this launch, for the one behind it.
    fn dependents_may_start(&self, checks: Option<Neighbour>);

    /// Whether all launches that `griddepcontrol.wait` waits for have ended.
    fn prerequisites_ended(&self) -> bool;

    /// What the checks know of the launch before this one, if it has not ended.
    fn primary(&self) -> Option<Neighbour>;
}

/// What the checks know of a launch that another one runs beside.
#[derive(Clone)]
pub struct Neighbour(pub(super) Arc<Between>);

impl std::fmt::Debug for Neighbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Neighbour")
    }
}

/// Whether the blocks of a launch allow dependent launches to start.
pub(crate) struct Dependents {
    /// Blocks that have neither allowed it nor ended.
    left: AtomicU64,
    /// Whether a block has said so.
    asked: AtomicBool,
}

impl Dependents {
    pub fn new(blocks: u64) -> Self {
        Dependents {
            left: AtomicU64::new(blocks),
            asked: AtomicBool::new(false),
        }
    }

    /// A block allows it, for the first time.
    pub fn allow(&self) {
        self.asked.store(true, SeqCst);
        self.left.fetch_sub(1, SeqCst);
    }

    /// A block has ended that had not allowed it.
    pub fn end(&self) {
        self.left.fetch_sub(1, SeqCst);
    }

    pub fn may_start(&self) -> bool {
        self.asked.load(SeqCst) && self.left.load(SeqCst) == 0
    }
}
