//! The kernels that are built, as `kernels/table.toml` states them.

use std::fmt;

use crate::DType;

/// What a kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// S = scaling · drop(x) · Aᵀ and the dropout mask.
    Shrink,
    /// y = x·Wᵀ + bias + S·Bᵀ.
    Forward,
    /// T = scaling · dy · B and dB = dyᵀ · S, in one pass over dy.
    GradB,
    /// dA = Tᵀ · drop(x); sums dB.
    GradA,
    /// dx = dy · W + mask ∘ (T · A) / (1 - p); sums dA.
    GradX,
    /// merged = W + Σ scaling · B·A, and the totals of what storing it loses.
    Merge,
}

/// Which devices a kernel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// Compute capability 8.0 and later: `cp.async` and `mma.sync`.
    Sm80,
}

impl Arch {
    /// Whether a device of this compute capability, (major, minor), runs its kernels.
    pub fn runs_on(self, compute_capability: (u32, u32)) -> bool {
        match self {
            Arch::Sm80 => compute_capability >= (8, 0),
        }
    }
}

/// The part of the work that a block takes at a time. The table of kernels has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tile {
    /// As symbols have it, such as `m128n256k64`. M: rows; N: columns of the output; K: depth of a
    /// step; R: columns of S or T.
    pub name: &'static str,
    /// Rows that a block covers: of the output, of x for shrink, of the streamed matrix per step
    /// for grad_b and grad_a.
    pub rows: usize,
    /// Columns that a block covers: of the output, of S for shrink, of the streamed matrix for
    /// grad_b and grad_a.
    pub columns: usize,
    /// Depth of a GEMM's step; 0 for the other tiles.
    pub depth: usize,
    /// Columns of S or T that a block covers; 0 for a GEMM's tiles, which take all as depth.
    pub ranks: usize,
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// How the streamed operands are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// 16 bytes at a time, asynchronously: rows must start at multiples of 16 bytes. A weight is
    /// (N, K).
    Vectorised,
    /// The same with a weight that is (K, N).
    VectorisedKn,
    /// Element by element, of any alignment and either weight.
    Any,
}

/// One kernel: one symbol in the compiled images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Variant {
    /// What it computes.
    pub operation: Operation,
    /// On which devices.
    pub arch: Arch,
    /// For which elements.
    pub dtype: DType,
    /// In tiles of which shape.
    pub tile: Tile,
    /// Reading how.
    pub access: Access,
    /// Of its row; only this module makes one.
    index: usize,
}

/// A row of the table.
struct Row {
    symbol: &'static str,
    unit: &'static str,
    operation: Operation,
    arch: Arch,
    dtype: DType,
    tile: Tile,
    access: Access,
    threads: u32,
    shared_bytes: u32,
    resident: u32,
    quality: f64,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

impl Variant {
    /// All of them. Those of one image follow each other.
    pub fn all() -> impl Iterator<Item = Variant> {
        ROWS.iter().enumerate().map(|(index, row)| Variant {
            operation: row.operation,
            arch: row.arch,
            dtype: row.dtype,
            tile: row.tile,
            access: row.access,
            index,
        })
    }

    /// Position among [`Variant::all`].
    pub fn index(self) -> usize {
        self.index
    }

    fn row(self) -> &'static Row {
        &ROWS[self.index]
    }

    /// The image that holds it.
    pub fn image(self) -> &'static str {
        self.row().unit
    }

    /// The symbol: `lora_<operation>__<architecture>__<dtype>__<tile>_<access>`.
    pub fn symbol(self) -> &'static str {
        self.row().symbol
    }

    /// Rows and columns that one block covers: of the output for a GEMM and merge, of the streamed
    /// matrix for grad_b and grad_a (rows: per step), and rows of x and columns of S for shrink.
    pub fn block(self) -> (usize, usize) {
        (self.tile.rows, self.tile.columns)
    }

    /// Threads per block.
    pub fn threads(self) -> u32 {
        self.row().threads
    }

    /// Dynamic shared memory per block, in bytes.
    pub fn shared_bytes(self) -> u32 {
        self.row().shared_bytes
    }

    /// Blocks that a multiprocessor's registers hold at once, as the kernel is compiled.
    pub fn resident_blocks(self) -> u32 {
        self.row().resident
    }

    /// Speed of a GEMM's main loop beside that of the largest tile, for the cost model; 1 for
    /// other operations.
    pub(super) fn quality(self) -> f64 {
        self.row().quality
    }

    /// Whether it is merge's last block, which sums what the others counted.
    pub(crate) fn sums_totals(self) -> bool {
        self.operation == Operation::Merge && self.block() == (1, 1)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.symbol())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_differ_and_those_of_an_image_follow_each_other() {
        let mut images = vec![""];
        for (position, variant) in Variant::all().enumerate() {
            assert_eq!(variant.index(), position, "{variant}");
            let same = Variant::all().filter(|other| other.symbol() == variant.symbol());
            assert_eq!(same.count(), 1, "{variant}");
            let image = variant.image();
            if images.last() != Some(&image) {
                assert!(!images.contains(&image), "{variant}");
                images.push(image);
            }
        }
    }
}
