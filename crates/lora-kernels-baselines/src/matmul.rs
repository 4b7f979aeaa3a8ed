//! Launches of plain products. The tiles are in kernels/tiles.cuh.

use super::launch::{Argument, Launch, Stream, Tiled};
use super::{Buffer, PeerLayer};

/// How the operands of C (m, n) = A (m, k) · B (k, n) are stored: N as written, T transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// A (m, k), B (n, k)
    Nt,
    /// A (m, k), B (k, n)
    Nn,
    /// A (k, m), B (k, n)
    Tn,
}

/// Which size of a product is the rank. It decides the tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// None of them: a product with W.
    Base,
    /// The depth k.
    Expand,
    /// n.
    Narrow,
    /// m.
    Flat,
}

/// C = alpha · A · B, or C += alpha · A · B with `add`.
#[derive(Debug, Clone, Copy)]
pub struct Matmul {
    pub does: &'static str,
    pub shape: Shape,
    pub stored: Stored,
    pub a: Buffer,
    pub b: Buffer,
    pub c: Buffer,
    pub alpha: f32,
    pub add: bool,
}

/// The tile of a block.
#[derive(Debug, Clone, Copy)]
pub struct TileShape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub stages: usize,
    pub warps: usize,
}

impl TileShape {
    const LARGE: TileShape = TileShape::new(128, 256, 64, 3, 8);
    const MEDIUM: TileShape = TileShape::new(128, 128, 32, 4, 4);

    pub const fn new(m: usize, n: usize, k: usize, stages: usize, warps: usize) -> Self {
        Self {
            m,
            n,
            k,
            stages,
            warps,
        }
    }

    /// The tile for a product with W that has `n` columns.
    pub fn base(layer: &PeerLayer, n: usize) -> Self {
        let fits = TileShape::LARGE.shared_bytes() <= layer.shared_per_block;
        if fits && n.is_multiple_of(TileShape::LARGE.n) {
            TileShape::LARGE
        } else {
            TileShape::MEDIUM
        }
    }

    /// The larger of the ring of stages and the output tile, which share the memory.
    pub const fn shared_bytes(self) -> usize {
        let ring = self.stages * (self.m + self.n) * self.k * 2;
        let out = self.m * self.n * 2;
        if ring > out { ring } else { out }
    }

    pub fn name(self) -> String {
        format!("m{}n{}k{}", self.m, self.n, self.k)
    }

    pub fn blocks(self, m: usize, n: usize) -> u32 {
        (m / self.m * (n / self.n)) as u32
    }

    pub fn tiled(self, m: usize, n: usize, k: usize) -> Tiled {
        Tiled {
            m: m as u64,
            n: n as u64,
            k: k as u64,
            tile: (self.m as u64, self.n as u64, self.k as u64),
        }
    }
}

impl Matmul {
    pub fn launch(self, layer: &PeerLayer) -> Launch {
        let (m, n) = layer.shape(self.c);
        let (rows, columns) = layer.shape(self.a);
        let k = if self.stored == Stored::Tn {
            rows
        } else {
            columns
        };
        debug_assert_eq!(
            self.operands(m, n, k),
            (layer.shape(self.a), layer.shape(self.b))
        );

        let tile = self.tile(layer, n);
        let stored = match self.stored {
            Stored::Nt => "nt",
            Stored::Nn => "nn",
            Stored::Tn => "tn",
        };
        let name = match (self.shape, self.stored) {
            (Shape::Base, _) => tile.name(),
            (Shape::Expand, _) => "expand".to_owned(),
            (Shape::Narrow, Stored::Tn) => format!("columns_r{n}"),
            (Shape::Narrow, _) => format!("shrink_r{n}"),
            (Shape::Flat, _) => format!("rows_r{m}"),
        };
        let operation = if self.add { "addmm" } else { "mm" };
        let old = self.add.then(|| Stream {
            buffer: self.c,
            read: layer.bytes(self.c) as u64,
            written: 0,
        });
        Launch {
            does: self.does,
            symbol: format!("peer_{operation}__{stored}__{name}"),
            grid: tile.blocks(m, n),
            threads: 32 * tile.warps as u32,
            shared_bytes: tile.shared_bytes() as u32,
            arguments: vec![
                Argument::Buffer(self.a),
                Argument::Buffer(self.b),
                Argument::Buffer(self.c),
                Argument::I32(m as i32),
                Argument::I32(n as i32),
                Argument::I32(k as i32),
                Argument::F32(self.alpha),
            ],
            mma_flops: 2 * (m * n * k) as u64,
            product: Some(tile.tiled(m, n, k)),
            streams: old.into_iter().collect(),
        }
    }

    fn tile(self, layer: &PeerLayer, n: usize) -> TileShape {
        let rank = layer.rank;
        match self.shape {
            Shape::Base => TileShape::base(layer, n),
            Shape::Expand => TileShape::new(128, 128, 32, 2, 4),
            Shape::Narrow => TileShape::new(128, rank, 64, 3, 4),
            Shape::Flat => TileShape::new(rank, 128, 64, 3, 4),
        }
    }

    /// The shapes of A and B as they are stored.
    fn operands(self, m: usize, n: usize, k: usize) -> ((usize, usize), (usize, usize)) {
        match self.stored {
            Stored::Nt => ((m, k), (n, k)),
            Stored::Nn => ((m, k), (k, n)),
            Stored::Tn => ((k, m), (k, n)),
        }
    }
}
