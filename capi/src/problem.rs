//! What is to be computed, as C describes it.

use kernels::{DType, Layout, Mask, Problem, Projection, Tensor, WeightLayout};

use crate::error::{Error, Place, Result};
use crate::structs::{Versioned, elements, flag, read, reserved};

/// As many projections as can share x.
pub const LORA_MAX_PROJECTIONS: usize = 8;

/// An element type.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum lora_dtype {
    /// IEEE 754 binary16.
    F16 = 1,
    /// bfloat16: f32's exponent, 8 bits of significand.
    Bf16 = 2,
    /// IEEE 754 binary32.
    F32 = 3,
}

/// The tensors of a layer. Shapes, row-major: M = tokens, K = in_features, N = out_features, r = rank.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum lora_tensor {
    /// Input, (M, K).
    X = 0,
    /// Base weight W, (N, K), or (K, N) as LORA_WEIGHT_LAYOUT_IN_OUT.
    Weight = 1,
    /// lora_A, (r, K).
    LoraA = 2,
    /// lora_B, (N, r).
    LoraB = 3,
    /// Output, (M, N).
    Y = 4,
    /// Gradient of the output, (M, N).
    Dy = 5,
    /// Gradient of the input, (M, K).
    Dx = 6,
    /// Gradient of lora_A, (r, K).
    DLoraA = 7,
    /// Gradient of lora_B, (N, r).
    DLoraB = 8,
    /// Bias, (N).
    Bias = 9,
}

/// Where backward finds which elements of x the dropout has kept.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum lora_mask {
    /// In saved, one bit per element of x, where forward has stored it.
    Stored = 0,
    /// Nowhere: it is drawn again, for arithmetic instead of memory.
    Redrawn = 1,
}

/// Which way round the base weight is stored. The adapters' matrices are (r, K) and (N, r) in either case.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum lora_weight_layout {
    /// (out_features, in_features), as torch.nn.Linear has it.
    OutIn = 0,
    /// (in_features, out_features), as GPT-2's Conv1D has it: PEFT's fan_in_fan_out.
    InOut = 1,
}

const _: () = {
    assert!(LORA_MAX_PROJECTIONS == Problem::MAX_PROJECTIONS);
    assert!(lora_dtype::F16 as u32 == DType::F16 as u32);
    assert!(lora_dtype::Bf16 as u32 == DType::BF16 as u32);
    assert!(lora_dtype::F32 as u32 == DType::F32 as u32);
    assert!(lora_tensor::X as u32 == Tensor::X as u32);
    assert!(lora_tensor::Weight as u32 == Tensor::Weight as u32);
    assert!(lora_tensor::LoraA as u32 == Tensor::LoraA as u32);
    assert!(lora_tensor::LoraB as u32 == Tensor::LoraB as u32);
    assert!(lora_tensor::Y as u32 == Tensor::Y as u32);
    assert!(lora_tensor::Dy as u32 == Tensor::DY as u32);
    assert!(lora_tensor::Dx as u32 == Tensor::DX as u32);
    assert!(lora_tensor::DLoraA as u32 == Tensor::DLoraA as u32);
    assert!(lora_tensor::DLoraB as u32 == Tensor::DLoraB as u32);
    assert!(lora_tensor::Bias as u32 == Tensor::Bias as u32);
    assert!(lora_mask::Stored as u32 == Mask::Stored as u32);
    assert!(lora_mask::Redrawn as u32 == Mask::Redrawn as u32);
    assert!(lora_weight_layout::OutIn as u32 == WeightLayout::OutIn as u32);
    assert!(lora_weight_layout::InOut as u32 == WeightLayout::InOut as u32);
};

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

/// How one matrix lies in memory, where it isn't contiguous and 16-byte aligned.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_layout {
    /// sizeof(lora_layout)
    pub struct_size: u32,
    /// A lora_tensor.
    pub tensor: u32,
    /// Which projection's, counted from 0; of no meaning for x and dx.
    pub projection: usize,
    /// Elements from the start of one row to the start of the next, at least the number of columns. 0: the number of columns.
    pub row_stride: i64,
    /// What the address of the first element is a multiple of, in bytes: a power of two, at least the element's size. 0: 16, but an element's size
    /// for bias, d_lora_A and d_lora_B, where more is of no use. A plan made for 16 can choose the fast kernels; an address that turns out
    /// less aligned is refused.
    pub alignment: usize,
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
    /// Layouts of matrices that aren't contiguous and 16-byte aligned. Of two for the same matrix, the later one holds.
    pub layouts: *const lora_layout,
    /// How many; may be 0.
    pub layout_count: usize,
}

// SAFETY: repr(C), plain integers: two of 4 bytes, two of 8.
unsafe impl Versioned for lora_projection {
    const NAME: &'static str = "lora_projection";
}

