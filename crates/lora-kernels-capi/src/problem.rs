//! What is to be computed, as C describes it.

use kernels::{Problem, Projection, Role, RowAdapters};

use crate::enumerations::{dtype, mask, weight_layout};
use crate::error::{ArgumentPath, Result};
use crate::layout::{layouts, lora_layout};
use crate::status::lora_status;
use crate::structs::{Versioned, elements, flag, read, reserved, size};

/// As many projections as can share x.
pub const LORA_MAX_PROJECTIONS: usize = 8;

const _: () = assert!(LORA_MAX_PROJECTIONS == Problem::MAX_PROJECTIONS);

/// One linear layer of those that share x.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_projection {
    /// sizeof(lora_projection)
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// Columns of y: N.
    pub out_features: usize,
    /// Rank of the adapter: r. 0 where the layer has none; at least one layer has one.
    pub rank: usize,
}

/// Adapted linear layers applied to a batch of tokens: one, or several that share x.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_problem {
    /// sizeof(lora_problem)
    pub struct_size: u32,
    /// A lora_dtype: of every tensor but the adapters' matrices and gradients. It has no default.
    pub dtype: u32,
    /// Rows of x: M. Without any, y is empty and the gradients of the adapters are 0.
    pub tokens: usize,
    /// Columns of x: K.
    pub in_features: usize,
    /// The layers that share x.
    pub projections: *const lora_projection,
    /// How many: 1 to LORA_MAX_PROJECTIONS.
    pub projection_count: usize,
    /// A lora_dtype: of lora_A, lora_B and their gradients, dtype or LORA_DTYPE_F32. 0: as dtype.
    pub adapter_dtype: u32,
    /// A lora_weight_layout, of all weights.
    pub weight_layout: u32,
    /// 1: a bias is added to every y.
    pub bias: u32,
    /// 1: the adapters' input goes through dropout, all of them under the same mask.
    pub dropout: u32,
    /// A lora_mask.
    pub mask: u32,
    /// 1: backward computes no dx.
    pub no_input_gradient: u32,
    /// 1: y is added to what its memory holds, in f32 and rounded once. 0: it is overwritten.
    pub accumulate_y: u32,
    /// 1: dx is added to.
    pub accumulate_dx: u32,
    /// 1: d_lora_A is added to, in all projections.
    pub accumulate_d_lora_a: u32,
    /// 1: d_lora_B is added to, in all projections.
    pub accumulate_d_lora_b: u32,
    /// Layouts of matrices that aren't contiguous and 16-byte aligned. The last one for a matrix
    /// holds.
    pub layouts: *const lora_layout,
    /// How many; may be 0.
    pub layout_count: usize,
    /// 1: no backward follows, so forward saves nothing. Up to 64 tokens take one launch then.
    pub inference: u32,
    /// 1: the bits of a row of y depend on nothing but this row, its adapters and the weights.
    pub batch_invariant: u32,
    /// 1: the adapters' part alone, without the base product: y is added to, and the weights are
    /// not read. Set accumulate_y too.
    pub delta_only: u32,
    /// 1: lora_dropout's seed is the device address of two uint64_t, seed and offset, at a multiple
    /// of 8, and its offset is 0. So a replayed graph draws the mask of what stands there then.
    pub dropout_from_memory: u32,
    /// First row (token) of this problem's dropout mask in that of the whole layer, of which this
    /// is a shard.
    pub mask_row: u64,
    /// First column of x in the mask of the whole layer: a multiple of 8.
    pub mask_column: u64,
    /// 0: each projection has the adapter of the call. Otherwise the slots of the table that
    /// lora_rows names; the rank of a projection is the largest that an adapter may have there.
    pub adapter_slots: usize,
    /// The most adapters that a row goes through, 1 to 4. 0 exactly if adapter_slots is 0.
    pub adapters_per_row: usize,
}

// SAFETY: repr(C), plain integers: two of 4 bytes, two of 8.
unsafe impl Versioned for lora_projection {
    const NAME: &'static str = "lora_projection";
    const SIZES: &[u32] = &[24];
}

// SAFETY: repr(C), integers and pointers: between those of 8 bytes an even number of 4.
unsafe impl Versioned for lora_problem {
    const NAME: &'static str = "lora_problem";
    const SIZES: &[u32] = &[96, 144];
}

const PROBLEM: &str = "problem";

