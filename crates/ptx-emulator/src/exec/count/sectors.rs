//! Sectors of global-memory requests: memory and L2 move 32 bytes at a time.

use crate::exec::registers::{LANES, Wides, lanes};

pub(super) const SECTOR: u64 = 32;

/// What a request moves.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Sectors {
    /// Bytes that the lanes ask for, together.
    pub bytes: u64,
    pub touched: u64,
    /// The fewest sectors that hold as many different bytes.
    pub ideal: u64,
}

/// Values met so far; neighbouring lanes usually go upwards.
struct Distinct {
    values: [u64; 2 * LANES],
    count: usize,
}

impl Distinct {
    fn new() -> Distinct {
        Distinct {
            values: [0; 2 * LANES],
            count: 0,
        }
    }

    /// True if the value is new.
    fn add(&mut self, value: u64) -> bool {
        let known = &self.values[..self.count];
        let is_new = match known.last() {
            Some(&last) if value == last => false,
            // Nothing above the last one has been seen while values only rise, but they may have
            // fallen before.
            _ => !known.contains(&value),
        };
        if is_new && self.count < self.values.len() {
            self.values[self.count] = value;
            self.count += 1;
        }
        is_new
    }
}

/// A request in which each lane of `mask` accesses `bytes(lane)` bytes, aligned so that accesses
/// are equal or apart and at most two sectors long. `each` is told the number of every sector
/// touched.
pub(super) fn sectors(
    addresses: &Wides,
    mask: u32,
    bytes: impl Fn(usize) -> u64,
    mut each: impl FnMut(u64),
) -> Sectors {
    let mut places = Distinct::new();
    let mut touched = Distinct::new();
    let mut out = Sectors::default();
    let mut unique = 0;
    for lane in lanes(mask) {
        let (address, size) = (addresses[lane], bytes(lane));
        if size == 0 {
            continue;
        }
        out.bytes += size;
        if !places.add(address) {
            continue;
        }
        unique += size;
        let last = address.wrapping_add(size - 1) / SECTOR;
        let first = address / SECTOR;
        if touched.add(first) {
            each(first);
        }
        if last != first && touched.add(last) {
            each(last);
        }
    }
    out.touched = touched.count as u64;
    out.ideal = u64::div_ceil(unique, SECTOR);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(bytes: u64, address: impl Fn(u64) -> u64) -> (u64, u64, u64) {
        let mut told = Vec::new();
        let addresses = std::array::from_fn(|lane| address(lane as u64));
        let found = sectors(&addresses, u32::MAX, |_| bytes, |sector| told.push(sector));
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len() as u64, found.touched);
        (found.bytes, found.touched, found.ideal)
    }

    #[test]
    fn side_by_side_is_ideal() {
        assert_eq!(count(4, |lane| 0x1000 + 4 * lane), (128, 4, 4));
        assert_eq!(count(16, |lane| 0x1000 + 16 * lane), (512, 16, 16));
        assert_eq!(count(2, |lane| 0x1000 + 2 * lane), (64, 2, 2));
    }

    #[test]
    fn a_shift_by_less_than_a_sector_touches_one_more() {
        assert_eq!(count(4, |lane| 0x1010 + 4 * lane), (128, 5, 4));
    }

    #[test]
    fn strides_waste_sectors() {
        assert_eq!(count(4, |lane| 0x1000 + 8 * lane), (128, 8, 4));
        assert_eq!(count(4, |lane| 0x1000 + 4096 * lane), (128, 32, 4));
        assert_eq!(count(4, |lane| 0x9000 - 4096 * lane % 8192), (128, 2, 1));
    }

    #[test]
    fn lanes_at_one_address_share_it() {
        assert_eq!(count(4, |_| 0x1000), (128, 1, 1));
    }
}
