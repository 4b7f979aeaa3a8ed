//! Global memory of a virtual device: a synthetic address space over host allocations.
//!
//! Addresses are never used twice, and every allocation lies in address granules of its own with an
//! unmapped gap behind it: a stale pointer, or one less than a granule beyond an end, always
//! misses. The distances between allocations differ, so that a pointer which is off by a certain
//! distance does not hit a neighbour again and again. Host memory is committed by the host's kernel
//! when first touched.

mod backing;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub(crate) use self::backing::Backing;
use crate::shadow::Shadow;

/// The first device address. Lower generic addresses belong to the windows of shared, local and
/// parameter memory.
pub const FIRST_ADDRESS: u64 = 1 << 40;
/// Addresses stay below this (47 bits, as on hardware).
const END_ADDRESS: u64 = 1 << 47;
/// Allocations start in different granules; a granule number finds the allocation.
pub(crate) const GRANULE_SHIFT: u32 = 21;
/// Device pointers are 256-byte aligned and, on purpose, no better.
const ALIGN: u64 = 256;
/// Granules by which gaps may differ.
const GAP_GRANULES: u64 = 4;

/// Why a memory call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// No room is left.
    #[error("out of device memory: {asked} bytes asked, {free} of {total} free")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes free.
        free: u64,
        /// Bytes of the device.
        total: u64,
    },
    /// An access outside of every allocation.
    #[error("{bytes} bytes at {va:#x} do not lie inside one live allocation")]
    Unmapped {
        /// Its address.
        va: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// A free of what was not allocated.
    #[error("{va:#x} is not the start of a live allocation")]
    NotAllocated {
        /// Its address.
        va: u64,
    },
}

/// What a byte that nothing has written is for the host.
const UNWRITTEN: u8 = 0xff;
const WORD_BYTES: u64 = 4;
/// Arrays that share an allocation start at multiples of this, as allocations do.
const PLACE_BYTES: u64 = 256;

/// Words that were read for the host and that nothing has ever written.
pub(crate) struct Unwritten {
    /// Address of the first.
    pub va: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The allocation.
    pub base: u64,
    pub size: u64,
    /// Whether a kernel has had to do with the allocation.
    pub is_used: bool,
}

/// One live allocation. Clones share the bytes and keep them alive.
#[derive(Clone)]
pub(crate) struct Allocation {
    pub base: u64,
    pub size: u64,
    backing: Arc<Backing>,
    pub shadow: Arc<Shadow>,
}

impl Allocation {
    /// The host address of the byte at `base`.
    pub fn host(&self) -> *mut u8 {
        self.backing.host()
    }

    /// Its whole words of eight bytes.
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.size as usize / 8).map(|word| {
            // SAFETY: the backing holds at least `size` bytes and is aligned for pages.
            unsafe { self.host().cast::<u64>().add(word).read_volatile() }
        })
    }
}

/// The live allocations at one moment, ordered by address. A launch holds one, so that nothing it
/// can reach is freed under it.
pub(crate) struct AddressMap {
    allocations: Vec<Allocation>,
}

impl AddressMap {
    /// The allocation whose bytes contain `va`.
    pub fn find(&self, va: u64) -> Option<&Allocation> {
        let after = self.allocations.partition_point(|a| a.base <= va);
        let candidate = self.allocations.get(after.checked_sub(1)?)?;
        (va - candidate.base < candidate.size).then_some(candidate)
    }

    /// The allocation nearest below `va`, for a report.
    pub fn nearest_below(&self, va: u64) -> Option<&Allocation> {
        let after = self.allocations.partition_point(|a| a.base <= va);
        self.allocations.get(after.checked_sub(1)?)
    }

    fn define(&self, va: u64, bytes: u64) {
        if let Some(found) = self.find(va) {
            found.shadow.define(va - found.base, bytes);
        }
    }

    fn span(&self, va: u64, bytes: u64) -> Result<*mut u8, MemoryError> {
        let unmapped = MemoryError::Unmapped { va, bytes };
        let found = self.find(va).ok_or(unmapped.clone())?;
        let offset = va - found.base;
        if bytes > found.size - offset {
            return Err(unmapped);
        }
        // SAFETY: offset < size, and the backing holds at least `size` bytes.
        Ok(unsafe { found.host().add(offset as usize) })
    }
}

/// Of a module's variable, in bytes: whether each of its bytes has been written is known.
const LARGEST_DEFINED: u64 = 64 << 20;

struct Book {
    next: u64,
    used: u64,
    /// Launches with checks since the race shadows were cleared.
    tag: u64,
    /// Ended allocations (base, size), for reports on stale pointers. Bounded.
    freed: Vec<(u64, u64)>,
}

