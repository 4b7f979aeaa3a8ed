//! The kernels that are built, as `kernels/table.toml` states them.

use std::fmt;

use super::DeviceProps;
use crate::DType;

/// The operation that a kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// S = drop(x) · Aᵀ and the dropout mask.
    Shrink,
    /// y = x·Wᵀ + bias + scaling · S·Bᵀ.
    Forward,
    /// T = scaling · dy · B and dB = scaling · dyᵀ · S, in one pass over dy.
    GradB,
    /// dA = Tᵀ · drop(x); sums dB.
    GradA,
    /// dx = dy · W + mask ∘ (T · A) / (1 - p); sums dA.
    GradX,
    /// merged = W + Σ scaling · B·A, and the totals of what storing it loses.
    Merge,
    /// y of few tokens, S included.
    Decode,
    /// T = factor · dy · B of every row's adapters.
    GradTRows,
    /// dA = Tᵀ · drop(x) and dB = factor · dyᵀ · S of every adapter of the batch.
    GradAbRows,
    /// dx = dy · W + mask ∘ (T · A) / (1 - p), with every row's adapters.
    GradXRows,
    /// S = drop(x) · Aᵀ of every row's adapters, and the dropout mask.
    ShrinkRows,
    /// y = x·Wᵀ + bias + factor · S·Bᵀ, with every row's adapters.
    ForwardRows,
}

/// The architecture that a kernel is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// Compute capability 8.0 and later: `cp.async` and `mma.sync`.
    Sm80,
    /// Compute capability 9.0 alone: TMA and `wgmma`. A build for a list of devices without it has
    /// none of its kernels.
    Sm90a,
}

impl Arch {
    /// Whether devices with this compute capability (major, minor) run its kernels.
    pub fn runs_on(self, compute_capability: (u32, u32)) -> bool {
        match self {
            Arch::Sm80 => compute_capability >= (8, 0),
            Arch::Sm90a => compute_capability == (9, 0),
        }
    }

    /// Whether a device with its driver runs its kernels.
    pub(crate) fn is_for(self, device: &DeviceProps) -> bool {
        self.runs_on(device.compute_capability()) && (self != Arch::Sm90a || device.tensor_maps())
    }
}

/// The part of the work that a block computes at a time, as stated in the table of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tile {
    /// The name in symbols, such as `m128n256k64`. m is rows, n columns of the output, k the
    /// k-slice of a step, r columns of S or T.
    pub name: &'static str,
    /// Rows of a block: of the output; for shrink of x; for grad_b and grad_a of the streamed
    /// matrix, per step.
    pub rows: usize,
    /// Columns of a block: of the output; for shrink of S; for grad_b and grad_a of the streamed
    /// matrix.
    pub columns: usize,
    /// The k-slice of a GEMM's step; 0 for other tiles.
    pub depth: usize,
    /// Columns of S or T of a block; 0 for a GEMM's tiles, which multiply all of them.
    pub ranks: usize,
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// How a kernel reads its streamed operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// 16 bytes at a time, asynchronously. Rows must start at multiples of 16 bytes. A weight is
    /// (N, K).
    Vectorised,
    /// Like `Vectorised`, with a weight that is (K, N).
    VectorisedKn,
    /// Element by element, for any alignment and both layouts of the weight.
    Any,
}

/// A kernel that is built: a symbol in the compiled images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Variant {
    /// Its operation.
    pub operation: Operation,
    /// Its architecture.
    pub arch: Arch,
    /// Its element type.
    pub dtype: DType,
    /// Its tile.
    pub tile: Tile,
    /// Its access.
    pub access: Access,
    /// The index of its row in the table. It is private, so only this module makes variants.
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
    /// All variants. The variants of an image are consecutive.
    pub fn all() -> impl Iterator<Item = Variant> + Clone {
        ROWS.iter().enumerate().map(|(index, row)| Variant {
            operation: row.operation,
            arch: row.arch,
            dtype: row.dtype,
            tile: row.tile,
            access: row.access,
            index,
        })
    }

    /// The index in [`Variant::all`].
    pub fn index(self) -> usize {
        self.index
    }

    fn row(self) -> &'static Row {
        &ROWS[self.index]
    }

    /// The name of the image that holds it.
    pub fn image(self) -> &'static str {
        self.row().unit
    }

    /// The symbol: `lora_<operation>__<architecture>__<dtype>__<tile>_<access>`.
    pub fn symbol(self) -> &'static str {
        self.row().symbol
    }

    /// (rows, columns) of a block: of the output for a GEMM and merge; of the streamed matrix for
    /// grad_b and grad_a, with the rows of a step; rows of x and columns of S for shrink.
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

    /// The least number of blocks that a multiprocessor's registers hold at once: the minimum in
    /// the kernel's launch bounds.
    pub fn resident_blocks(self) -> u32 {
        self.row().resident
    }

    /// The throughput of a GEMM's main loop relative to the largest tile's, for the cost model. It
    /// is 1 for other operations.
    pub(super) fn quality(self) -> f64 {
        self.row().quality
    }

    /// Whether it is merge's kernel that sums the counts of the others.
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
    fn an_architecture_with_instructions_of_its_own_runs_on_one_capability() {
        let runs = |arch: Arch| {
            let all = DeviceProps::named().into_iter();
            let on = all.filter(|(_, device)| arch.is_for(device));
            on.map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(runs(Arch::Sm80).len(), DeviceProps::named().len());
        assert_eq!(runs(Arch::Sm90a), ["h100", "h100-pcie", "h200", "gh200"]);
        // A driver that is too old leaves the older kernels.
        let old = DeviceProps::h100().without_tensor_maps();
        assert!(Arch::Sm80.is_for(&old) && !Arch::Sm90a.is_for(&old));
    }

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
