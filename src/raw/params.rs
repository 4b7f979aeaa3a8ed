//! The kernels' parameter structs, field for field as in `kernels/params.cuh`. The kernel `lora_contract` writes out the size and the
//! offset of every field as nvcc laid them out, and a test compares.

use bytemuck::{Pod, Zeroable};

/// Defines the structs, and `layout()`: of each its size, then the offset of every field.
macro_rules! parameters {
    ($(struct $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            #[derive(Debug, Clone, Copy, Pod, Zeroable)]
            #[repr(C)]
            pub struct $name { $(pub $field: $type,)* }
        )*

        pub fn layout() -> Vec<u32> {
            let mut words = Vec::new();
            $(
                words.push(size_of::<$name>() as u32);
                $(words.push(std::mem::offset_of!($name, $field) as u32);)*
            )*
            words
        }
    };
}

parameters! {
    struct DropoutParams {
        seed: u64,
        offset: u64,
        threshold: u32,
        keep_scale: f32,
    }

    struct ShrinkParams {
        x: u64,
        lora_a: u64,
        s: u64,
        mask: u64,
        x_stride: i64,
        lora_a_stride: i64,
        mask_row_bytes: i64,
        m: i32,
        k: i32,
        r: i32,
        r_pad: i32,
        scaling: f32,
        lora_vectorised: i32,
        dropout: DropoutParams,
    }

    struct ForwardParams {
        x: u64,
        weight: u64,
        bias: u64,
        s: u64,
        lora_b: u64,
        y: u64,
        x_stride: i64,
        weight_stride: i64,
        lora_b_stride: i64,
        y_stride: i64,
        m: i32,
        n: i32,
        k: i32,
        r: i32,
        r_pad: i32,
        lora_vectorised: i32,
        out_paired: i32,
        pad: i32,
    }

    struct GradBParams {
        dy: u64,
        lora_b: u64,
        s: u64,
        t_partial: u64,
        lora_b_partial: u64,
        dy_stride: i64,
        lora_b_stride: i64,
        m: i32,
        n: i32,
        r: i32,
        r_pad: i32,
        rows_per_split: i32,
        column_groups: i32,
        m_splits: i32,
        scaling: f32,
        lora_vectorised: i32,
        pad: i32,
    }

    struct ReduceParams {
        partial: u64,
        out: u64,
        out_stride: i64,
        partial_stride: i64,
        split_stride: i64,
        splits: i32,
        rows: i32,
        columns: i32,
        blocks: i32,
    }

    struct GradAParams {
        x: u64,
        mask: u64,
        t_partial: u64,
        t: u64,
        lora_a_partial: u64,
        x_stride: i64,
        mask_row_bytes: i64,
        m: i32,
        k: i32,
        r: i32,
        r_pad: i32,
        t_partials: i32,
        rows_per_split: i32,
        column_groups: i32,
        m_splits: i32,
        keep_scale: f32,
        pad: i32,
        reduce_b: ReduceParams,
    }

    struct GradXParams {
        dy: u64,
        weight: u64,
        t: u64,
        lora_a: u64,
        mask: u64,
        dx: u64,
        dy_stride: i64,
        weight_stride: i64,
        lora_a_stride: i64,
        dx_stride: i64,
        mask_row_bytes: i64,
        m: i32,
        n: i32,
        k: i32,
        r: i32,
        r_pad: i32,
        keep_scale: f32,
        lora_vectorised: i32,
        out_paired: i32,
        reduce_a: ReduceParams,
    }
}
