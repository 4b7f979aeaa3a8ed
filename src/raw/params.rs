//! The kernels' parameter structs, field for field as in `kernels/params.cuh`. The kernel `lora_contract` writes out the sizes and offsets
//! that nvcc gave them, and a test compares.

use bytemuck::{Pod, Zeroable};

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct DropoutParams {
    pub seed: u64,
    pub offset: u64,
    pub threshold: u32,
    pub keep_scale: f32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct ShrinkParams {
    pub x: u64,
    pub lora_a: u64,
    pub s: u64,
    pub mask: u64,
    pub x_stride: i64,
    pub lora_a_stride: i64,
    pub mask_row_bytes: i64,
    pub m: i32,
    pub k: i32,
    pub r: i32,
    pub r_pad: i32,
    pub scaling: f32,
    pub lora_vectorised: i32,
    pub dropout: DropoutParams,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct ForwardParams {
    pub x: u64,
    pub weight: u64,
    pub bias: u64,
    pub s: u64,
    pub lora_b: u64,
    pub y: u64,
    pub x_stride: i64,
    pub weight_stride: i64,
    pub lora_b_stride: i64,
    pub y_stride: i64,
    pub m: i32,
    pub n: i32,
    pub k: i32,
    pub r: i32,
    pub r_pad: i32,
    pub lora_vectorised: i32,
    pub out_paired: i32,
    pub pad: i32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct GradBParams {
    pub dy: u64,
    pub lora_b: u64,
    pub s: u64,
    pub t_partial: u64,
    pub lora_b_partial: u64,
    pub dy_stride: i64,
    pub lora_b_stride: i64,
    pub m: i32,
    pub n: i32,
    pub r: i32,
    pub r_pad: i32,
    pub rows_per_split: i32,
    pub column_groups: i32,
    pub m_splits: i32,
    pub scaling: f32,
    pub lora_vectorised: i32,
    pub pad: i32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct ReduceParams {
    pub partial: u64,
    pub out: u64,
    pub out_stride: i64,
    pub partial_stride: i64,
    pub split_stride: i64,
    pub splits: i32,
    pub rows: i32,
    pub columns: i32,
    pub blocks: i32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct GradAParams {
    pub x: u64,
    pub mask: u64,
    pub t_partial: u64,
    pub t: u64,
    pub lora_a_partial: u64,
    pub x_stride: i64,
    pub mask_row_bytes: i64,
    pub m: i32,
    pub k: i32,
    pub r: i32,
    pub r_pad: i32,
    pub t_partials: i32,
    pub rows_per_split: i32,
    pub column_groups: i32,
    pub m_splits: i32,
    pub keep_scale: f32,
    pub pad: i32,
    pub reduce_b: ReduceParams,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct GradXParams {
    pub dy: u64,
    pub weight: u64,
    pub t: u64,
    pub lora_a: u64,
    pub mask: u64,
    pub dx: u64,
    pub dy_stride: i64,
    pub weight_stride: i64,
    pub lora_a_stride: i64,
    pub dx_stride: i64,
    pub mask_row_bytes: i64,
    pub m: i32,
    pub n: i32,
    pub k: i32,
    pub r: i32,
    pub r_pad: i32,
    pub keep_scale: f32,
    pub lora_vectorised: i32,
    pub out_paired: i32,
    pub reduce_a: ReduceParams,
}

/// Sizes and offsets in the order in which `lora_contract` writes them.
pub const LAYOUT: [u32; 18] = {
    use std::mem::offset_of;
    [
        size_of::<ShrinkParams>() as u32,
        offset_of!(ShrinkParams, m) as u32,
        offset_of!(ShrinkParams, dropout) as u32,
        size_of::<ForwardParams>() as u32,
        offset_of!(ForwardParams, m) as u32,
        offset_of!(ForwardParams, out_paired) as u32,
        size_of::<GradBParams>() as u32,
        offset_of!(GradBParams, m) as u32,
        offset_of!(GradBParams, lora_vectorised) as u32,
        size_of::<ReduceParams>() as u32,
        offset_of!(ReduceParams, splits) as u32,
        offset_of!(ReduceParams, blocks) as u32,
        size_of::<GradAParams>() as u32,
        offset_of!(GradAParams, m) as u32,
        offset_of!(GradAParams, reduce_b) as u32,
        size_of::<GradXParams>() as u32,
        offset_of!(GradXParams, m) as u32,
        offset_of!(GradXParams, reduce_a) as u32,
    ]
};