/// The memory of one virtual device.
pub struct DeviceMemory {
    total: u64,
    map: RwLock<Arc<AddressMap>>,
    book: Mutex<Book>,
}

const FREED_KEPT: usize = 4096;

/// The words of a copy that nothing has written. What lies between written bytes and the next
/// multiple of [`PLACE_BYTES`] is padding, as between arrays that share an allocation.
#[derive(Default)]
struct Holes {
    /// Of the copy within its allocation.
    offset: u64,
    /// Where the first one is, in the copy.
    first: Option<u64>,
    /// Bytes of all of them.
    count: u64,
    open: Option<(u64, u64)>,
}

impl Holes {
    fn add(&mut self, at: u64) {
        match &mut self.open {
            Some((_, end)) if *end == at => *end += WORD_BYTES,
            _ => {
                self.close();
                self.open = Some((at, at + WORD_BYTES));
            }
        }
    }

    fn close(&mut self) {
        let Some((start, end)) = self.open.take() else {
            return;
        };
        let is_padding =
            end - start < PLACE_BYTES && (self.offset + end).is_multiple_of(PLACE_BYTES);
        if !is_padding {
            self.first.get_or_insert(start);
            self.count += end - start;
        }
    }
}

impl DeviceMemory {
    /// An empty memory of `total_bytes`.
    pub fn new(total_bytes: u64) -> Self {
        DeviceMemory {
            total: total_bytes,
            map: RwLock::new(Arc::new(AddressMap {
                allocations: Vec::new(),
            })),
            book: Mutex::new(Book {
                next: FIRST_ADDRESS,
                used: 0,
                tag: 0,
                freed: Vec::new(),
            }),
        }
    }

    /// Allocates `bytes` (at least one) and returns their 256-byte aligned device address.
    pub fn alloc(&self, bytes: u64) -> Result<u64, MemoryError> {
        self.alloc_aligned(bytes, ALIGN)
    }

    /// Allocates at a multiple of `align` (a power of two; what exceeds a granule is cut to one).
    pub(crate) fn alloc_aligned(&self, bytes: u64, align: u64) -> Result<u64, MemoryError> {
        let align = align.clamp(ALIGN, 1 << (GRANULE_SHIFT - 1));
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let out_of_memory = MemoryError::OutOfMemory {
            asked: bytes,
            free: self.total - book.used,
            total: self.total,
        };
        let size = bytes.max(1);
        let charged = size.div_ceil(256).saturating_mul(256);
        let (skew, gap) = scatter(book.next, align);
        let granules = (charged.saturating_add(skew) >> GRANULE_SHIFT) + 2 + gap;
        let span = granules << GRANULE_SHIFT;
        if charged > self.total - book.used || span > END_ADDRESS - book.next {
            return Err(out_of_memory);
        }
        let backing = usize::try_from(charged)
            .ok()
            .and_then(Backing::new)
            .ok_or(out_of_memory)?;
        let base = book.next + skew;
        book.next += span;
        book.used += charged;
        let allocation = Allocation {
            base,
            size,
            backing: Arc::new(backing),
            shadow: Arc::new(Shadow::new(size)),
        };
        self.edit(|list| list.push(allocation));
        Ok(base)
    }

