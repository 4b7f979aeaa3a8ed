//! What the checks know about an allocation's bytes: which have ever been written, and who touched
//! them last in this launch. Both live in mappings that the host commits when touched, so a large
//! allocation costs nothing by itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::exec::{RACE_LINE, RaceLine};
use crate::memory::Backing;

/// Bytes of an allocation that may be marked as written one by one where all are.
const LARGEST_MARKED: u64 = 1 << 30;

pub(crate) struct Shadow {
    bytes: u64,
    /// A bit for each byte: it has been written.
    defined: Option<Backing>,
    races: OnceLock<Option<Backing>>,
    /// Whatever the bits say, every byte counts as written: a launch without checks may have done
    /// so, or there are too many to mark them.
    trusted: AtomicBool,
    /// A kernel was given the allocation, or has written to it.
    used: AtomicBool,
}

impl Shadow {
    pub fn new(bytes: u64) -> Self {
        let bitmap = usize::try_from(bytes.div_ceil(64).saturating_mul(8)).ok();
        Shadow {
            bytes,
            defined: bitmap.and_then(Backing::new),
            races: OnceLock::new(),
            trusted: AtomicBool::new(false),
            used: AtomicBool::new(false),
        }
    }

    /// A kernel has the allocation's address, or writes to it.
    pub fn note_use(&self) {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }

    /// Whether a kernel has ever had to do with the allocation.
    pub fn is_used(&self) -> bool {
        self.used.load(Relaxed)
    }

    /// Calls `f` with the offset of each of `bytes` bytes from `from` on that nothing has written,
    /// in steps of the bitmap: an offset and a bit for each of the 64 bytes from there on.
    pub fn unwritten(&self, from: u64, bytes: u64, mut f: impl FnMut(u64, u64)) {
        for at in (0..bytes).step_by(64) {
            let count = (bytes - at).min(64) as u32;
            let missing = !self.defined(from + at, count) & (u64::MAX >> (64 - count));
            if missing != 0 {
                f(at, missing);
            }
        }
    }

    /// From now on every byte counts as written.
    pub fn trust(&self) {
        self.trusted.store(true, Relaxed);
    }

    fn word(&self, index: u64) -> Option<&AtomicU64> {
        let map = self.defined.as_ref()?;
        if index >= self.bytes.div_ceil(64) {
            return None;
        }
        // SAFETY: the mapping has 8 bytes for each 64 of the allocation, is zeroed, aligned, and
        // lives as long as `self`; it is only accessed as atomics.
        Some(unsafe { AtomicU64::from_ptr(map.host().add(index as usize * 8).cast()) })
    }

    fn each_word(&self, from: u64, bytes: u64, mut f: impl FnMut(&AtomicU64, u64)) {
        let (mut at, end) = (from, from.saturating_add(bytes).min(self.bytes));
        while at < end {
            let bit = at % 64;
            let count = (64 - bit).min(end - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            if let Some(word) = self.word(at / 64) {
                f(word, mask);
            }
            at += count;
        }
    }

    /// Marks bytes as written.
    pub fn define(&self, from: u64, bytes: u64) {
        self.each_word(from, bytes, |word, mask| {
            if word.load(Relaxed) & mask != mask {
                word.fetch_or(mask, Relaxed);
            }
        });
    }

    /// Marks bytes as holding nothing.
    pub fn undefine(&self, from: u64, bytes: u64) {
        if self.trusted.load(Relaxed) {
            if self.bytes > LARGEST_MARKED {
                return;
            }
            self.define(0, self.bytes);
            self.trusted.store(false, Relaxed);
        }
        self.each_word(from, bytes, |word, mask| {
            word.fetch_and(!mask, Relaxed);
        });
    }

    /// A bit for each of up to 64 bytes from `from` on: it has been written.
    #[inline]
    pub fn defined(&self, from: u64, bytes: u32) -> u64 {
        let wanted = u64::MAX >> (64 - bytes.clamp(1, 64));
        if self.trusted.load(Relaxed) {
            return wanted;
        }
        let bit = from % 64;
        let low = self
            .word(from / 64)
            .map_or(u64::MAX, |w| w.load(Relaxed) >> bit);
        let high = if bit + u64::from(bytes) > 64 {
            self.word(from / 64 + 1)
                .map_or(u64::MAX, |w| w.load(Relaxed))
                << (64 - bit)
        } else {
            0
        };
        (low | high) & wanted
    }

    /// Takes over what is known of `bytes` bytes of `source`, which were copied here.
    pub fn copy(&self, to: u64, source: &Shadow, from: u64, bytes: u64) {
        // Whole steps are read before they are written, so an overlap within one allocation is
        // copied in the safe direction.
        let steps = bytes.div_ceil(64);
        let backwards = to > from;
        for step in 0..steps {
            let step = if backwards { steps - 1 - step } else { step };
            let at = step * 64;
            let count = (bytes - at).min(64);
            let bits = source.defined(from + at, count as u32);
            if bits == u64::MAX >> (64 - count) {
                self.define(to + at, count);
                continue;
            }
            self.undefine(to + at, count);
            for bit in (0..count).filter(|bit| bits >> bit & 1 == 1) {
                self.define(to + at + bit, 1);
            }
        }
    }

    /// The races' record of a line, by its number. Whoever uses it holds the launch's lock for it.
    #[inline]
    pub fn line(&self, line: u64) -> Option<*mut RaceLine> {
        let lines = self.bytes.div_ceil(RACE_LINE);
        let map = self
            .races
            .get_or_init(|| {
                let bytes = lines.checked_mul(size_of::<RaceLine>() as u64)?;
                Backing::new(usize::try_from(bytes).ok()?)
            })
            .as_ref()?;
        if line >= lines {
            return None;
        }
        // SAFETY: the mapping holds `lines` entries and lives as long as `self`.
        Some(unsafe { map.host().cast::<RaceLine>().add(line as usize) })
    }

    /// Forgets who touched what.
    pub fn clear_races(&self) {
        if let Some(Some(map)) = self.races.get() {
            map.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_defined_one_by_one_and_across_words() {
        let shadow = Shadow::new(1000);
        assert_eq!(shadow.defined(60, 16), 0);
        shadow.define(62, 4);
        assert_eq!(shadow.defined(60, 16), 0b11_1100);
        shadow.undefine(63, 1);
        assert_eq!(shadow.defined(60, 8), 0b11_0100);
        shadow.define(0, 1000);
        assert_eq!(shadow.defined(936, 64), u64::MAX);
    }

    #[test]
    fn copies_carry_undefined_bytes_along() {
        let (a, b) = (Shadow::new(256), Shadow::new(256));
        a.define(3, 100);
        b.define(0, 256);
        b.copy(10, &a, 0, 128);
        assert_eq!(b.defined(8, 8), 0b1110_0011);
        assert_eq!(b.defined(112, 4), 0b0001);
        b.copy(11, &b, 10, 64);
        assert_eq!(b.defined(8, 8), 0b1100_0011);
    }

    #[test]
    fn a_huge_allocation_has_a_shadow() {
        let shadow = Shadow::new(40 << 30);
        shadow.define(39 << 30, 8);
        assert_eq!(shadow.defined(39 << 30, 16), 0xff);
        assert!(shadow.line((39 << 30) / RACE_LINE).is_some());
        shadow.trust();
        assert_eq!(shadow.defined(0, 16), 0xffff);
    }
}