// SAFETY: repr(C), plain integers: two of 4 bytes, three of 8.
unsafe impl Versioned for lora_layout {
    const NAME: &'static str = "lora_layout";
}

// SAFETY: repr(C), integers and pointers: between those of 8 bytes an even number of 4.
unsafe impl Versioned for lora_problem {
    const NAME: &'static str = "lora_problem";
}

const PLACE: &str = "problem";

/// # Safety
/// As [`read`], also what the struct points to.
pub unsafe fn problem(problem: *const lora_problem) -> Result<Problem> {
    // SAFETY: the caller's promise.
    let given = unsafe { read(problem, PLACE) }?;
    let dtype = dtype("dtype", given.dtype)?;
    // SAFETY: the caller's promise.
    let projections = unsafe { projections(&given) }?;
    let mut problem = Problem::sharing_x(given.tokens, given.in_features, &projections, dtype)?
        .with_bias(flag(PLACE, "bias", given.bias)?)
        .with_dropout(flag(PLACE, "dropout", given.dropout)?)
        .with_input_gradient(!flag(PLACE, "no_input_gradient", given.no_input_gradient)?)
        .with_mask(mask(given.mask)?)
        .with_weight_layout(weight_layout(given.weight_layout)?);
    if given.adapter_dtype != 0 {
        problem = problem.with_adapter_dtype(self::dtype("adapter_dtype", given.adapter_dtype)?)?;
    }
    for (tensor, field, accumulate) in [
        (Tensor::Y, "accumulate_y", given.accumulate_y),
        (Tensor::DX, "accumulate_dx", given.accumulate_dx),
        (Tensor::DLoraA, "accumulate_d_lora_a", given.accumulate_d_lora_a),
        (Tensor::DLoraB, "accumulate_d_lora_b", given.accumulate_d_lora_b),
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
/// As [`elements`].
unsafe fn with_layouts(mut problem: Problem, given: &lora_problem) -> Result<Problem> {
    let limit = Tensor::ALL.len() * Problem::MAX_PROJECTIONS;
    if given.layout_count > limit {
        return Err(Error::Layouts {
            given: given.layout_count,
            limit,
        });
    }
    let name = "problem->layouts";
    // SAFETY: the caller's promise.
    let all = unsafe { elements(given.layouts, given.layout_count, name) }?;
    for (index, one) in all.enumerate() {
        let one = one?;
        let index = Some(index);
        let tensor = tensor(Place { name, index }, one.tensor)?;
        let shared = matches!(tensor, Tensor::X | Tensor::DX);
        let projection = if shared { 0 } else { one.projection };
        let planned = problem.layout_of(projection, tensor);
        let layout = Layout {
            row_stride: if one.row_stride == 0 { planned.row_stride } else { one.row_stride },
            alignment: if one.alignment == 0 { planned.alignment } else { one.alignment },
        };
        problem = problem.with_layout_of(projection, tensor, layout)?;
    }
    Ok(problem)
}

fn unknown<T>(place: impl Into<Place>, field: &'static str, given: u32, allowed: &'static str) -> Result<T> {
    Err(Error::Enumeration {
        place: place.into(),
        field,
        given,
        allowed,
    })
}

fn dtype(field: &'static str, given: u32) -> Result<DType> {
    let found = DType::ALL.into_iter().find(|one| *one as u32 == given);
    let allowed = "LORA_DTYPE_F16 (1), LORA_DTYPE_BF16 (2), LORA_DTYPE_F32 (3)";
    found.map_or_else(|| unknown(PLACE, field, given, allowed), Ok)
}

fn tensor(place: Place, given: u32) -> Result<Tensor> {
    let found = Tensor::ALL.into_iter().find(|one| *one as u32 == given);
    let allowed = "LORA_TENSOR_X (0) to LORA_TENSOR_BIAS (9)";
    found.map_or_else(|| unknown(place, "tensor", given, allowed), Ok)
}

fn mask(given: u32) -> Result<Mask> {
    match given {
        0 => Ok(Mask::Stored),
        1 => Ok(Mask::Redrawn),
        _ => unknown(PLACE, "mask", given, "LORA_MASK_STORED (0), LORA_MASK_REDRAWN (1)"),
    }
}

fn weight_layout(given: u32) -> Result<WeightLayout> {
    let allowed = "LORA_WEIGHT_LAYOUT_OUT_IN (0), LORA_WEIGHT_LAYOUT_IN_OUT (1)";
    match given {
        0 => Ok(WeightLayout::OutIn),
        1 => Ok(WeightLayout::InOut),
        _ => unknown(PLACE, "weight_layout", given, allowed),
    }
}
