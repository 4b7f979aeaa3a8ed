//! Which kernels will run for a problem, on which grid, with which memory: pure functions of the problem and the device's properties.
//!
//! A plan can be made on a machine without a GPU, printed (`{}`) and compared. It is made once and used for any number of calls.

mod backward;
mod buffer;
mod forward;
mod variant;

use std::fmt;

pub use backward::BackwardPlan;
pub use buffer::{BUFFER_ALIGNMENT, Region, SavedLayout};
pub use forward::ForwardPlan;
pub use variant::{Access, Operation, Tile, Variant};

use crate::{Error, Problem, Result, Tensor};

/// What a plan needs to know of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProps {
    compute_capability: (u32, u32),
    multiprocessors: u32,
    shared_per_block: u32,
}

impl DeviceProps {
    /// A device of this compute capability (major, minor) with so many multiprocessors (at least 1), one block of which may use
    /// `shared_per_block` bytes of shared memory after opting in. [`crate::Kernels::props`] asks a real one.
    pub fn new(compute_capability: (u32, u32), multiprocessors: u32, shared_per_block: u32) -> Self {
        Self {
            compute_capability,
            multiprocessors: multiprocessors.max(1),
            shared_per_block,
        }
    }

    /// NVIDIA A100: 108 multiprocessors, 163 KiB of shared memory per block.
    pub fn a100() -> Self {
        Self::new((8, 0), 108, 163 << 10)
    }

    /// NVIDIA H100 SXM: 132 multiprocessors, 227 KiB of shared memory per block.
    pub fn h100() -> Self {
        Self::new((9, 0), 132, 227 << 10)
    }

    /// NVIDIA GeForce RTX 4090: 128 multiprocessors, 99 KiB of shared memory per block.
    pub fn rtx4090() -> Self {
        Self::new((8, 9), 128, 99 << 10)
    }

    /// Compute capability, (major, minor).
    pub fn compute_capability(&self) -> (u32, u32) {
        self.compute_capability
    }

    /// Streaming multiprocessors, at least 1.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Shared memory that one block may use after opting in, bytes.
    pub fn shared_per_block(&self) -> u32 {
        self.shared_per_block
    }

    /// The same device with another number of multiprocessors (at least 1): a part of a GPU, or a plan to look at.
    pub fn with_multiprocessors(self, multiprocessors: u32) -> Self {
        Self::new(self.compute_capability, multiprocessors, self.shared_per_block)
    }
}

/// One kernel launch of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// The kernel.
    pub variant: Variant,
    /// Blocks along x and y.
    pub grid: (u32, u32),
    /// Threads per block.
    pub threads: u32,
    /// Dynamic shared memory per block, bytes.
    pub shared_bytes: u32,
    /// Why this variant.
    pub reason: String,
}

impl Launch {
    fn new(
        variant: Variant,
        grid: (u64, u64),
        reason: String,
        problem: &Problem,
        device: &DeviceProps,
    ) -> Result<Self> {
        let too_many = |blocks, limit| Error::Grid {
            problem: problem.to_string(),
            blocks,
            limit,
        };
        // CUDA C++ Programming Guide, "Compute Capabilities": 2^31 - 1 blocks along x, 65535 along y.
        let x = u32::try_from(grid.0)
            .ok()
            .filter(|&x| x <= i32::MAX as u32)
            .ok_or(too_many(grid.0, i32::MAX as u64))?;
        let y = u32::try_from(grid.1)
            .ok()
            .filter(|&y| y <= 65535)
            .ok_or(too_many(grid.1, 65535))?;
        let shared_bytes = variant.shared_bytes();
        if shared_bytes > device.shared_per_block {
            return Err(Error::Device {
                what: "shared memory per block",
                needed: format!("{shared_bytes} bytes by {variant}"),
                available: format!("{} bytes", device.shared_per_block),
            });
        }
        Ok(Self {
            variant,
            grid: (x, y),
            threads: variant.threads(),
            shared_bytes,
            reason,
        })
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} grid {}x{} threads {} shared {} B: {}",
            self.variant, self.grid.0, self.grid.1, self.threads, self.shared_bytes, self.reason
        )
    }
}

pub(crate) fn check_device(device: &DeviceProps) -> Result<()> {
    if device.compute_capability < (8, 0) {
        let (major, minor) = device.compute_capability;
        return Err(Error::Device {
            what: "compute capability",
            needed: "8.0 or later (cp.async and mma.sync with bf16)".into(),
            available: format!("{major}.{minor}"),
        });
    }
    Ok(())
}

