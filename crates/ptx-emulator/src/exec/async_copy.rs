//! `cp.async` and its groups (PTX ISA section 9.7.9.25). A copy is checked when issued, and its
//! bytes are read and written at the latest legal moment: when the issuing thread waits for it. A
//! kernel that forgets to wait sees what was there before.

use super::registers::{LANES, Registers, Wides, lanes};
use super::space::{Pointers, Spaces, addresses};
use super::trap::Outcome;
use crate::decode::op::{Inst, Window};

/// One issued instruction's copies that have not landed.
struct Pending {
    mask: u32,
    /// How many groups its threads had committed before it.
    group: u32,
    bytes: usize,
    to: Pointers,
    from: Pointers,
    /// Bytes read from the source; the rest of the destination becomes zero.
    source_bytes: [u8; LANES],
    /// The sources' device addresses.
    sources: Wides,
}

/// One instruction's copies that a wait lands.
pub(crate) struct Due {
    pub lanes: u32,
    pub bytes: u32,
    /// In the host's memory.
    pub to: Pointers,
    /// On the device.
    pub sources: Wides,
    pub source_bytes: [u8; LANES],
}

/// The copies in flight of one warp, oldest first.
#[derive(Default)]
pub(crate) struct Queue {
    pending: Vec<Pending>,
    /// Groups each lane has committed.
    committed: [u32; LANES],
    /// Whether copies land when they are issued: the earliest legal moment.
    pub early: bool,
}

impl Queue {
    pub fn clear(&mut self) {
        self.pending.clear();
        self.committed = [0; LANES];
    }

    pub fn issue(
        &mut self,
        regs: &Registers,
        spaces: &mut Spaces<'_, '_>,
        inst: &Inst,
        mask: u32,
        bytes: u8,
        ignore_negated: bool,
    ) -> Outcome {
        let size = u32::from(bytes);
        let to = spaces.resolve(
            Window::Shared,
            addresses(regs, inst.s[0], inst.imm),
            mask,
            size,
        )?;
        let mut source_bytes = [bytes; LANES];
        if inst.s[2].is_some() {
            let sizes = regs.word(inst.s[2]);
            for lane in 0..LANES {
                // More than the copy's size is undefined; hardware copies no more than that.
                source_bytes[lane] = sizes[lane].min(size) as u8;
            }
        }
        if inst.s[3].is_some() {
            let ignored = regs.pred(inst.s[3]);
            let ignored = if ignore_negated { !ignored } else { ignored };
            for lane in lanes(ignored) {
                source_bytes[lane] = 0;
            }
        }
        let reading = mask & super::registers::collect(|lane| source_bytes[lane] != 0);
        let sources = addresses(regs, inst.s[1], inst.list.cast_signed());
        let from = if reading == 0 {
            [0; LANES]
        } else {
            self.check_sources(spaces, sources, reading, &source_bytes, size)?
        };
        let mut left = mask;
        while left != 0 {
            // Lanes that have committed different numbers of groups go into different entries.
            let group = self.committed[left.trailing_zeros() as usize % LANES];
            let same = left & super::registers::collect(|lane| self.committed[lane] == group);
            left &= !same;
            self.pending.push(Pending {
                mask: same,
                group,
                bytes: usize::from(bytes),
                to,
                from,
                source_bytes,
                sources,
            });
            if self.early
                && let Some(entry) = self.pending.last()
            {
                lanes(same).for_each(|lane| copy(entry, lane));
            }
        }
        Ok(())
    }

    /// Sources must be aligned to the copy's size, but only the bytes read need exist.
    fn check_sources(
        &self,
        spaces: &mut Spaces<'_, '_>,
        sources: [u64; LANES],
        reading: u32,
        source_bytes: &[u8; LANES],
        size: u32,
    ) -> Result<Pointers, Box<super::trap::Trap>> {
        let partial =
            reading & super::registers::collect(|lane| u32::from(source_bytes[lane]) < size);
        if partial == 0 {
            return spaces.resolve(Window::Global, sources, reading, size);
        }
        let mut out = [0; LANES];
        for lane in lanes(reading) {
            let mut single = [sources[lane]; LANES];
            if !sources[lane].is_multiple_of(u64::from(size)) {
                // For its report.
                spaces.resolve(Window::Global, single, 1 << lane, size)?;
            }
            // The first and the last byte lie in the same allocation, or they are not both valid
            // with the same host distance.
            let last = u64::from(source_bytes[lane]) - 1;
            let first = spaces.resolve(Window::Global, single, 1 << lane, 1)?[lane];
            single[lane] += last;
            let end = spaces.resolve(Window::Global, single, 1 << lane, 1)?[lane];
            debug_assert_eq!(end - first, last as usize);
            out[lane] = first;
        }
        Ok(out)
    }

