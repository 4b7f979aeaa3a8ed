//! Which operands may be read or written 16 bytes at a time.

use super::{Access, Arch, DeviceProps, Variant, arch};
use crate::{DType, Problem, Role, WeightLayout};

pub(super) const VECTOR: u64 = 16;
/// The largest row stride, in elements, with which a GEMM copies its operands in vectors. It lets
/// 32 bits hold the offset of a row in a tile, in vectors.
const FAR_ROWS: i64 = 1 << 26;
/// The row stride, in bytes, from which on there is no tensor map (CUDA driver API,
/// `cuTensorMapEncodeTiled`).
const FAR_MAP_ROWS: u64 = 1 << 40;

/// Whether every row of a tensor starts at a multiple of 16 bytes.
pub(crate) fn rows_aligned(problem: &Problem, projection: usize, tensor: Role) -> bool {
    let rows = problem.shape_of(projection, tensor).0;
    problem
        .layout_of(projection, tensor)
        .rows_aligned(rows, problem.dtype_of(tensor), VECTOR)
}

/// Whether the kernels may read an adapter's matrix 16 bytes at a time. They convert f32 elements
/// over narrower tensors one by one.
pub(crate) fn adapter_aligned(problem: &Problem, projection: usize, tensor: Role) -> bool {
    problem.adapter_dtype() == problem.dtype() && rows_aligned(problem, projection, tensor)
}

/// Whether a tensor map can be made of an adapter's matrix.
pub(super) fn adapter_mapped(problem: &Problem, projection: usize, tensor: Role) -> bool {
    adapter_aligned(problem, projection, tensor) && within_map(problem, projection, tensor)
}

/// Whether the rows of a tensor lie as close together as a tensor map asks.
fn within_map(problem: &Problem, projection: usize, tensor: Role) -> bool {
    let rows = problem.shape_of(projection, tensor).0;
    let stride = problem.layout_of(projection, tensor).row_stride as u64;
    rows <= 1 || stride < FAR_MAP_ROWS / problem.dtype_of(tensor).size() as u64
}

/// Whether a bulk copy may write an output: a tensor map can be made of it, and no row ends within
/// 16 bytes.
pub(crate) fn output_mapped(problem: &Problem, projection: usize, tensor: Role) -> bool {
    let columns = problem.shape_of(projection, tensor).1;
    let row_bytes = columns as u64 * problem.dtype_of(tensor).size() as u64;
    rows_aligned(problem, projection, tensor)
        && within_map(problem, projection, tensor)
        && row_bytes.is_multiple_of(VECTOR)
}

/// The access for matrices that are read along their rows, and the reason.
pub(super) fn streamed<'a>(
    problem: &Problem,
    tensors: impl IntoIterator<Item = (usize, Role)> + 'a,
) -> (Access, String) {
    let off = tensors
        .into_iter()
        .find(|&(projection, tensor)| !rows_aligned(problem, projection, tensor));
    match off {
        None => (Access::Vectorised, "16-byte copies".into()),
        Some((projection, tensor)) => (Access::Any, off_vectors(problem, projection, tensor)),
    }
}

/// How a GEMM may read its operands.
pub(super) struct GemmAccess {
    /// Through tensor maps, or the reason why not.
    pub mapped: Result<Access, String>,
    /// By copies of its threads, and the reason.
    pub copied: (Access, String),
}

impl GemmAccess {
    /// `stream` is x or dy.
    pub fn new(problem: &Problem, stream: Role) -> Self {
        Self {
            mapped: mapped(problem, stream),
            copied: copied(problem, stream),
        }
    }

    /// Of a product that reads neither: the kernels of either access compute the same.
    pub fn none() -> Self {
        let reason = "no weight";
        Self {
            mapped: Err(reason.into()),
            copied: (Access::Vectorised, reason.into()),
        }
    }

