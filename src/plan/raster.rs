//! The raster: the order of a GEMM's tiles, given by the width of its bands.
//!
//! A band is `group` tile columns wide. Tiles are computed along the columns of a band first, then
//! down its rows, band after band. Each band reads the rows of x (or dy) once. It reads its columns
//! of the weight once per turn of the blocks, except the part that the previous turn left in L2.
//! Every other turn walks K backwards, so it begins with the part that was used last. While it
//! reads that part from L2, it brings in its own rows, so the share of the weight's columns that it
//! finds is
//!
//! ```text
//! kept = min(1, L2 / (2 · rows of a turn + columns of a band))        in bytes
//! ```
//!
//! The width that reads the least is chosen. With it, the tiles of a turn form about a square in
//! bytes, or a wider shape if L2 holds the band from turn to turn.

/// The tiles that a raster orders. The tiles of a cluster count as one, since they are computed
/// together: as high as all of them.
pub(super) struct Grid {
    pub tiles_m: u64,
    pub tiles_n: u64,
    /// Tiles that are computed at the same time.
    pub turn: u64,
    /// Bytes of a tile's rows of x over the whole of K.
    pub row_bytes: f64,
    /// Bytes of a tile's columns of the weight over the whole of K.
    pub column_bytes: f64,
    pub l2_bytes: f64,
}

/// The share of L2 that the operands of a product can use. Outputs pass through L2 too, and lines
/// are not evicted strictly by age.
const USABLE: f64 = 0.4;

impl Grid {
    /// The width of the bands, in tiles.
    pub fn group(&self) -> u64 {
        let widths = 1..=self.tiles_n.min(self.turn).max(1);
        // Among equal reads the widest wins, because it has fewer bands.
        let best = widths
            .map(|width| (width, self.reads(width)))
            .reduce(|best, other| if other.1 <= best.1 { other } else { best });
        best.map_or(1, |(width, _)| width)
    }

    /// The bytes that bands of this width read from DRAM.
    fn reads(&self, width: u64) -> f64 {
        let whole = (self.tiles_n / width) as f64 * self.band_reads(width);
        match self.tiles_n % width {
            0 => whole,
            rest => whole + self.band_reads(rest),
        }
    }

    fn band_reads(&self, width: u64) -> f64 {
        let rows = (self.turn as f64 / width as f64).min(self.tiles_m as f64);
        let turns = self.tiles_m as f64 / rows;
        let columns = width as f64 * self.column_bytes;
        let kept = (USABLE * self.l2_bytes / (2.0 * rows * self.row_bytes + columns)).min(1.0);
        // A tile row that two turns share is read by both.
        let shared = if self.turn.is_multiple_of(width) {
            0.0
        } else {
            (1.0 - kept) / rows
        };
        let stream = self.tiles_m as f64 * self.row_bytes * (1.0 + shared);
        stream + columns * (1.0 + (turns - 1.0) * (1.0 - kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(m: u64, n: u64, k: u64, tile: (u64, u64), turn: u64, l2_mib: u64) -> Grid {
        Grid {
            tiles_m: m.div_ceil(tile.0),
            tiles_n: n.div_ceil(tile.1),
            turn,
            row_bytes: (2 * tile.0 * k) as f64,
            column_bytes: (2 * tile.1 * k) as f64,
            l2_bytes: (l2_mib << 20) as f64,
        }
    }

    /// A replay of the tiles through a model of L2 finds these widths best.
    #[test]
    fn bands_are_those_that_read_least() {
        assert_eq!(grid(8192, 4096, 4096, (128, 256), 128, 50).group(), 8);
        assert_eq!(grid(8192, 4096, 4096, (128, 256), 103, 40).group(), 8);
        assert_eq!(grid(8192, 4096, 4096, (128, 128), 128, 72).group(), 16);
        // L2 holds the whole weight.
        assert_eq!(grid(8192, 4096, 4096, (128, 256), 147, 126).group(), 16);
    }

    /// Pairs of blocks cover the same part of the output as single ones in a turn.
    #[test]
    fn clusters_take_bands_of_the_same_width() {
        for (m, n, k, l2_mib) in [
            (8192, 4096, 4096, 50),
            (8192, 4096, 14336, 50),
            (4096, 14336, 4096, 60),
        ] {
            let blocks = grid(m, n, k, (128, 256), 128, l2_mib).group();
            let clusters = grid(m, n, k, (256, 256), 64, l2_mib).group();
            assert_eq!(blocks, clusters, "{m} {n} {k}");
        }
    }
}
