//! What bulk copies move.

use super::Counting;
use super::sectors::SECTOR;
use super::traffic::Traces;
use crate::l2::Use;

/// Bytes of shared memory that a wavefront of a bulk copy moves.
const WAVEFRONT: u64 = 128;

/// A bulk copy of one lane.
pub(in crate::exec) struct Moved<'a> {
    /// Addresses and sizes in global memory.
    pub rows: &'a mut dyn Iterator<Item = (u64, u32)>,
    pub how: Use,
    /// Bytes in the shared memory of each block that takes part.
    pub shared_bytes: u32,
    /// Blocks whose shared memory takes part.
    pub copies: u32,
}

impl Counting {
    /// Adds a bulk copy to the counts of the instruction that issued it.
    pub(in crate::exec) fn moved(&mut self, pc: u32, moved: Moved<'_>) {
        let Some(tally) = self.tallies.get_mut(pc as usize) else {
            return;
        };
        let mut trace = self.traces.as_mut().map(Traces::open);
        let (mut bytes, mut sectors, mut last) = (0, 0, None);
        for (va, size) in moved.rows {
            bytes += u64::from(size);
            for sector in va / SECTOR..(va + u64::from(size)).div_ceil(SECTOR) {
                // Rows that follow each other in memory share the sector in which they meet.
                if last != Some(sector) {
                    sectors += 1;
                    if let Some(trace) = &mut trace {
                        trace.touch(sector, moved.how);
                    }
                }
                last = Some(sector);
            }
        }
        if bytes > 0 {
            tally.global_requests += 1;
            tally.global_bytes += bytes;
            tally.sectors += sectors;
            tally.ideal_sectors += bytes.div_ceil(SECTOR);
        }
        let copies = u64::from(moved.copies);
        if copies > 1 {
            tally.multicast_sectors += copies * sectors;
        }
        if moved.shared_bytes > 0 {
            let wavefronts = copies * u64::from(moved.shared_bytes).div_ceil(WAVEFRONT);
            tally.shared_requests += copies;
            tally.wavefronts += wavefronts;
            tally.ideal_wavefronts += wavefronts;
        }
    }
}
