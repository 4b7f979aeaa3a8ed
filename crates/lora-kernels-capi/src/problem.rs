//! What is to be computed, as C describes it.

use kernels::{Problem, Projection, Role};

use crate::enumerations::{self, dtype, mask, weight_layout};
use crate::error::{Place, Result};
use crate::layout::{layouts, lora_layout};
use crate::structs::{Versioned, elements, flag, read, reserved};

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
    /// Rows of x: M.
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
    /// Layouts of matrices that aren't contiguous and 16-byte aligned. Of two for the same matrix,
    /// the later one holds.
    pub layouts: *const lora_layout,
    /// How many; may be 0.
    pub layout_count: usize,
}

// SAFETY: repr(C), plain integers: two of 4 bytes, two of 8.
unsafe impl Versioned for lora_projection {
    const NAME: &'static str = "lora_projection";
    const FIRST_SIZE: u32 = 24;
}

// SAFETY: repr(C), integers and pointers: between those of 8 bytes an even number of 4.
unsafe impl Versioned for lora_problem {
    const NAME: &'static str = "lora_problem";
    const FIRST_SIZE: u32 = 96;
}

const PLACE: &str = "problem";

/// # Safety
/// As [`read`], also what the struct points to.
pub unsafe fn problem(problem: *const lora_problem) -> Result<Problem> {
    // SAFETY: the caller's promise.
    let given = unsafe { read(problem, PLACE) }?;
    let dtype = dtype(PLACE, "dtype", given.dtype)?;
    // SAFETY: the caller's promise.
    let projections = unsafe { projections(&given) }?;
    let mut problem = Problem::sharing_x(given.tokens, given.in_features, &projections, dtype)?
        .with_bias(flag(PLACE, "bias", given.bias)?)
        .with_dropout(flag(PLACE, "dropout", given.dropout)?)
        .with_input_gradient(!flag(PLACE, "no_input_gradient", given.no_input_gradient)?)
        .with_mask(mask(PLACE, given.mask)?)
        .with_weight_layout(weight_layout(PLACE, given.weight_layout)?);
    if given.adapter_dtype != 0 {
        problem = problem.with_adapter_dtype(enumerations::dtype(
            PLACE,
            "adapter_dtype",
            given.adapter_dtype,
        )?)?;
    }
    for (tensor, field, accumulate) in [
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
    ] {
        problem = problem.with_accumulate(tensor, flag(PLACE, field, accumulate)?)?;
    }
    // SAFETY: the caller's promise.
    unsafe { with_layouts(problem, &given) }
}

/// # Safety
/// As [`elements`].
unsafe fn projections(given: &lora_problem) -> Result<Vec<Projection>> {
    if given.projection_count > Problem::MAX_PROJECTIONS {
        return Err(kernels::Error::Projections {
            given: given.projection_count,
        }
        .into());
    }
    let name = "problem->projections";
    // SAFETY: the caller's promise.
    let all = unsafe { elements(given.projections, given.projection_count, name) }?;
    let projection = |(index, one): (usize, Result<lora_projection>)| {
        let one = one?;
        let index = Some(index);
        reserved(Place { name, index }, one.reserved)?;
        Ok(Projection {
            out_features: one.out_features,
            rank: one.rank,
        })
    };
    all.enumerate().map(projection).collect()
}

/// # Safety
/// As [`layouts`].
unsafe fn with_layouts(mut problem: Problem, given: &lora_problem) -> Result<Problem> {
    // SAFETY: the caller's promise.
    for layout in unsafe { layouts(given.layouts, given.layout_count) }? {
        let (tensor, layout) = layout?;
        let shared = matches!(tensor, Role::X | Role::DX);
        let projection = if shared { 0 } else { layout.index };
        let planned = problem.layout_of(projection, tensor);
        problem = problem.with_layout_of(projection, tensor, layout.over(planned))?;
    }
    Ok(problem)
}
