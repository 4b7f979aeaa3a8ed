//! The kernels' parameter structs, field for field as in `kernels/common/params.cuh`,
//! `kernels/common/mask_origin.cuh`, `kernels/common/rows.cuh` and `kernels/decode/params.cuh`,
//! which document the fields. The kernel `lora_layout_check` writes the sizes, the offsets of all
//! fields and the values of the enums as nvcc compiled them, and a test compares them with these.

use bytemuck::{Pod, Zeroable};

use super::TensorMap;
use crate::{MergeReport, Problem};

const PROJECTIONS: usize = Problem::MAX_PROJECTIONS;

/// A device address.
type Address = u64;

/// Defines the structs, and `layout()`, which lists the size of each struct and the offsets of its
/// fields, and then the values of the enums.
macro_rules! parameters {
    ($(struct $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            #[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
            #[repr(C)]
            pub struct $name { $(pub $field: $type,)* }
        )*

        #[cfg(feature = "cuda")]
        pub fn layout() -> Vec<u32> {
            let mut words = Vec::new();
            $(
                words.push(size_of::<$name>() as u32);
                $(words.push(std::mem::offset_of!($name, $field) as u32);)*
            )*
            words.extend([mask_source::NONE, mask_source::STORED, mask_source::DRAWN].map(|v| v as u32));
            words.extend([merge_write::NEVER, merge_write::ALWAYS, merge_write::IF_FINITE].map(|v| v as u32));
            words.extend([entry_flags::PRESENT, entry_flags::A_VECTORISED, entry_flags::B_VECTORISED]);
            words
        }
    };
}

/// `MaskSource` of `params.cuh`.
pub mod mask_source {
    pub const NONE: i32 = 0;
    pub const STORED: i32 = 1;
    pub const DRAWN: i32 = 2;
}

/// Bits of `AdapterEntry::flags`, as in `kernels/common/rows.cuh`.
pub mod entry_flags {
    pub const PRESENT: u32 = 1;
    pub const A_VECTORISED: u32 = 2;
    pub const B_VECTORISED: u32 = 4;
}

/// `MergeWrite` of `params.cuh`.
pub mod merge_write {
    pub const NEVER: i32 = 0;
    pub const ALWAYS: i32 = 1;
    pub const IF_FINITE: i32 = 2;
}

