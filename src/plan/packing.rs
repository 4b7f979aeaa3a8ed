//! 16-bit copies of adapters' matrices, for kernels that read them through tensor maps.
//!
//! A tensor map needs elements of the product's type and rows at multiples of 16 bytes. A matrix
//! that is f32 over 16-bit tensors, or whose rows lie elsewhere (an odd rank, a view), is copied to
//! the workspace by further blocks of an earlier launch of the same call.

use super::memory::BufferLayout;
use super::{DeviceProps, Region, access};
use crate::{Problem, Role};

/// The copies that a GEMM reads: lora_B of every adapted projection for the forward, lora_A for dx.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Packing {
    /// One for each adapted projection, `None` where the caller's matrix is read. Empty for kernels
    /// that need no tensor maps.
    pub of_adapted: Vec<Option<PackedMatrix>>,
}

/// The copy of one matrix: (rows, `row_stride`) in the product's type, zero from the matrix's last
/// column on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedMatrix {
    pub region: Region,
    /// Elements from one row to the next: the columns, rounded up to 16 bytes.
    pub row_stride: usize,
    /// Blocks that write it.
    pub blocks: u32,
}

impl Packing {
    /// The copies of a tensor of every adapted projection that a tensor map can't take as it is,
    /// each made by blocks of `threads` threads.
    pub(super) fn new(
        problem: &Problem,
        tensor: Role,
        threads: u32,
        device: &DeviceProps,
        workspace: &mut BufferLayout,
    ) -> Self {
        let size = problem.dtype().size();
        let blocks = adapter_blocks(problem, tensor, threads, device);
        let of_adapted = problem.adapted().zip(blocks);
        let of_adapted = of_adapted.map(|((projection, _), blocks)| {
            if access::adapter_mapped(problem, projection, tensor) {
                return None;
            }
            let (rows, columns) = problem.shape_of(projection, tensor);
            let row_stride = columns.next_multiple_of(access::VECTOR as usize / size);
            Some(PackedMatrix {
                region: workspace.region(&[rows, row_stride], size),
                row_stride,
                blocks,
            })
        });
        Self {
            of_adapted: of_adapted.collect(),
        }
    }

    /// The matrices that are copied.
    pub fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.of_adapted.iter().flatten()
    }

    /// What a launch whose last blocks copy this tensor says of them.
    pub(super) fn reason(&self, tensor: Role) -> String {
        match self.blocks() {
            0 => String::new(),
            blocks => format!("; {blocks} blocks copy {tensor} for tensor maps"),
        }
    }

    /// The number of blocks that copy, after the other blocks of their launch.
    pub fn blocks(&self) -> u32 {
        self.matrices().map(|matrix| matrix.blocks).sum()
    }
}

/// The number of blocks for a pass over a tensor of each adapted projection: eight elements per
/// thread, and about one block per multiprocessor in total at most.
pub(super) fn adapter_blocks(
    problem: &Problem,
    tensor: Role,
    threads: u32,
    device: &DeviceProps,
) -> Vec<u32> {
    let adapted = problem.adapted().count() as u64;
    let most = (u64::from(device.multiprocessors()) / adapted).max(1);
    let blocks = |(projection, _)| {
        let (rows, columns) = problem.shape_of(projection, tensor);
        let elements = rows as u64 * columns as u64;
        elements.div_ceil(8 * u64::from(threads)).clamp(1, most) as u32
    };
    problem.adapted().map(blocks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Layout, Projection};

    fn packing(problem: &Problem, tensor: Role) -> (Packing, usize) {
        let (device, mut workspace) = (DeviceProps::h100(), BufferLayout::default());
        let packing = Packing::new(problem, tensor, 128, &device, &mut workspace);
        (packing, workspace.bytes())
    }

    fn problem(ranks: &[usize]) -> Problem {
        let projection = |&rank| Projection {
            out_features: 1024,
            rank,
        };
        let projections: Vec<_> = ranks.iter().map(projection).collect();
        Problem::sharing_x(64, 512, &projections, DType::BF16).unwrap()
    }

    #[test]
    fn matrices_with_rows_at_16_bytes_are_read_where_they_are() {
        let problem = problem(&[16, 0, 8]);
        for tensor in [Role::LoraA, Role::LoraB] {
            let (packing, bytes) = packing(&problem, tensor);
            assert_eq!(packing.of_adapted, [None, None]);
            assert_eq!((packing.blocks(), bytes), (0, 0));
            assert_eq!(packing.reason(tensor), "");
        }
    }

    #[test]
    fn ranks_off_eight_are_padded_in_copies_of_lora_b() {
        let problem = problem(&[16, 0, 3]);
        let (copies, bytes) = packing(&problem, Role::LoraB);
        let [None, Some(copy)] = copies.of_adapted[..] else {
            panic!("{copies:?}")
        };
        // 1024 · 3 elements, eight for each of 128 threads.
        assert_eq!((copy.row_stride, copy.blocks), (8, 3));
        assert_eq!((copy.region.bytes, bytes), (1024 * 8 * 2, 1024 * 8 * 2));
        assert!(copies.reason(Role::LoraB).contains("3 blocks copy lora_B"));
        // The rows of lora_A are as long as those of x.
        assert_eq!(packing(&problem, Role::LoraA).1, 0);
    }

    #[test]
    fn f32_adapters_and_rows_off_16_bytes_are_copied() {
        let base = || problem(&[16, 16]);
        let f32_adapters = base().with_adapter_dtype(DType::F32).unwrap();
        let layout = |row_stride, alignment| Layout {
            row_stride,
            alignment,
        };
        let with = |layout| base().with_layout_of(1, Role::LoraB, layout).unwrap();
        for (problem, copied) in [
            (f32_adapters, [true, true]),
            (with(layout(17, 16)), [false, true]),
            (with(layout(16, 8)), [false, true]),
            (with(layout(1 << 39, 16)), [false, true]),
            (with(layout((1 << 39) - 8, 16)), [false, false]),
        ] {
            let (packing, _) = packing(&problem, Role::LoraB);
            let some: Vec<_> = packing.of_adapted.iter().map(Option::is_some).collect();
            assert_eq!(some, copied, "{problem}");
        }
    }
}