/// # Safety
/// As [`read`], also what the struct points to.
pub unsafe fn problem(problem: *const lora_problem) -> Result<Problem> {
    // SAFETY: the caller's promise.
    let given = unsafe { read(problem, PROBLEM) }?;
    let status = lora_status::Dimension;
    // SAFETY: the caller's promise.
    let projections = unsafe { projections(&given) }?;
    let mut problem = Problem::sharing_x(
        size("problem.tokens", given.tokens, status)?,
        size("problem.in_features", given.in_features, status)?,
        &projections,
        dtype(PROBLEM, "dtype", given.dtype)?,
    )?
    .with_bias(flag(PROBLEM, "bias", given.bias)?)
    .with_dropout(flag(PROBLEM, "dropout", given.dropout)?)
    .with_input_gradient(!flag(
        PROBLEM,
        "no_input_gradient",
        given.no_input_gradient,
    )?)
    .with_mask(mask(PROBLEM, given.mask)?)
    .with_weight_layout(weight_layout(PROBLEM, given.weight_layout)?)
    .with_inference(flag(PROBLEM, "inference", given.inference)?)
    .with_batch_invariance(flag(PROBLEM, "batch_invariant", given.batch_invariant)?)
    .with_delta_only(flag(PROBLEM, "delta_only", given.delta_only)?)
    .with_dropout_from_memory(flag(
        PROBLEM,
        "dropout_from_memory",
        given.dropout_from_memory,
    )?)
    .with_mask_origin(given.mask_row, given.mask_column)?;
    let slots = size("problem.adapter_slots", given.adapter_slots, status)?;
    let per_row = size("problem.adapters_per_row", given.adapters_per_row, status)?;
    if (slots, per_row) != (0, 0) {
        problem = problem.with_row_adapters(RowAdapters::Table { slots, per_row })?;
    }
    if given.adapter_dtype != 0 {
        let adapter = dtype(PROBLEM, "adapter_dtype", given.adapter_dtype)?;
        problem = problem.with_adapter_dtype(adapter)?;
    }
    let accumulate = [
        (Role::Y, "accumulate_y", given.accumulate_y),
        (Role::DX, "accumulate_dx", given.accumulate_dx),
        (
            Role::DLoraA,
            "accumulate_d_lora_a",
            given.accumulate_d_lora_a,
        ),
        (
            Role::DLoraB,
            "accumulate_d_lora_b",
            given.accumulate_d_lora_b,
        ),
    ];
    for (role, field, value) in accumulate {
        problem = problem.with_accumulate(role, flag(PROBLEM, field, value)?)?;
    }
    // SAFETY: the caller's promise.
    unsafe { with_layouts(problem, &given) }
}

/// # Safety
/// As [`elements`].
unsafe fn projections(given: &lora_problem) -> Result<Vec<Projection>> {
    let status = lora_status::Projections;
    let count = size("problem.projection_count", given.projection_count, status)?;
    if count > Problem::MAX_PROJECTIONS {
        return Err(kernels::Error::Projections { given: count }.into());
    }
    let array = "problem->projections";
    // SAFETY: the caller's promise.
    let all = unsafe { elements(given.projections, count, array) }?;
    let projection = |(index, projection): (usize, Result<lora_projection>)| {
        let (argument, projection) = (ArgumentPath::element(array, index), projection?);
        reserved(argument, projection.reserved)?;
        let dimension = |field, given| {
            let name = format_args!("{argument}.{field}");
            size(name, given, lora_status::Dimension)
        };
        Ok(Projection {
            out_features: dimension("out_features", projection.out_features)?,
            rank: dimension("rank", projection.rank)?,
        })
    };
    all.enumerate().map(projection).collect()
}

/// # Safety
/// As [`layouts`].
unsafe fn with_layouts(mut problem: Problem, given: &lora_problem) -> Result<Problem> {
    // SAFETY: the caller's promise.
    for layout in unsafe { layouts(given.layouts, given.layout_count) }? {
        let (argument, role, layout) = layout?;
        let projection = match role {
            // All projections share these two.
            Role::X | Role::DX => 0,
            _ => {
                let name = format_args!("{argument}.index");
                size(name, layout.index, lora_status::NoProjection)?
            }
        };
        let planned = problem.layout_of(projection, role);
        problem = problem.with_layout_of(projection, role, layout.over(planned))?;
    }
    Ok(problem)
}
