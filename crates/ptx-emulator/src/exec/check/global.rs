//! What is known of global memory: who has touched its bytes in this launch.

use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::line::{LINE, Line, Record, Scene, Slab, Tags};
use crate::exec::check::Conflict;
use crate::memory::{AddressMap, Allocation, GRANULE_SHIFT};

/// Launches are told apart by a number up to this; then the shadows are cleared.
pub(crate) const TAGS: u64 = u16::MAX as u64;
/// Locks, each for the lines of many places.
const LOCKS: u64 = 64;
/// Bytes side by side that have one lock.
const LOCKED_TOGETHER: u64 = 1024;

/// What the blocks of a launch share.
pub(crate) struct Between {
    tag: u16,
    /// The tag of the launch that this one may run beside, which began first; or 0.
    primary: u16,
    /// That of the launch that may run beside this one; or 0.
    secondary: AtomicU16,
    /// Whoever holds a slab may touch the lines that it belongs to.
    slabs: Arc<[Mutex<Slab>]>,
    /// Whether several workers run the launch.
    pub parallel: bool,
}

impl Between {
    pub fn new(tag: u64, parallel: bool) -> Self {
        Between {
            tag: tag as u16,
            primary: 0,
            secondary: AtomicU16::new(0),
            slabs: (0..LOCKS).map(|_| Mutex::default()).collect(),
            parallel,
        }
    }

    /// Of a launch that begins while `primary`, its programmatic primary, still runs: accesses of
    /// the two to the same bytes are races unless `griddepcontrol.wait` orders them. Both count as
    /// run by several workers from then on.
    pub fn beside(tag: u64, primary: &Between) -> Self {
        primary.secondary.store(tag as u16, Relaxed);
        Between {
            primary: primary.tag,
            slabs: Arc::clone(&primary.slabs),
            ..Between::new(tag, true)
        }
    }

    /// What records of this launch are marked with, and those of the launches beside it.
    pub(super) fn tags(&self) -> Tags {
        Tags {
            own: self.tag,
            primary: self.primary,
            secondary: self.secondary.load(Relaxed),
        }
    }

    /// The lock of the line at an address.
    pub(super) fn lock(&self, va: u64) -> MutexGuard<'_, Slab> {
        let at = (va / LOCKED_TOGETHER).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        let slab = &self.slabs[(at % LOCKS) as usize];
        slab.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The allocations as one worker sees them, with the ones used last.
pub(crate) struct Shadows<'a> {
    map: &'a AddressMap,
    cache: [Option<&'a Allocation>; 16],
}

impl<'a> Shadows<'a> {
    pub fn new(map: &'a AddressMap) -> Self {
        Shadows {
            map,
            cache: [None; 16],
        }
    }

    /// The allocation that holds all these bytes.
    pub fn find(&mut self, va: u64, bytes: u32) -> Option<&'a Allocation> {
        let slot = (va >> GRANULE_SHIFT) as usize % self.cache.len();
        let inside = |a: &Allocation| {
            va >= a.base && va - a.base < a.size && a.size - (va - a.base) >= u64::from(bytes)
        };
        if let Some(found) = self.cache[slot].filter(|a| inside(a)) {
            return Some(found);
        }
        let found = self.map.find(va).filter(|a| inside(a))?;
        self.cache[slot] = Some(found);
        Some(found)
    }
}

/// A line of global memory whose lock is held.
pub(super) struct Locked<'a> {
    line: &'a mut Line,
    slab: &'a mut Slab,
    va: u64,
}

impl<'a> Locked<'a> {
    /// # Safety
    /// `line` must be the line of the shadow of a live allocation at `va`, and `slab` that which
    /// [`Between::lock`] gives for it.
    pub unsafe fn new(line: *mut Line, slab: &'a mut Slab, va: u64) -> Self {
        Locked {
            // SAFETY: the caller vouches for the line; its lock is held, so nobody else has it.
            line: unsafe { &mut *line },
            slab,
            va: va / LINE * LINE,
        }
    }

    pub fn touch(&mut self, new: &Record, scene: &Scene<'_>) -> Result<(), Conflict> {
        self.line
            .touch(self.slab, new, scene)
            .map_err(|found| Conflict::new(found, self.va))
    }

    pub fn end(&mut self, began: &Record, ended: &Record, tags: Tags) {
        self.line.end(self.slab, began, ended, tags);
    }

    pub fn land(&mut self, new: &Record, scene: &Scene<'_>) {
        self.line.land(self.slab, new, scene);
    }
}