    /// Ends the allocation that starts at `va`.
    pub fn free(&self, va: u64) -> Result<(), MemoryError> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let size = match self.snapshot().find(va) {
            Some(found) if found.base == va => found.size,
            _ => return Err(MemoryError::NotAllocated { va }),
        };
        book.used -= size.div_ceil(256) * 256;
        if book.freed.len() == FREED_KEPT {
            book.freed.remove(0);
        }
        book.freed.push((va, size));
        self.edit(|list| list.retain(|a| a.base != va));
        Ok(())
    }

    /// Copies host bytes to the device.
    pub fn write(&self, va: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let map = self.snapshot();
        let host = map.span(va, bytes.len() as u64)?;
        // SAFETY: `span` checked that the range lies in one backing, which `map` keeps alive;
        // `bytes` is host memory of the caller.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) }
        map.define(va, bytes.len() as u64);
        Ok(())
    }

    /// Copies device bytes to the host.
    pub fn read(&self, va: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let map = self.snapshot();
        let host = map.span(va, bytes.len() as u64)?;
        // SAFETY: as in `write`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), bytes.len()) }
        Ok(())
    }

    /// [`Self::read`], where bytes that nothing has ever written arrive as [`UNWRITTEN`]: no number
    /// in any float format.
    pub(crate) fn read_marked(
        &self,
        va: u64,
        bytes: &mut [u8],
    ) -> Result<Option<Unwritten>, MemoryError> {
        self.read(va, bytes)?;
        let map = self.snapshot();
        let Some(found) = map.find(va).filter(|_| !bytes.is_empty()) else {
            return Ok(None);
        };
        let offset = va - found.base;
        let mut holes = Holes {
            offset,
            ..Holes::default()
        };
        let length = bytes.len() as u64;
        found.shadow.unwritten(offset, length, |at, missing| {
            for bit in (0..64).filter(|bit| missing >> bit & 1 == 1) {
                if let Some(byte) = bytes.get_mut(at as usize + bit) {
                    *byte = UNWRITTEN;
                }
            }
            // Fewer bytes together than a word's are padding.
            for word in (0..64 - WORD_BYTES + 1).filter(|&word| {
                (offset + at + word).is_multiple_of(WORD_BYTES) && missing >> word & 0xf == 0xf
            }) {
                holes.add(at + word);
            }
        });
        holes.close();
        let count = holes.count;
        Ok(holes.first.map(|first| Unwritten {
            va: va + first,
            bytes: count,
            base: found.base,
            size: found.size,
            is_used: found.shadow.is_used(),
        }))
    }

    /// Repeats `pattern` (1, 2 or 4 bytes) `count` times from `va` on.
    pub fn fill(&self, va: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = (pattern.len() as u64).saturating_mul(count);
        if bytes == 0 {
            return Ok(());
        }
        let map = self.snapshot();
        let host = map.span(va, bytes)?;
        map.define(va, bytes);
        if pattern.iter().all(|b| Some(b) == pattern.first()) {
            // SAFETY: `span` checked `bytes` bytes; the pattern is not empty because `bytes` is
            // not 0.
            unsafe { std::ptr::write_bytes(host, pattern[0], bytes as usize) }
            return Ok(());
        }
        for i in 0..count as usize {
            // SAFETY: (i + 1) * pattern.len() <= bytes, which `span` checked.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    pattern.as_ptr(),
                    host.add(i * pattern.len()),
                    pattern.len(),
                )
            }
        }
        Ok(())
    }

    /// Copies device bytes to another place of the device; the ranges may overlap.
    pub fn copy(&self, dst: u64, src: u64, bytes: u64) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let map = self.snapshot();
        let from = map.span(src, bytes)?;
        let to = map.span(dst, bytes)?;
        // SAFETY: `span` checked both ranges; `copy` allows overlap.
        unsafe { std::ptr::copy(from, to, bytes as usize) }
        if let (Some(source), Some(target)) = (map.find(src), map.find(dst)) {
            if source.shadow.is_used() {
                target.shadow.note_use();
            }
            target
                .shadow
                .copy(dst - target.base, &source.shadow, src - source.base, bytes);
        }
        Ok(())
    }

    /// Start and size of the live allocation that contains `va`.
    pub fn range(&self, va: u64) -> Option<(u64, u64)> {
        self.snapshot().find(va).map(|a| (a.base, a.size))
    }

    /// Free and total bytes.
    pub fn info(&self) -> (u64, u64) {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        (self.total - book.used, self.total)
    }

    /// Bytes that hold their value without having been written.
    pub(crate) fn define(&self, va: u64, bytes: u64) {
        self.snapshot().define(va, bytes);
    }

    /// All bytes of an allocation hold their value without having been written. What is copied into
    /// a large one counts as written from then on, too: a bit for each byte of a module's variable
    /// could take gigabytes for a line of its text.
    pub(crate) fn define_all(&self, va: u64, bytes: u64) {
        match self.snapshot().find(va) {
            Some(found) if bytes > LARGEST_DEFINED => found.shadow.trust(),
            _ => self.define(va, bytes),
        }
    }

    /// A number for a launch: the race shadows hold no other one's that is the same.
    pub(crate) fn race_tag(&self) -> u64 {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.tag == crate::exec::RACE_TAGS {
            book.tag = 0;
            self.snapshot()
                .allocations
                .iter()
                .for_each(|a| a.shadow.clear_races());
        }
        book.tag += 1;
        book.tag
    }

    /// The ended allocation that once held `va`: (base, size).
    pub(crate) fn freed_range(&self, va: u64) -> Option<(u64, u64)> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.freed
            .iter()
            .rev()
            .copied()
            .find(|&(base, size)| va >= base && va - base < size)
    }

    pub(crate) fn snapshot(&self) -> Arc<AddressMap> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn edit(&self, change: impl FnOnce(&mut Vec<Allocation>)) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let mut allocations = map.allocations.clone();
        change(&mut allocations);
        *map = Arc::new(AddressMap { allocations });
    }
}

