//! The kernels that are built: operation x dtype x tile x access, and the constants of each.
//!
//! The same numbers stand in `kernels/tiles.cuh`, `shrink.cuh` and `grad_columns.cuh`; the kernel `lora_contract` writes those out and a test
//! compares them.

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
}

/// The tile a block works on. Its size depends on operation and dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Tile {
    /// Large output tile of a GEMM.
    Wide,
    /// Small output tile of a GEMM.
    Small,
    /// 16 columns of the rank.
    Rank16,
    /// 64 columns of the rank.
    Rank64,
}

impl Tile {
    /// Columns of the rank that one block covers; the whole rank for GEMM tiles, which take it as depth.
    pub const fn ranks(self) -> usize {
        match self {
            Tile::Rank16 => 16,
            Tile::Rank64 => 64,
            Tile::Wide | Tile::Small => usize::MAX,
        }
    }
}

/// How the streamed operands are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Access {
    /// 16 bytes at a time, asynchronously: rows must start at multiples of 16 bytes.
    Vectorised,
    /// Element by element, of any alignment.
    Any,
}

/// One kernel: one symbol in the compiled images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    const OPERATIONS: [Operation; 5] = [
        Operation::Shrink,
        Operation::Forward,
        Operation::GradB,
        Operation::GradA,
        Operation::GradX,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::OPERATIONS.len() * DType::ALL.len() * 4;

    /// All of them, in the order of [`Variant::index`].
    pub fn all() -> impl Iterator<Item = Variant> {
        Self::OPERATIONS.into_iter().flat_map(|operation| {
            DType::ALL.into_iter().flat_map(move |dtype| {
                operation.tiles().into_iter().flat_map(move |tile| {
                    [Access::Vectorised, Access::Any]
                        .into_iter()
                        .map(move |access| Variant {
                            operation,
                            dtype,
                            tile,
                            access,
                        })
                })
            })
        })
    }

    /// Position among [`Variant::all`].
    pub fn index(self) -> usize {
        let dtype = self.dtype as usize - 1;
        let tile = usize::from(self.tile != self.operation.tiles()[0]);
        ((self.operation as usize * DType::ALL.len() + dtype) * 2 + tile) * 2 + self.access as usize
    }

    /// The image that holds it: the file in `kernels/` without its extension.
    pub fn image(self) -> String {
        format!("{}_{}", self.operation.name(), self.dtype)
    }

    /// The symbol.
    pub fn symbol(self) -> String {
        let access = match self.access {
            Access::Vectorised => "vec",
            Access::Any => "any",
        };
        let tile = match self.tile {
            Tile::Rank16 => "r16".into(),
            Tile::Rank64 => "r64".into(),
            Tile::Wide | Tile::Small => {
                let (m, n) = self.block();
                format!("m{m}n{n}k{}", self.gemm().depth)
            }
        };
        format!("lora_{}__sm80__{}__{tile}_{access}", self.operation.name(), self.dtype)
    }

    /// Rows and columns that one block covers: of the output for a GEMM, of the streamed matrix for grad_b and grad_a (rows: per step), and
    /// rows of x and columns of S for shrink.
    pub fn block(self) -> (usize, usize) {
        let line = 256 / self.dtype.size();
        match self.tile {
            Tile::Wide => (128, 128),
            Tile::Small => (64, 64),
            ranks if self.operation == Operation::Shrink => (64, ranks.ranks()),
            Tile::Rank16 => (64, 4 * line),
            Tile::Rank64 => (64, 2 * line),
        }
    }

    /// Threads per block.
    pub fn threads(self) -> u32 {
        match (self.tile, self.dtype) {
            (Tile::Wide, DType::F32) => 256,
            _ => 128,
        }
    }

    /// Dynamic shared memory per block, in bytes.
    pub fn shared_bytes(self) -> u32 {
        let size = self.dtype.size();
        let (rows, columns) = self.block();
        let ranks = self.tile.ranks();
        let elements = match self.operation {
            Operation::Forward | Operation::GradX => {
                let gemm = self.gemm();
                gemm.stages * (rows + columns) * gemm.depth
            }
            Operation::Shrink => 3 * (rows + columns) * (128 / size),
            // Two stages of the streamed tile and the (rows, ranks) tile; grad_b also keeps its rows of lora_B.
            Operation::GradB => 2 * rows * (256 / size + ranks) + columns * ranks,
            Operation::GradA => 2 * rows * (256 / size + ranks),
        };
        (elements * size) as u32
    }

    fn gemm(self) -> GemmShape {
        match (self.tile, self.dtype) {
            (Tile::Wide, DType::F32) => GemmShape { depth: 16, stages: 3 },
            (Tile::Wide, _) => GemmShape { depth: 32, stages: 4 },
            (_, DType::F32) => GemmShape { depth: 32, stages: 3 },
            _ => GemmShape { depth: 64, stages: 3 },
        }
    }
}

struct GemmShape {
    /// Depth of one step: BlockK.
    depth: usize,
    stages: usize,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.symbol())
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
        }
    }

    const fn tiles(self) -> [Tile; 2] {
        match self {
            Operation::Forward | Operation::GradX => [Tile::Wide, Tile::Small],
            Operation::Shrink | Operation::GradB | Operation::GradA => [Tile::Rank16, Tile::Rank64],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_position_among_all() {
        assert_eq!(Variant::all().count(), Variant::COUNT);
        for (position, variant) in Variant::all().enumerate() {
            assert_eq!(variant.index(), position, "{variant}");
        }
    }
}
