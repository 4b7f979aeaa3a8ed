//! The enums of the header, and what they mean to the core.

use kernels::{DType, Mask, Role, WeightLayout};

use crate::error::{ArgumentPath, Error, Given, Result};

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

/// What a tensor is in a layer. Shapes, row-major: M = tokens, K = in_features, N = out_features,
/// r = rank.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum lora_role {
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
    /// Merged weight W + sum of scaling*B*A, in the shape of the weight.
    Merged = 10,
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

/// Which way round the base weight is stored. The adapters' matrices are (r, K) and (N, r) in
/// either case.
#[repr(u32)]
#[derive(Debug, Clone, Copy)]
pub enum lora_weight_layout {
    /// (out_features, in_features), as torch.nn.Linear has it.
    OutIn = 0,
    /// (in_features, out_features), as GPT-2's Conv1D has it: PEFT's fan_in_fan_out.
    InOut = 1,
}

const _: () = {
    assert!(lora_dtype::F16 as u32 == DType::F16 as u32);
    assert!(lora_dtype::Bf16 as u32 == DType::BF16 as u32);
    assert!(lora_dtype::F32 as u32 == DType::F32 as u32);
    assert!(lora_role::X as u32 == Role::X as u32);
    assert!(lora_role::Weight as u32 == Role::Weight as u32);
    assert!(lora_role::LoraA as u32 == Role::LoraA as u32);
    assert!(lora_role::LoraB as u32 == Role::LoraB as u32);
    assert!(lora_role::Y as u32 == Role::Y as u32);
    assert!(lora_role::Dy as u32 == Role::DY as u32);
    assert!(lora_role::Dx as u32 == Role::DX as u32);
    assert!(lora_role::DLoraA as u32 == Role::DLoraA as u32);
    assert!(lora_role::DLoraB as u32 == Role::DLoraB as u32);
    assert!(lora_role::Bias as u32 == Role::Bias as u32);
    assert!(lora_role::Merged as u32 == Role::Merged as u32);
    assert!(lora_mask::Stored as u32 == Mask::Stored as u32);
    assert!(lora_mask::Redrawn as u32 == Mask::Redrawn as u32);
    assert!(lora_weight_layout::OutIn as u32 == WeightLayout::OutIn as u32);
    assert!(lora_weight_layout::InOut as u32 == WeightLayout::InOut as u32);
};

fn unknown<T>(
    argument: impl Into<ArgumentPath>,
    field: &'static str,
    given: u32,
    allowed: &'static str,
) -> Result<T> {
    Err(Error::Enumeration {
        argument: argument.into(),
        field,
        given: Given(given),
        allowed,
    })
}

pub fn dtype(argument: &'static str, field: &'static str, given: u32) -> Result<DType> {
    let allowed = "LORA_DTYPE_F16 (1), LORA_DTYPE_BF16 (2), LORA_DTYPE_F32 (3)";
    let found = DType::ALL.into_iter().find(|dtype| *dtype as u32 == given);
    found.map_or_else(|| unknown(argument, field, given, allowed), Ok)
}

pub fn role(argument: ArgumentPath, given: u32) -> Result<Role> {
    let allowed = "LORA_ROLE_X (0) to LORA_ROLE_MERGED (10)";
    let found = Role::ALL.into_iter().find(|role| *role as u32 == given);
    found.map_or_else(|| unknown(argument, "role", given, allowed), Ok)
}

pub fn mask(argument: &'static str, given: u32) -> Result<Mask> {
    let allowed = "LORA_MASK_STORED (0), LORA_MASK_REDRAWN (1)";
    match given {
        0 => Ok(Mask::Stored),
        1 => Ok(Mask::Redrawn),
        _ => unknown(argument, "mask", given, allowed),
    }
}

pub fn weight_layout(argument: &'static str, given: u32) -> Result<WeightLayout> {
    let allowed = "LORA_WEIGHT_LAYOUT_OUT_IN (0), LORA_WEIGHT_LAYOUT_IN_OUT (1)";
    match given {
        0 => Ok(WeightLayout::OutIn),
        1 => Ok(WeightLayout::InOut),
        _ => unknown(argument, "weight_layout", given, allowed),
    }
}