/// Where in its first granule an allocation starts, an odd multiple of `align`, and how many
/// granules more than one its gap has. The same sequence of allocations gets the same addresses in
/// every run.
fn scatter(granule: u64, align: u64) -> (u64, u64) {
    // Two rounds: one alone gives neighbouring numbers regular distances.
    let once = (granule >> GRANULE_SHIFT).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (once ^ once >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let starts = (1 << GRANULE_SHIFT) / (2 * align);
    let start = (mixed >> 32) % starts;
    ((2 * start + 1) * align, (mixed >> 60) % GAP_GRANULES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_up_to_the_next_array_is_no_hole() {
        let count = |offset, words: &[u64]| {
            let mut holes = Holes {
                offset,
                ..Holes::default()
            };
            words.iter().for_each(|&word| holes.add(word));
            holes.close();
            (holes.first, holes.count)
        };
        assert_eq!(count(0, &[248, 252]), (None, 0));
        assert_eq!(count(512, &[248, 252]), (None, 0));
        assert_eq!(count(4, &[248, 252]), (Some(248), 8));
        assert_eq!(count(0, &[240, 244, 252]), (Some(240), 8));
        let whole: Vec<u64> = (0..64).map(|word| 4 * word).collect();
        assert_eq!(count(0, &whole), (Some(0), 256));
    }

    #[test]
    fn bytes_written_come_back_and_neighbours_are_out_of_reach() {
        let memory = DeviceMemory::new(1 << 30);
        let a = memory.alloc(1000).unwrap();
        let b = memory.alloc(1000).unwrap();
        assert_eq!(a % 512, 256);
        assert_eq!(memory.alloc_aligned(8, 4096).unwrap() % 4096, 0);
        memory.write(a, &[7; 1000]).unwrap();
        let mut back = [0; 1000];
        memory.read(a, &mut back).unwrap();
        assert_eq!(back, [7; 1000]);
        assert!(memory.write(a, &[0; 1001]).is_err());
        assert!(memory.write(b - 1, &[0]).is_err());
        assert_eq!(memory.range(a + 999), Some((a, 1000)));
        assert_eq!(memory.range(a + 1000), None);
    }

    #[test]
    fn neighbours_lie_at_different_distances() {
        let memory = DeviceMemory::new(1 << 30);
        let starts: Vec<u64> = (0..64).map(|_| memory.alloc(4096).unwrap()).collect();
        for shift in GRANULE_SHIFT..30 {
            let hits = starts
                .iter()
                .filter(|&&a| memory.range(a + (1 << shift)).is_some());
            assert_eq!(hits.count(), 0, "2^{shift} bytes further");
        }
        let mut distances: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        distances.sort_unstable();
        distances.dedup();
        assert!(distances.len() > 55, "{} of 63", distances.len());
        assert!(starts.iter().all(|a| a % 512 == 256));
    }

    #[test]
    fn freed_addresses_stay_dead() {
        let memory = DeviceMemory::new(1 << 20);
        let a = memory.alloc(64).unwrap();
        memory.free(a).unwrap();
        assert_eq!(memory.free(a), Err(MemoryError::NotAllocated { va: a }));
        assert_ne!(memory.alloc(64).unwrap(), a);
        assert!(memory.read(a, &mut [0]).is_err());
        assert_eq!(memory.freed_range(a + 63), Some((a, 64)));
    }

    #[test]
    fn the_total_limits_and_large_allocations_cost_nothing_until_touched() {
        let memory = DeviceMemory::new(80 << 30);
        let big = memory.alloc(64 << 30).unwrap();
        memory.write(big + (63 << 30), b"far").unwrap();
        assert!(matches!(
            memory.alloc(17 << 30),
            Err(MemoryError::OutOfMemory { .. })
        ));
        assert!(memory.alloc(u64::MAX).is_err());
        assert_eq!(memory.info(), (16 << 30, 80 << 30));
        memory.free(big).unwrap();
        assert_eq!(memory.info().0, 80 << 30);
    }

    #[test]
    fn patterns_fill_whole_elements() {
        let memory = DeviceMemory::new(1 << 20);
        let a = memory.alloc(16).unwrap();
        memory.fill(a, &[1, 2, 3, 4], 3).unwrap();
        memory.fill(a + 12, &[9], 4).unwrap();
        let mut back = [0; 16];
        memory.read(a, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 9, 9, 9, 9]);
        memory.copy(a + 4, a, 8).unwrap();
        memory.read(a, &mut back).unwrap();
        assert_eq!(&back[4..8], &[1, 2, 3, 4]);
        assert!(memory.fill(a, &[1, 2, 3, 4], 5).is_err());
    }
}
