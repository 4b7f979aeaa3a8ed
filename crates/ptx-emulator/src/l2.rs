//! Traffic between L2 and DRAM, under a model: of what a launch accessed ([`DramModel`]), and of a
//! tiled matrix product that nobody has written yet ([`Product`]).
//!
//! The product's model: the blocks of a wave run in lockstep, one step of k after the other; at
//! each step every block reads its part of A and its part of B, in the order of the blocks; at the
//! end of a tile it writes its output. L2 is one fully associative memory with the least recently
//! used part replaced, whose parts are these pieces of A, B and the output as a whole; written
//! parts take room in it until they are replaced. The next wave starts when the last one has ended.
//! Nothing is known of time, of sectors or of the halves of a real L2.
//!
//! Real blocks drift apart, so a GPU moves a few per cent more. For LoRAFusion's kernels on an H100
//! the model says 3 to 7 % less than the profiler measured (`tests/interpreter/l2.rs`).

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

mod lines;

pub use self::lines::{DramModel, L2};
pub(crate) use self::lines::{Trace, Use};

/// The part of a device's L2 that the model is given: half. Other tensors, and the two halves of an
/// A100's or H100's L2 that may hold the same line, take the rest; between a half and three
/// quarters the figures for kernels that don't fit anyway are the same.
pub fn usable_bytes(l2_bytes: u64) -> u64 {
    l2_bytes / 2
}

/// A memory of limited size that replaces what was not used for longest.
#[derive(Debug)]
pub struct LruCache<K> {
    capacity: u64,
    used: u64,
    clock: u64,
    /// Size and time of last use.
    held: HashMap<K, (u64, u64)>,
    /// Uses in order. Those that a later use has overtaken are skipped.
    uses: VecDeque<(K, u64)>,
}

impl<K: Copy + Eq + Hash> LruCache<K> {
    /// An empty cache of so many bytes.
    pub fn new(capacity: u64) -> Self {
        LruCache {
            capacity,
            used: 0,
            clock: 0,
            held: HashMap::new(),
            uses: VecDeque::new(),
        }
    }

    /// Uses a part of `bytes` bytes. True if it was there.
    pub fn touch(&mut self, key: K, bytes: u64) -> bool {
        self.clock += 1;
        self.uses.push_back((key, self.clock));
        let before = self.held.insert(key, (bytes, self.clock));
        self.used += bytes - before.map_or(0, |(held, _)| held.min(bytes));
        while self.used > self.capacity {
            let Some((oldest, used_at)) = self.uses.pop_front() else {
                break;
            };
            if let Some(&(size, last)) = self.held.get(&oldest)
                && last == used_at
            {
                self.held.remove(&oldest);
                self.used -= size;
            }
        }
        // Keep the list of uses in proportion to what is held.
        if self.uses.len() > 64 + 4 * self.held.len() {
            let held = &self.held;
            self.uses
                .retain(|(key, at)| held.get(key).is_some_and(|(_, last)| last == at));
        }
        before.is_some()
    }
}

/// `out (m, n) = A (m, k) * B (k, n)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Rows of the result.
    pub m: u64,
    /// Columns of the result.
    pub n: u64,
    /// Depth.
    pub k: u64,
    /// Bytes of an element, in all three matrices.
    pub element_bytes: u64,
}

/// The order in which blocks take output tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raster {
    /// Bands of this many rows of tiles; within one, down the rows first, then to the next column.
    GroupM(u64),
    /// Bands of this many columns of tiles; within one, along the columns first, then to the next
    /// row.
    GroupN(u64),
}

/// How the product is tiled and scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Rows of a tile.
    pub tile_m: u64,
    /// Columns of a tile.
    pub tile_n: u64,
    /// Depth of a step.
    pub tile_k: u64,
    /// Blocks that run at once.
    pub blocks: u64,
    /// The order of the tiles.
    pub raster: Raster,
    /// Every other wave goes through k backwards, and so begins with what the last one used last.
    pub serpentine: bool,
}

/// Bytes between L2 and DRAM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes from DRAM.
    pub read: u64,
    /// Bytes to DRAM.
    pub written: u64,
}

impl Traffic {
    /// Both together.
    pub fn total(self) -> u64 {
        self.read + self.written
    }
}

