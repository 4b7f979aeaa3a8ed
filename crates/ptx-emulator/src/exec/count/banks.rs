//! Wavefronts of shared-memory requests: 32 banks of 4 bytes, each of which serves one word per
//! wavefront to any number of lanes.

use crate::exec::registers::{LANES, Wides, lanes};
use crate::exec::wgmma::descriptor::{Layout, PIECE, pieces};

/// Wavefronts that a request took, and what it would have taken without conflicts.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Wavefronts {
    pub taken: u64,
    pub ideal: u64,
}

/// A request in which each lane of `mask` accesses `bytes` bytes. It goes in phases of as many
/// lanes as 128 bytes serve: all of the warp up to 4 bytes, half of it for 8, a quarter for 16.
/// Eight rows of a matrix are a phase of 16-byte accesses. With `apart`, as for atomics, lanes at
/// the same word go one after the other.
pub(super) fn wavefronts(addresses: &Wides, mask: u32, bytes: u32, apart: bool) -> Wavefronts {
    let unit = u64::from(bytes.clamp(4, 16));
    let units = (u64::from(bytes) / unit).max(1);
    let phase = (128 / (unit * units)) as usize;
    // Sizes are powers of two: shifts and masks in place of 64-bit divisions, two for each lane.
    let (shift, groups) = (unit.trailing_zeros(), 128 / unit);
    let mut total = Wavefronts::default();
    for first in (0..LANES).step_by(phase) {
        let here = mask >> first & (u32::MAX >> (LANES - phase));
        if here == 0 {
            continue;
        }
        // Most requests have no conflicts: as many banks are busy as lanes ask, and there is
        // nothing to compare.
        let banks = lanes(here).fold(0_u32, |all, lane| {
            all | 1 << (addresses[first + lane] >> shift & (groups - 1))
        });
        if units == 1 && banks.count_ones() == here.count_ones() {
            total.taken += 1;
            total.ideal += 1;
            continue;
        }
        let mut seen = [0_u64; LANES];
        let mut count = 0;
        let mut load = [0_u8; LANES];
        let mut busy = 0_u32;
        for lane in lanes(here) {
            for part in 0..units {
                let place = (addresses[first + lane] >> shift) + part;
                let group = (place & (groups - 1)) as usize;
                let is_known = busy >> group & 1 == 1 && !apart && seen[..count].contains(&place);
                if is_known {
                    continue;
                }
                busy |= 1 << group;
                load[group] += 1;
                seen[count] = place;
                count += 1;
            }
        }
        total.taken += u64::from(load.into_iter().max().unwrap_or(0));
        total.ideal += 1;
    }
    total
}

/// A matrix that a `wgmma` reads, in parts of eight pieces of 16 bytes: eight rows at one place of
/// K, or eight k. A part takes a turn where its pieces lie in different banks.
pub(super) fn operand(layout: Layout, transposed: bool, extent: usize) -> Wavefronts {
    let mut total = Wavefronts::default();
    let rows = if transposed { extent / 8 } else { extent };
    let number = |part: usize, i: usize| {
        if transposed {
            // Eight k of one piece.
            (part / rows * 8 + i) * rows + part % rows
        } else {
            (part / 2 * 8 + i) * 2 + part % 2
        }
    };
    for part in 0..pieces(extent) / 8 {
        let mut load = [0_u8; 8];
        for i in 0..8 {
            let at = layout.piece(number(part, i), transposed, extent);
            load[at / PIECE % 8] += 1;
        }
        total.taken += u64::from(load.into_iter().max().unwrap_or(0));
        total.ideal += 1;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(bytes: u32, address: impl Fn(u64) -> u64) -> (u64, u64) {
        let found = wavefronts(
            &std::array::from_fn(|lane| address(lane as u64)),
            u32::MAX,
            bytes,
            false,
        );
        (found.taken, found.ideal)
    }

    #[test]
    fn words_at_a_stride_of_two_to_the_n_conflict_two_to_the_n_times() {
        for (stride, ways) in [
            (1, 1),
            (2, 2),
            (4, 4),
            (8, 8),
            (16, 16),
            (32, 32),
            (3, 1),
            (33, 1),
        ] {
            assert_eq!(
                count(4, |lane| 4 * stride * lane),
                (ways, 1),
                "stride {stride}"
            );
        }
    }

    #[test]
    fn lanes_at_the_same_word_share_it() {
        assert_eq!(count(4, |_| 64), (1, 1));
        assert_eq!(count(2, |lane| 2 * lane), (1, 1));
        assert_eq!(count(4, |lane| lane % 2 * 128), (2, 1));
    }

    #[test]
    fn wide_accesses_go_by_half_and_quarter_warps() {
        assert_eq!(count(8, |lane| 8 * lane), (2, 2));
        assert_eq!(count(8, |lane| 16 * lane), (4, 2));
        assert_eq!(count(16, |lane| 16 * lane), (4, 4));
        assert_eq!(count(16, |lane| 128 * lane), (32, 4));
        assert_eq!(count(16, |lane| 128 * lane + (lane % 8) * 16), (4, 4));
        assert_eq!(count(32, |lane| 32 * lane), (8, 8));
    }

    #[test]
    fn only_active_lanes_take_part() {
        let addresses = std::array::from_fn(|lane| 128 * lane as u64);
        let found = wavefronts(&addresses, 0b11, 16, false);
        assert_eq!((found.taken, found.ideal), (2, 1));
        assert_eq!(wavefronts(&addresses, 0, 16, false), Wavefronts::default());
    }

    #[test]
    fn atomics_on_one_word_go_one_by_one() {
        assert_eq!(wavefronts(&[64; LANES], u32::MAX, 4, true).taken, 32);
    }
}
