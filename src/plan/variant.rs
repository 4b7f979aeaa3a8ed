//! The kernels that are built: operation x dtype x tile x access, and the constants of each.
//!
//! The same numbers stand in `kernels/tiles.cuh`, `shrink.cuh` and `grad_columns.cuh`; the kernel
//! `lora_contract` writes those out and a test compares them.

use std::fmt;

use crate::DType;

/// What a kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
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

/// The tile a block works on. M: rows; N: columns of the output; K: depth of a step; R: columns of
/// S or T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tile {
    /// Of a GEMM, 16-bit.
    M128N256K64,
    /// Of a GEMM, 16-bit.
    M128N128K32,
    /// Of a GEMM, 16-bit.
    M64N64K64,
    /// Of a GEMM, f32.
    M128N128K16,
    /// Of a GEMM, f32.
    M64N64K32,
    /// Of shrink.
    M64R16,
    /// Of shrink.
    M64R64,
    /// Of shrink, for few tokens.
    M16R16,
    /// Of shrink, for few tokens.
    M16R64,
    /// Of grad_b and grad_a.
    R16,
    /// Of grad_b and grad_a.
    R64,
    /// Of merge.
    N64K128,
    /// Of merge: one block, which sums what the others counted.
    Totals,
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
    /// For which elements.
    pub dtype: DType,
    /// In tiles of which shape.
    pub tile: Tile,
    /// Reading how.
    pub access: Access,
}

impl Variant {
    const OPERATIONS: [Operation; 6] = [
        Operation::Shrink,
        Operation::Forward,
        Operation::GradB,
        Operation::GradA,
        Operation::GradX,
        Operation::Merge,
    ];

    /// All of them. Those of one image follow each other.
    pub fn all() -> impl Iterator<Item = Variant> {
        Self::OPERATIONS.into_iter().flat_map(|operation| {
            DType::ALL.into_iter().flat_map(move |dtype| {
                built(operation, dtype)
                    .iter()
                    .flat_map(move |&(tile, accesses)| {
                        accesses.iter().map(move |&access| Variant {
                            operation,
                            dtype,
                            tile,
                            access,
                        })
                    })
            })
        })
    }

    /// Position among [`Variant::all`]; `None` if no such kernel is built.
    pub fn index(self) -> Option<usize> {
        Self::all().position(|variant| variant == self)
    }

    /// The image that holds it: the file in `kernels/` without its extension.
    pub fn image(self) -> String {
        format!("{}_{}", self.operation.name(), self.dtype)
    }

    /// The symbol.
    pub fn symbol(self) -> String {
        let (operation, dtype) = (self.operation.name(), self.dtype);
        format!(
            "lora_{operation}__sm80__{dtype}__{}_{}",
            self.tile.name(),
            self.access.name()
        )
    }

    /// Rows and columns that one block covers: of the output for a GEMM and merge, of the streamed
    /// matrix for grad_b and grad_a (rows: per step), and rows of x and columns of S for shrink.
    pub fn block(self) -> (usize, usize) {
        match self.tile {
            Tile::M128N256K64 => (128, 256),
            Tile::M128N128K32 | Tile::M128N128K16 => (128, 128),
            Tile::M64N64K64 | Tile::M64N64K32 => (64, 64),
            Tile::M64R16 => (64, 16),
            Tile::M64R64 => (64, 64),
            Tile::M16R16 => (16, 16),
            Tile::M16R64 => (16, 64),
            Tile::R16 => (64, 4 * self.line()),
            Tile::R64 => (32, 4 * self.line()),
            Tile::N64K128 => (64, 128),
            Tile::Totals => (1, 1),
        }
    }

    /// Threads per block.
    pub fn threads(self) -> u32 {
        match self.tile {
            Tile::M128N256K64 | Tile::M128N128K16 | Tile::N64K128 | Tile::Totals => 256,
            Tile::R64 if self.dtype != DType::F32 => 256,
            _ => 128,
        }
    }

    /// Dynamic shared memory per block, in bytes.
    pub fn shared_bytes(self) -> u32 {
        let bytes = match self.operation {
            Operation::Forward | Operation::GradX => self.gemm_shared(),
            Operation::Shrink => self.shrink_shared(),
            Operation::GradB => self.grad_b_shared(),
            Operation::GradA => self.grad_a_shared(),
            Operation::Merge => 0,
        };
        bytes as u32
    }

    /// Stages of both operands, and eight rows of f32 per warp for the epilogue.
    fn gemm_shared(self) -> usize {
        let (rows, columns) = self.block();
        let (stages, warp_columns) = match self.tile {
            Tile::M128N256K64 => (3, 64),
            Tile::M128N128K32 => (4, 64),
            _ => (3, 32),
        };
        let warps = self.threads() as usize / 32;
        stages * (rows + columns) * self.tile.depth() * self.dtype.size()
            + warps * 8 * warp_columns * size_of::<f32>()
    }