    pub fn commit(&mut self, mask: u32) {
        for lane in lanes(mask) {
            self.committed[lane] += 1;
        }
    }

    /// Lands all but the newest `keep` committed groups of each lane.
    pub fn wait_group(&mut self, mask: u32, keep: u32) {
        let committed = self.committed;
        self.land(mask, |lane, group| {
            let done = committed[lane].saturating_sub(keep);
            group < done
        });
    }

    /// Lands everything, committed or not.
    pub fn wait_all(&mut self, mask: u32) {
        self.land(mask, |_, _| true);
    }

    /// The copies that a wait for all but `keep` groups (`None`: for everything) lands.
    pub fn due(&self, mask: u32, keep: Option<u32>) -> Vec<Due> {
        let mut due = Vec::new();
        for entry in &self.pending {
            let is_due = |lane: usize| {
                keep.is_none_or(|keep| entry.group < self.committed[lane].saturating_sub(keep))
            };
            let lanes = entry.mask & mask & super::registers::collect(is_due);
            if lanes != 0 {
                due.push(Due {
                    lanes,
                    bytes: entry.bytes as u32,
                    to: entry.to,
                    sources: entry.sources,
                    source_bytes: entry.source_bytes,
                });
            }
        }
        due
    }

    /// A lane of `mask` with a copy in flight, and the copy's shared host address.
    pub fn first_pending(&self, mask: u32) -> Option<(usize, usize)> {
        let entry = self.pending.iter().find(|entry| entry.mask & mask != 0)?;
        let lane = (entry.mask & mask).trailing_zeros() as usize % LANES;
        Some((lane, entry.to[lane]))
    }

    /// Takes all copies of a lane that are in flight, oldest first.
    pub fn take(&mut self, lane: usize) -> Vec<Taken> {
        let mut taken = Vec::new();
        for entry in &mut self.pending {
            if entry.mask >> lane & 1 == 1 {
                entry.mask &= !(1 << lane);
                taken.push(Taken {
                    bytes: entry.bytes,
                    to: entry.to[lane],
                    from: entry.from[lane],
                    source_bytes: usize::from(entry.source_bytes[lane]),
                    has_landed: self.early,
                });
            }
        }
        self.pending.retain(|entry| entry.mask != 0);
        taken
    }

    fn land(&mut self, mask: u32, due: impl Fn(usize, u32) -> bool) {
        for entry in &mut self.pending {
            let landing =
                entry.mask & mask & super::registers::collect(|lane| due(lane, entry.group));
            if !self.early {
                lanes(landing).for_each(|lane| copy(entry, lane));
            }
            entry.mask &= !landing;
        }
        self.pending.retain(|entry| entry.mask != 0);
    }
}

/// One lane's copy, which something else than the lane's own wait is to land.
pub(super) struct Taken {
    bytes: usize,
    to: usize,
    from: usize,
    source_bytes: usize,
    has_landed: bool,
}

impl Taken {
    pub fn land(&self) {
        if !self.has_landed {
            copy_bytes(self.to, self.from, self.source_bytes, self.bytes);
        }
    }
}

fn copy(entry: &Pending, lane: usize) {
    let read = usize::from(entry.source_bytes[lane]);
    copy_bytes(entry.to[lane], entry.from[lane], read, entry.bytes);
}

/// Copies `read` bytes and sets the rest of `bytes` to zero.
fn copy_bytes(to: usize, from: usize, read: usize, bytes: usize) {
    let to = to as *mut u8;
    // SAFETY: `issue` checked both ranges; shared memory and the snapshot of global memory outlive
    // the block's copies.
    unsafe {
        if read == 16 {
            std::ptr::copy_nonoverlapping(from as *const [u8; 16], to.cast(), 1);
            return;
        }
        if read > 0 {
            std::ptr::copy_nonoverlapping(from as *const u8, to, read);
        }
        std::ptr::write_bytes(to.add(read), 0, bytes - read);
    }
}