/// Whether every row of a tensor starts at a multiple of 16 bytes.
fn vectorised(problem: &Problem, tensor: Tensor) -> bool {
    let layout = problem.layout(tensor);
    let row_bytes = layout.row_stride as u64 * problem.dtype().size() as u64;
    // A single row has no second one to be misaligned.
    layout.alignment >= 16 && (row_bytes.is_multiple_of(16) || problem.shape(tensor).0 == 1)
}

/// Whether two neighbouring elements, the first in an even column, may be written in one access.
fn paired(problem: &Problem, tensor: Tensor) -> bool {
    let layout = problem.layout(tensor);
    layout.alignment >= 2 * problem.dtype().size() && (layout.row_stride % 2 == 0 || problem.shape(tensor).0 == 1)
}

/// The access that the streamed operands of a kernel allow, and the reason for it.
fn access(problem: &Problem, tensors: &[Tensor]) -> (Access, String) {
    match tensors.iter().find(|&&tensor| !vectorised(problem, tensor)) {
        None => (Access::Vectorised, "16-byte copies".into()),
        Some(tensor) => {
            let layout = problem.layout(*tensor);
            (
                Access::Any,
                format!(
                    "element-wise loads, since {tensor} (row stride {}, aligned to {} B) has rows off 16 bytes",
                    layout.row_stride, layout.alignment
                ),
            )
        }
    }
}

/// The rank tile: 16 columns of S or T for small ranks, 64 for the others.
fn rank_tile(problem: &Problem) -> (Tile, String) {
    let tile = if problem.rank() <= 16 {
        Tile::Rank16
    } else {
        Tile::Rank64
    };
    (tile, format!("rank {} in tiles of {}", problem.rank(), tile.ranks()))
}

/// The GEMM tile for an output of (rows, columns): the wide one where it gives every multiprocessor a block.
fn gemm_tile(operation: Operation, problem: &Problem, columns: usize, device: &DeviceProps) -> (Tile, u64, String) {
    let blocks = |tile: Tile| {
        let variant = Variant {
            operation,
            dtype: problem.dtype(),
            tile,
            access: Access::Vectorised,
        };
        let (block_m, block_n) = variant.block();
        problem.tokens().div_ceil(block_m) as u64 * columns.div_ceil(block_n) as u64
    };
    let (wide, small) = (blocks(Tile::Wide), blocks(Tile::Small));
    let devices = u64::from(device.multiprocessors);
    if wide >= devices {
        (
            Tile::Wide,
            wide,
            format!("{wide} wide tiles for {devices} multiprocessors"),
        )
    } else {
        (
            Tile::Small,
            small,
            format!("small tiles, since {wide} wide ones would not fill {devices} multiprocessors"),
        )
    }
}

/// How the backward's streaming kernels split a (tokens, columns) matrix over blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    /// Blocks side by side, each with its own columns.
    pub column_groups: usize,
    /// Blocks one below the other, each with its own rows.
    pub row_splits: usize,
    /// Rows of a split, a multiple of the kernel's row block; the last split may have fewer.
    pub rows_per_split: usize,
    /// Tiles that cover the rank.
    pub rank_tiles: usize,
}

impl Split {
    /// About two blocks per multiprocessor: enough to keep the memory busy, few enough that the partial sums stay small.
    fn new(variant: Variant, problem: &Problem, columns: usize, device: &DeviceProps) -> Self {
        let (rows, group_columns) = variant.block();
        let column_groups = columns.div_ceil(group_columns);
        let rank_tiles = problem.rank().div_ceil(variant.tile.ranks());
        let wanted = (2 * device.multiprocessors as usize).div_ceil(column_groups.saturating_mul(rank_tiles));
        let row_blocks = problem.tokens().div_ceil(rows);
        let rows_per_split = row_blocks.div_ceil(wanted.min(row_blocks)) * rows;
        Self {
            column_groups,
            row_splits: problem.tokens().div_ceil(rows_per_split),
            rows_per_split,
            rank_tiles,
        }
    }

    fn blocks(&self) -> u64 {
        self.column_groups as u64 * self.row_splits as u64 * self.rank_tiles as u64
    }
}

/// Blocks that sum partial matrices of `elements`: eight elements per thread, at most a block per multiprocessor.
fn reduce_blocks(elements: usize, threads: u32, device: &DeviceProps) -> u32 {
    let wanted = elements.div_ceil(8 * threads as usize) as u64;
    wanted.clamp(1, u64::from(device.multiprocessors)) as u32
}

fn fmt_plan(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    problem: &Problem,
    launches: &[Launch],
    saved: usize,
    workspace: usize,
) -> fmt::Result {
    writeln!(f, "{name} of {problem}")?;
    for (index, launch) in launches.iter().enumerate() {
        writeln!(f, "  {}. {launch}", index + 1)?;
    }
    write!(f, "  saved {saved} B, workspace {workspace} B")
}