    /// Stages of x and lora_A, of 16 rows in four parts of the depth, and where each row of lora_A
    /// starts.
    fn shrink_shared(self) -> usize {
        let (rows, ranks) = self.block();
        let (parts, depth) = if rows == 16 { (4, 32) } else { (1, 64) };
        let stage = parts * (rows + ranks) * depth * self.dtype.size();
        let stages = match stage {
            32769.. => 2,
            24577.. => 3,
            16385.. => 4,
            _ => 6,
        };
        stages * stage + ranks * size_of::<u64>()
    }

    /// The block's rows of lora_B, stages of dy, two tiles of S.
    fn grad_b_shared(self) -> usize {
        let (rows, columns) = self.block();
        let stages = match (self.tile, self.dtype) {
            (Tile::R16, _) => 4,
            (_, DType::F32) => 2,
            _ => 3,
        };
        (self.tile.ranks() * (columns + 2 * rows) + stages * rows * self.line()) * self.dtype.size()
    }

    /// Stages of x and the mask, two tiles of T.
    fn grad_a_shared(self) -> usize {
        let (rows, _) = self.block();
        let stages = if self.tile == Tile::R16 { 4 } else { 5 };
        let size = self.dtype.size();
        let mask = self.line() / 64 * rows * size_of::<u64>();
        stages * (rows * self.line() * size + mask) + 2 * rows * self.tile.ranks() * size
    }

    /// Elements of 256 bytes, which grad_b and grad_a read of a row at a time.
    fn line(self) -> usize {
        256 / self.dtype.size()
    }
}

impl Tile {
    /// Depth of a GEMM's step; 0 for the other tiles.
    pub const fn depth(self) -> usize {
        match self {
            Tile::M128N256K64 | Tile::M64N64K64 => 64,
            Tile::M128N128K32 | Tile::M64N64K32 => 32,
            Tile::M128N128K16 => 16,
            _ => 0,
        }
    }

    /// Columns of S or T that one block covers; 0 for a GEMM's tiles, which take all as depth.
    pub const fn ranks(self) -> usize {
        match self {
            Tile::M64R16 | Tile::M16R16 | Tile::R16 => 16,
            Tile::M64R64 | Tile::M16R64 | Tile::R64 => 64,
            _ => 0,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Tile::M128N256K64 => "m128n256k64",
            Tile::M128N128K32 => "m128n128k32",
            Tile::M64N64K64 => "m64n64k64",
            Tile::M128N128K16 => "m128n128k16",
            Tile::M64N64K32 => "m64n64k32",
            Tile::M64R16 => "m64r16",
            Tile::M64R64 => "m64r64",
            Tile::M16R16 => "m16r16",
            Tile::M16R64 => "m16r64",
            Tile::R16 => "r16",
            Tile::R64 => "r64",
            Tile::N64K128 => "n64k128",
            Tile::Totals => "totals",
        }
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Access {
    const fn name(self) -> &'static str {
        match self {
            Access::Vectorised => "vec",
            Access::VectorisedKn => "vec_kn",
            Access::Any => "any",
        }
    }
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Operation::Shrink => "shrink",
            Operation::Forward => "forward",
            Operation::GradB => "grad_b",
            Operation::GradA => "grad_a",
            Operation::GradX => "grad_x",
            Operation::Merge => "merge",
        }
    }
}

/// The tiles of an operation, largest first for a GEMM, and the accesses each is built for.
fn built(operation: Operation, dtype: DType) -> &'static [(Tile, &'static [Access])] {
    use Access::{Any, Vectorised, VectorisedKn};
    match operation {
        Operation::Forward | Operation::GradX if dtype == DType::F32 => &[
            (Tile::M128N128K16, &[Vectorised, VectorisedKn]),
            (Tile::M64N64K32, &[Vectorised, VectorisedKn, Any]),
        ],
        Operation::Forward | Operation::GradX => &[
            (Tile::M128N256K64, &[Vectorised, VectorisedKn]),
            (Tile::M128N128K32, &[Vectorised, VectorisedKn]),
            (Tile::M64N64K64, &[Vectorised, VectorisedKn, Any]),
        ],
        Operation::Shrink => &[
            (Tile::M64R16, &[Vectorised]),
            (Tile::M64R64, &[Vectorised]),
            (Tile::M16R16, &[Vectorised]),
            (Tile::M16R64, &[Vectorised, Any]),
        ],
        Operation::GradB | Operation::GradA => {
            &[(Tile::R16, &[Vectorised]), (Tile::R64, &[Vectorised, Any])]
        }
        Operation::Merge => &[(Tile::N64K128, &[Vectorised, Any]), (Tile::Totals, &[Any])],
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.symbol())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_differ_and_those_of_an_image_follow_each_other() {
        let mut images = vec![String::new()];
        for (position, variant) in Variant::all().enumerate() {
            assert_eq!(variant.index(), Some(position), "{variant}");
            let image = variant.image();
            if images.last() != Some(&image) {
                assert!(!images.contains(&image), "{variant}");
                images.push(image);
            }
        }
    }
}