impl Product {
    /// Each matrix once.
    pub fn compulsory(self) -> Traffic {
        Traffic {
            read: (self.m * self.k + self.k * self.n) * self.element_bytes,
            written: self.m * self.n * self.element_bytes,
        }
    }

    /// What the model says for an L2 of `l2_bytes` bytes that is empty at first.
    pub fn traffic(self, schedule: &Schedule, l2_bytes: u64) -> Traffic {
        let Schedule {
            tile_m,
            tile_n,
            tile_k,
            ..
        } = *schedule;
        let [tile_m, tile_n, tile_k] = [tile_m.max(1), tile_n.max(1), tile_k.max(1)];
        let (rows, columns) = (self.m.div_ceil(tile_m), self.n.div_ceil(tile_n));
        let steps = self.k.div_ceil(tile_k);
        // Tiles at the edges are smaller.
        let extent = |index: u64, tile: u64, size: u64| tile.min(size - index * tile);
        let mut l2 = LruCache::new(l2_bytes);
        let mut traffic = Traffic::default();
        let blocks = schedule.blocks.max(1);
        let waves = (rows * columns).div_ceil(blocks);
        for wave in 0..waves {
            let first = wave * blocks;
            let tiles: Vec<(u64, u64)> = (first..(first + blocks).min(rows * columns))
                .map(|tile| schedule.raster.place(tile, rows, columns))
                .collect();
            for step in 0..steps {
                let k = if schedule.serpentine && wave % 2 == 1 {
                    steps - 1 - step
                } else {
                    step
                };
                let depth = extent(k, tile_k, self.k) * self.element_bytes;
                for &(row, column) in &tiles {
                    let a = extent(row, tile_m, self.m) * depth;
                    let b = extent(column, tile_n, self.n) * depth;
                    for (part, bytes) in [(Part::A(row, k), a), (Part::B(column, k), b)] {
                        if !l2.touch(part, bytes) {
                            traffic.read += bytes;
                        }
                    }
                }
            }
            for &(row, column) in &tiles {
                let area = extent(row, tile_m, self.m) * extent(column, tile_n, self.n);
                let bytes = area * self.element_bytes;
                l2.touch(Part::Out(row, column), bytes);
                traffic.written += bytes;
            }
        }
        traffic
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    A(u64, u64),
    B(u64, u64),
    Out(u64, u64),
}

impl Raster {
    /// Row and column of a tile's number.
    fn place(self, tile: u64, rows: u64, columns: u64) -> (u64, u64) {
        match self {
            Raster::GroupM(group) => banded(tile, group, rows, columns),
            Raster::GroupN(group) => {
                let (column, row) = banded(tile, group, columns, rows);
                (row, column)
            }
        }
    }
}

/// Tiles in bands of `group` along the first direction, which runs fastest.
fn banded(tile: u64, group: u64, first: u64, second: u64) -> (u64, u64) {
    let group = group.max(1);
    let band = tile / (group * second);
    let height = group.min(first - band * group);
    let inner = tile - band * group * second;
    (band * group + inner % height, inner / height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_part_goes_first() {
        let mut cache = LruCache::new(30);
        let touched: Vec<bool> = [1, 2, 3, 1, 4, 1, 2, 3]
            .map(|key| cache.touch(key, 10))
            .to_vec();
        assert_eq!(
            touched,
            [false, false, false, true, false, true, false, false]
        );
        assert!(cache.held.len() <= 3 && cache.used <= 30);
    }

    #[test]
    fn the_list_of_uses_does_not_grow_without_end() {
        let mut cache = LruCache::new(1000);
        for _ in 0..10_000 {
            cache.touch(7, 10);
        }
        assert!(cache.uses.len() < 100);
    }

    #[test]
    fn rasters_visit_every_tile_once() {
        for raster in [
            Raster::GroupM(4),
            Raster::GroupN(3),
            Raster::GroupM(1),
            Raster::GroupN(100),
        ] {
            let mut seen: Vec<_> = (0..77).map(|tile| raster.place(tile, 7, 11)).collect();
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() == 77 && seen.iter().all(|&(row, column)| row < 7 && column < 11));
        }
        assert_eq!(Raster::GroupM(4).place(5, 8, 8), (1, 1));
        assert_eq!(Raster::GroupN(4).place(5, 8, 8), (1, 1));
        assert_eq!(Raster::GroupM(4).place(34, 8, 8), (6, 0));
    }
}