    /// Of the forward of rows with adapters of their own. Batch-invariant results have the bits of
    /// `mma.sync` on every device, and nothing says that those of `wgmma` are the same.
    pub fn forward_rows(problem: &Problem) -> Self {
        if problem.is_delta_only() {
            // Neither x nor the weight is read.
            return Self::none();
        }
        let of_product = Self::new(problem, Role::X);
        match problem.is_batch_invariant() {
            true => Self {
                mapped: Err("batch-invariant results take mma.sync everywhere".into()),
                ..of_product
            },
            false => of_product,
        }
    }

    /// What a launch says of its access. `offered` tells whether any kernel that reads through
    /// tensor maps could have been chosen.
    pub fn reason(&self, chosen: Variant, offered: bool, device: &DeviceProps) -> String {
        if arch::maps_operands(&chosen) {
            return "tensor maps".into();
        }
        let copied = &self.copied.1;
        let why = match &self.mapped {
            _ if offered || !Arch::Sm90a.runs_on(device.compute_capability()) => {
                return copied.clone();
            }
            Err(why) => why,
            Ok(_) if !device.tensor_maps() => "the driver encodes none",
            Ok(_) => "the device has no such kernel in this build",
        };
        format!("{copied}; no tensor maps, since {why}")
    }
}

/// The access through tensor maps, by the layout of the weight alone: what lies outside of a matrix
/// is read as zero, so its rows may end anywhere.
fn mapped(problem: &Problem, stream: Role) -> Result<Access, String> {
    if problem.dtype() == DType::F32 {
        return Err("wgmma has no f32".into());
    }
    for projection in 0..problem.projections().len() {
        for tensor in [stream, Role::Weight] {
            let which = of(problem, projection);
            if !rows_aligned(problem, projection, tensor) {
                return Err(format!("rows of {tensor}{which} lie off 16 bytes"));
            }
            if !within_map(problem, projection, tensor) {
                return Err(format!(
                    "rows of {tensor}{which} lie 2^40 bytes or more apart"
                ));
            }
        }
    }
    Ok(vectorised(problem))
}

/// The vectorised access, by the layout of the weight.
fn vectorised(problem: &Problem) -> Access {
    match problem.weight_layout() {
        WeightLayout::OutIn => Access::Vectorised,
        WeightLayout::InOut => Access::VectorisedKn,
    }
}

/// The access by copies of threads. The rows of a weight that is contiguous along the output must
/// consist of whole vectors.
fn copied(problem: &Problem, stream: Role) -> (Access, String) {
    let along_output = match stream {
        Role::X => problem.weight_layout() == WeightLayout::InOut,
        _ => problem.weight_layout() == WeightLayout::OutIn,
    };
    for projection in 0..problem.projections().len() {
        for tensor in [stream, Role::Weight] {
            if !rows_aligned(problem, projection, tensor) {
                return (Access::Any, off_vectors(problem, projection, tensor));
            }
            let row_stride = problem.layout_of(projection, tensor).row_stride;
            if row_stride > FAR_ROWS && problem.shape_of(projection, tensor).0 > 1 {
                let which = of(problem, projection);
                let reason = format!(
                    "element-wise loads, since rows of {tensor}{which} lie {row_stride} elements apart, more than {FAR_ROWS}"
                );
                return (Access::Any, reason);
            }
        }
        let columns = problem.shape_of(projection, Role::Weight).1;
        let row_bytes = columns as u64 * problem.dtype().size() as u64;
        if along_output && !row_bytes.is_multiple_of(VECTOR) {
            let which = of(problem, projection);
            let reason = format!(
                "element-wise loads, since rows of weight{which} ({columns} elements) end off 16 bytes"
            );
            return (Access::Any, reason);
        }
    }
    (vectorised(problem), "16-byte copies".into())
}

fn off_vectors(problem: &Problem, projection: usize, tensor: Role) -> String {
    let layout = problem.layout_of(projection, tensor);
    format!(
        "element-wise loads, since {tensor}{} (row stride {}, aligned to {} B) has rows off 16 bytes",
        of(problem, projection),
        layout.row_stride,
        layout.alignment
    )
}

fn of(problem: &Problem, projection: usize) -> String {
    match problem.projections().len() {
        1 => String::new(),
        _ => format!(" of projection {projection}"),
    }
}