parameters! {
    struct DropoutParams {
        seed: u64,
        offset: u64,
        threshold: u32,
        keep_scale: f32,
    }

    struct MaskOrigin {
        words: Address,
        row0: u32,
        group0: u32,
    }

    struct AdapterMatrix {
        data: Address,
        stride: i64,
        rank0: i32,
        r: i32,
        vectorised: i32,
        scaling: f32,
    }

    struct PackJob {
        from: Address,
        to: Address,
        from_stride: i64,
        to_stride: i64,
        rows: i32,
        columns: i32,
        first_block: i32,
        pad: i32,
    }

    struct PackParams {
        blocks: i32,
        jobs: i32,
        from_f32: i32,
        pad: i32,
        job: [PackJob; PROJECTIONS],
    }

    struct ShrinkParams {
        x: Address,
        s: Address,
        mask: Address,
        counters: Address,
        x_stride: i64,
        m: i32,
        k: i32,
        ranks: i32,
        adapters: i32,
        adapter_f32: i32,
        mask_source: i32,
        counter_count: i32,
        pad: i32,
        dropout: DropoutParams,
        lora_a: [AdapterMatrix; PROJECTIONS],
        pack_b: PackParams,
        origin: MaskOrigin,
    }

    struct ScheduleParams {
        tiles_m: i32,
        tiles_n: i32,
        group_n: i32,
        k_slices: i32,
        partial: Address,
        arrived: Address,
    }

    struct ForwardProjection {
        weight: Address,
        bias: Address,
        y: Address,
        weight_stride: i64,
        y_stride: i64,
        n: i32,
        first_tile: i32,
        output_vectorised: i32,
        pad: i32,
        lora_b: AdapterMatrix,
    }

    struct ForwardParams {
        x: Address,
        s: Address,
        x_stride: i64,
        m: i32,
        k: i32,
        ranks: i32,
        projections: i32,
        adapter_f32: i32,
        accumulate: i32,
        weight_transposed: i32,
        pad: i32,
        schedule: ScheduleParams,
        projection: [ForwardProjection; PROJECTIONS],
    }

    struct ForwardSm90Projection {
        weight: TensorMap,
        lora_b: TensorMap,
        y: TensorMap,
        bias: Address,
        y_data: Address,
        y_stride: i64,
        n: i32,
        first_tile: i32,
        rank0: i32,
        r: i32,
        scaling: f32,
        inverse_scaling: f32,
        output_mapped: i32,
        pad: [i32; 3],
    }

    struct ForwardSm90Params {
        x: TensorMap,
        s: TensorMap,
        m: i32,
        k: i32,
        projections: i32,
        accumulate: i32,
        schedule: ScheduleParams,
        pad: [i32; 4],
        projection: [ForwardSm90Projection; PROJECTIONS],
    }

    struct GradBProjection {
        dy: Address,
        t_partial: Address,
        lora_b_partial: Address,
        dy_stride: i64,
        n: i32,
        column_groups: i32,
        rows_per_split: i32,
        m_splits: i32,
        first_block: i32,
        pad: i32,
        lora_b: AdapterMatrix,
    }

    struct GradBParams {
        s: Address,
        counters: Address,
        m: i32,
        ranks: i32,
        projections: i32,
        adapter_f32: i32,
        counter_count: i32,
        pad: i32,
        projection: [GradBProjection; PROJECTIONS],
        pack_a: PackParams,
    }

    struct ReduceJob {
        partial: Address,
        out: Address,
        out_stride: i64,
        partial_stride: i64,
        split_stride: i64,
        splits: i32,
        rows: i32,
        columns: i32,
        first_block: i32,
    }

    struct ReduceParams {
        blocks: i32,
        jobs: i32,
        out_f32: i32,
        accumulate: i32,
        job: [ReduceJob; PROJECTIONS],
    }

    struct TSource {
        partial: Address,
        partials: i32,
        rank0: i32,
        r_pad: i32,
        pad: i32,
    }

    struct GradAParams {
        x: Address,
        mask: Address,
        t: Address,
        lora_a_partial: Address,
        x_stride: i64,
        m: i32,
        k: i32,
        ranks: i32,
        adapters: i32,
        rows_per_split: i32,
        column_groups: i32,
        m_splits: i32,
        mask_source: i32,
        dropout: DropoutParams,
        t_source: [TSource; PROJECTIONS],
        reduce_b: ReduceParams,
        origin: MaskOrigin,
    }

    struct GradXProjection {
        dy: Address,
        weight: Address,
        dy_stride: i64,
        weight_stride: i64,
        n: i32,
        pad: i32,
        lora_a: AdapterMatrix,
    }

    struct GradXParams {
        t: Address,
        mask: Address,
        dx: Address,
        dx_stride: i64,
        m: i32,
        k: i32,
        ranks: i32,
        projections: i32,
        adapter_f32: i32,
        accumulate: i32,
        weight_transposed: i32,
        output_vectorised: i32,
        mask_source: i32,
        pad: i32,
        dropout: DropoutParams,
        schedule: ScheduleParams,
        projection: [GradXProjection; PROJECTIONS],
        reduce_a: ReduceParams,
        origin: MaskOrigin,
    }

    struct GradXSm90Projection {
        dy: TensorMap,
        weight: TensorMap,
        lora_a: TensorMap,
    }

    struct ProjectionSize {
        n: i32,
        rank0: i32,
        r: i32,
    }

    struct GradXSm90Params {
        t: TensorMap,
        dx: TensorMap,
        projection: [GradXSm90Projection; PROJECTIONS],
        size: [ProjectionSize; PROJECTIONS],
        mask: Address,
        dx_data: Address,
        dx_stride: i64,
        m: i32,
        k: i32,
        ranks: i32,
        projections: i32,
        accumulate: i32,
        output_mapped: i32,
        mask_source: i32,
        pad: i32,
        dropout: DropoutParams,
        schedule: ScheduleParams,
        reduce_a: ReduceParams,
        pad_end: [i32; 8],
        origin: MaskOrigin,
        origin_pad: [i32; 12],
    }

    struct AdapterEntry {
        lora_a: Address,
        lora_b: Address,
        a_stride: i64,
        b_stride: i64,
        rank: i32,
        scaling: f32,
        flags: u32,
        pad: i32,
    }

    struct RowAdapterParams {
        entries: Address,
        slot: Address,
        weight: Address,
        wrong: Address,
        slots: i32,
        per_row: i32,
        adapter_f32: i32,
        s_stride: i32,
        s_first: [i32; PROJECTIONS],
        s_rank: [i32; PROJECTIONS],
        one: [AdapterEntry; PROJECTIONS],
    }

    struct DecodeProjection {
        weight: Address,
        bias: Address,
        y: Address,
        weight_stride: i64,
        y_stride: i64,
        n: i32,
        first_tile: i32,
        output_vectorised: i32,
        pad: i32,
    }

    struct DecodeParams {
        x: Address,
        s: Address,
        s_partial: Address,
        partial: Address,
        flags: Address,
        x_stride: i64,
        m: i32,
        k: i32,
        projections: i32,
        accumulate: i32,
        tiles: i32,
        steps: i32,
        share: i32,
        slices: i32,
        groups: i32,
        blocks: i32,
        flag_words: i32,
        pad: i32,
        rows: RowAdapterParams,
        projection: [DecodeProjection; PROJECTIONS],
    }

    struct RowGradients {
        lora_a: Address,
        lora_b: Address,
        a_stride: i64,
        b_stride: i64,
    }

    struct RowsGradProjection {
        dy: Address,
        weight: Address,
        dy_stride: i64,
        weight_stride: i64,
        n: i32,
        dy_vectorised: i32,
    }

    struct RowsGradParams {
        x: Address,
        s: Address,
        t: Address,
        mask: Address,
        dx: Address,
        adapters: Address,
        counters: Address,
        gradients: Address,
        x_stride: i64,
        dx_stride: i64,
        m: i32,
        k: i32,
        projections: i32,
        base: i32,
        gradient_f32: i32,
        accumulate_a: i32,
        accumulate_b: i32,
        accumulate_dx: i32,
        weight_transposed: i32,
        x_vectorised: i32,
        dx_vectorised: i32,
        counter_count: i32,
        rank_tiles: i32,
        mask_source: i32,
        dropout: DropoutParams,
        schedule: ScheduleParams,
        rows: RowAdapterParams,
        one: [RowGradients; PROJECTIONS],
        projection: [RowsGradProjection; PROJECTIONS],
        origin: MaskOrigin,
    }

    struct RowsForwardProjection {
        weight: Address,
        bias: Address,
        y: Address,
        weight_stride: i64,
        y_stride: i64,
        n: i32,
        first_tile: i32,
        output_vectorised: i32,
        pad: i32,
    }

    struct RowsForwardParams {
        x: Address,
        s: Address,
        mask: Address,
        x_stride: i64,
        m: i32,
        k: i32,
        projections: i32,
        base: i32,
        accumulate: i32,
        weight_transposed: i32,
        x_vectorised: i32,
        rank_tiles: i32,
        mask_source: i32,
        pad: i32,
        dropout: DropoutParams,
        origin: MaskOrigin,
        schedule: ScheduleParams,
        rows: RowAdapterParams,
        projection: [RowsForwardProjection; PROJECTIONS],
    }

    struct RowsForwardSm90Projection {
        weight: TensorMap,
        y: TensorMap,
        bias: Address,
        y_data: Address,
        y_stride: i64,
        n: i32,
        first_tile: i32,
        output_mapped: i32,
        pad: [i32; 7],
    }

    struct RowsForwardSm90Params {
        x: TensorMap,
        projection: [RowsForwardSm90Projection; PROJECTIONS],
        s: Address,
        m: i32,
        k: i32,
        projections: i32,
        accumulate: i32,
        schedule: ScheduleParams,
        rows: RowAdapterParams,
        pad: [i32; 6],
    }

    struct MergeAdapter {
        lora_a: AdapterMatrix,
        lora_b: AdapterMatrix,
    }

    struct MergeParams {
        weight: Address,
        merged: Address,
        partial: Address,
        totals: Address,
        weight_stride: i64,
        merged_stride: i64,
        rows: i32,
        columns: i32,
        adapters: i32,
        adapter_f32: i32,
        weight_transposed: i32,
        partials: i32,
        writing: i32,
        pad: i32,
        adapter: [MergeAdapter; PROJECTIONS],
    }

    struct MergeTotals {
        delta_squares: f64,
        error_squares: f64,
        elements: u64,
        nonzero: u64,
        unchanged: u64,
        non_finite: u64,
    }
}

// The counts of one block and of all blocks, which a report shows, are one struct on the device.
const _: () = assert!(size_of::<MergeTotals>() == MergeReport::BYTES);

// What every driver that has tensor maps takes: CUDA 12.0 allows 4 KB of parameters, later ones
// more.
const _: () = assert!(size_of::<ForwardSm90Params>() <= 4096);
const _: () = assert!(size_of::<GradXSm90Params>() <= 4096);
const _: () = assert!(size_of::<RowsForwardSm90Params>() <= 4096);
