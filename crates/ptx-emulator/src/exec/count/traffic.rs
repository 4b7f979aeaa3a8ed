//! What each block reads and writes in global memory, kept apart while one worker runs several
//! blocks in turns.

use std::collections::HashMap;

use crate::l2::Trace;

#[derive(Default)]
pub(super) struct Traces {
    /// The block that runs now.
    block: u64,
    open: Trace,
    others: HashMap<u64, Trace>,
}

impl Traces {
    pub fn enter(&mut self, block: u64) {
        if block != self.block {
            let next = self.others.remove(&block).unwrap_or_default();
            self.put_aside(next);
            self.block = block;
        }
    }

    pub fn open(&mut self) -> &mut Trace {
        &mut self.open
    }

    fn put_aside(&mut self, next: Trace) {
        let before = std::mem::replace(&mut self.open, next);
        if !before.is_empty() {
            self.others.insert(self.block, before);
        }
    }

    /// Those of another worker, which has run other blocks.
    pub fn add(&mut self, mut other: Traces) {
        other.put_aside(Trace::default());
        self.others.extend(other.others);
    }

    /// In the order of the blocks.
    pub fn finish(mut self) -> Vec<Trace> {
        self.put_aside(Trace::default());
        let mut all: Vec<(u64, Trace)> = self.others.into_iter().collect();
        all.sort_unstable_by_key(|(block, _)| *block);
        all.into_iter().map(|(_, trace)| trace).collect()
    }
}
