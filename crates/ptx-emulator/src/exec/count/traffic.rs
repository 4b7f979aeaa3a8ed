//! What each block reads and writes in global memory, kept apart while workers run several blocks
//! in turns.

use crate::l2::Trace;

#[derive(Default)]
pub(super) struct Traces {
    /// The block that runs now.
    block: u64,
    open: Trace,
    /// Of blocks that have ended.
    done: Vec<(u64, Trace)>,
}

impl Traces {
    /// What follows is done by this block, which has done what is in `trace`.
    pub fn enter(&mut self, block: u64, trace: Trace) {
        self.put_aside(trace);
        self.block = block;
    }

    pub fn open(&mut self) -> &mut Trace {
        &mut self.open
    }

    /// What the block has done, which goes on with another worker.
    pub fn leave(&mut self) -> Trace {
        std::mem::take(&mut self.open)
    }

    fn put_aside(&mut self, next: Trace) {
        let before = std::mem::replace(&mut self.open, next);
        if !before.is_empty() {
            self.done.push((self.block, before));
        }
    }

    /// Those of another worker.
    pub fn add(&mut self, mut other: Traces) {
        other.put_aside(Trace::default());
        self.done.extend(other.done);
    }

    /// In the order of the blocks.
    pub fn finish(mut self) -> Vec<Trace> {
        self.put_aside(Trace::default());
        self.done.sort_unstable_by_key(|(block, _)| *block);
        self.done.into_iter().map(|(_, trace)| trace).collect()
    }
}
