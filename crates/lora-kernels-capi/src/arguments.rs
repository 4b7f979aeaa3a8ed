//! The arguments of forward and backward: device addresses, scalings, dropout.

use crate::problem::LORA_MAX_PROJECTIONS;
use crate::structs::Versioned;

/// Dropout on the adapters' input: each element of x is zeroed with probability p, the others
/// divided by 1 - p. The base product sees x undropped. The mask is a function of seed, offset, row
/// and column alone (Philox4x32-10): the same on every run, device and tiling. Draw a new one by
/// changing offset, say to the training step.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_dropout {
    /// sizeof(lora_dropout)
    pub struct_size: u32,
    /// Probability in [0, 1). Rounded to a multiple of 2^-16, and 1 / (1 - p) is taken of the
    /// rounded value.
    pub p: f32,
    /// Philox key.
    pub seed: u64,
    /// High half of the Philox counter.
    pub offset: u64,
}

/// What a forward was, for lora_backward_args: a backward with other sizes, types, dropout or
/// scalings would read saved as something else than it holds.
///
/// lora_forward fills it in. It can't tell whether x, lora_A or what saved holds has changed since:
/// no call reads device memory on the host.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_forward_record {
    /// sizeof(lora_forward_record)
    pub struct_size: u32,
    /// A lora_dtype: of every tensor but the adapters' matrices and gradients.
    pub dtype: u32,
    /// A lora_dtype: of the adapters' matrices and gradients.
    pub adapter_dtype: u32,
    /// A lora_mask.
    pub mask: u32,
    /// 1: with dropout.
    pub dropout: u32,
    /// Dropout probability.
    pub p: f32,
    /// Philox key.
    pub seed: u64,
    /// High half of the Philox counter.
    pub offset: u64,
    /// Rows of x: M.
    pub tokens: usize,
    /// Columns of x: K.
    pub in_features: usize,
    /// Projections that share x.
    pub projection_count: usize,
    /// Of each projection.
    pub out_features: [usize; LORA_MAX_PROJECTIONS],
    /// Of each projection; 0 where it has no adapter.
    pub rank: [usize; LORA_MAX_PROJECTIONS],
    /// Of each projection; 0 where it has no adapter.
    pub scaling: [f32; LORA_MAX_PROJECTIONS],
    /// 1: seed is the device address of seed and offset.
    pub dropout_from_memory: u32,
    /// 0
    pub reserved: u32,
    /// First row of the mask in that of the whole layer.
    pub mask_row: u64,
    /// First column of it.
    pub mask_column: u64,
    /// Places in the list of a row; 0 without a table of adapters.
    pub adapters_per_row: usize,
}

/// One projection of lora_forward_args.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_forward_projection {
    /// sizeof(lora_forward_projection)
    pub struct_size: u32,
    /// lora_alpha / rank, or lora_alpha / sqrt(rank) for rsLoRA; of no meaning where the rank is 0.
    pub scaling: f32,
    /// (out_features, in_features), or transposed as the problem says.
    pub weight: u64,
    /// (out_features), 0 where the problem has none.
    pub bias: u64,
    /// (rank, in_features), 0 where the rank is.
    pub lora_a: u64,
    /// (out_features, rank), 0 where the rank is.
    pub lora_b: u64,
    /// Out: (tokens, out_features).
    pub y: u64,
}

/// Device addresses and numbers of a forward. Shapes, strides and alignments are those of the
/// plan's problem.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_forward_args {
    /// sizeof(lora_forward_args)
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// (tokens, in_features).
    pub x: u64,
    /// As many as the problem has.
    pub projections: *const lora_forward_projection,
    /// How many.
    pub projection_count: usize,
    /// Null exactly if the problem has no dropout.
    pub dropout: *const lora_dropout,
    /// Out: S and the dropout mask, for backward. A multiple of LORA_BUFFER_ALIGNMENT; 0 where they
    /// are in two buffers, or the plan's saved_bytes is 0.
    pub saved: u64,
    /// Bytes of saved: at least the plan's saved_bytes.
    pub saved_bytes: usize,
    /// Scratch, at a multiple of LORA_BUFFER_ALIGNMENT; may be 0 if the plan's workspace_bytes is.
    pub workspace: u64,
    /// Bytes of workspace: at least the plan's workspace_bytes.
    pub workspace_bytes: usize,
    /// Instead of saved, which is 0 then: S in a buffer of its own, at a multiple of
    /// LORA_BUFFER_ALIGNMENT.
    pub saved_s: u64,
    /// Bytes of saved_s: at least the plan's s_bytes.
    pub saved_s_bytes: usize,
    /// With saved_s, and exactly if the plan's mask_bytes isn't 0: the mask in a buffer of its own,
    /// at a multiple of LORA_BUFFER_ALIGNMENT.
    pub saved_mask: u64,
    /// Bytes of saved_mask: at least the plan's mask_bytes.
    pub saved_mask_bytes: usize,
    /// Out: what this forward was, its struct_size set. Null: not wanted.
    pub record: *mut lora_forward_record,
    /// Words that are zero before the first call that is given them; every call leaves them zero. A
    /// multiple of LORA_BUFFER_ALIGNMENT; may be 0 if the plan's flags_bytes is. Calls that may run
    /// at the same time need flags of their own.
    pub flags: u64,
    /// Bytes of flags: at least the plan's flags_bytes.
    pub flags_bytes: usize,
    /// The adapters of each row. Null exactly if the problem's adapter_slots is 0; no projection
    /// has lora_a and lora_b otherwise.
    pub rows: *const lora_rows,
}

/// The adapters that the rows of a call go through. All of it is device memory, and may change
/// between calls, and between replays of a graph.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_rows {
    /// sizeof(lora_rows)
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// The table, (adapter_slots, projections) of what lora_table_entry_of makes, rows contiguous,
    /// at a multiple of 8. Zeros are an empty slot.
    pub entries: u64,
    /// (tokens, adapters_per_row) of int32_t: the slots of each row's adapters, negative for none.
    pub slots: u64,
    /// (tokens, adapters_per_row) of float: what the deltas are multiplied by; 0 for 1 everywhere.
    pub weights: u64,
    /// 0, or a uint32_t that becomes 1 where a row names a slot that is empty or doesn't exist.
    /// Such a row has no adapter there.
    pub wrong: u64,
    /// Of a backward: where the gradients of each entry go, (adapter_slots, projections) of what
    /// lora_gradient_entry_of makes, at a multiple of 8; of a forward 0. Zeros are an entry whose
    /// gradients nobody wants.
    pub gradients: u64,
}

/// An adapter of a table in one projection.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_table_adapter {
    /// sizeof(lora_table_adapter)
    pub struct_size: u32,
    /// lora_alpha / rank, or lora_alpha / sqrt(rank) for rsLoRA.
    pub scaling: f32,
    /// From 1 to the projection's in the problem; 0: the adapter leaves the projection alone.
    pub rank: usize,
    /// (rank, in_features), a device address.
    pub lora_a: u64,
    /// (out_features, rank), a device address.
    pub lora_b: u64,
    /// Elements from a row of lora_A to the next; 0: in_features.
    pub lora_a_stride: i64,
    /// Elements from a row of lora_B to the next; 0: rank.
    pub lora_b_stride: i64,
}

/// An entry of a table, as it stands in device memory. lora_table_entry_of makes it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_table_entry {
    /// Copy them as they are.
    pub words: [u64; 6],
}

/// Where the gradients of an adapter of a table go in one projection.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_table_gradients {
    /// sizeof(lora_table_gradients)
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// The adapter's rank in the projection; 0: nobody wants gradients there.
    pub rank: usize,
    /// Out: (rank, in_features), a device address.
    pub d_lora_a: u64,
    /// Out: (out_features, rank), a device address.
    pub d_lora_b: u64,
    /// Elements from a row of d_lora_A to the next; 0: in_features.
    pub d_lora_a_stride: i64,
    /// Elements from a row of d_lora_B to the next; 0: rank.
    pub d_lora_b_stride: i64,
}

/// An entry of a table of gradients, as it stands in device memory. lora_gradient_entry_of makes
/// it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_gradient_entry {
    /// Copy them as they are.
    pub words: [u64; 4],
}

// SAFETY: repr(C), two integers of 4 bytes, integers of 8.
unsafe impl Versioned for lora_table_gradients {
    const NAME: &'static str = "lora_table_gradients";
    const SIZES: &[u32] = &[48];
}

// SAFETY: repr(C), two integers of 4 bytes, integers of 8.
unsafe impl Versioned for lora_rows {
    const NAME: &'static str = "lora_rows";
    const SIZES: &[u32] = &[40, 48];
}

// SAFETY: repr(C), two numbers of 4 bytes, integers of 8.
unsafe impl Versioned for lora_table_adapter {
    const NAME: &'static str = "lora_table_adapter";
    const SIZES: &[u32] = &[48];
}

/// One projection of lora_backward_args.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_backward_projection {
    /// sizeof(lora_backward_projection)
    pub struct_size: u32,
    /// As in forward.
    pub scaling: f32,
    /// (tokens, out_features).
    pub dy: u64,
    /// (out_features, in_features), or transposed as the problem says.
    pub weight: u64,
    /// (rank, in_features), 0 where the rank is.
    pub lora_a: u64,
    /// (out_features, rank), 0 where the rank is.
    pub lora_b: u64,
    /// Out: (rank, in_features), 0 where the rank is.
    pub d_lora_a: u64,
    /// Out: (out_features, rank), 0 where the rank is.
    pub d_lora_b: u64,
}

/// Device addresses and numbers of a backward. Shapes, strides and alignments are those of the
/// plan's problem.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_backward_args {
    /// sizeof(lora_backward_args)
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// (tokens, in_features).
    pub x: u64,
    /// As many as the problem has.
    pub projections: *const lora_backward_projection,
    /// How many.
    pub projection_count: usize,
    /// As in forward.
    pub dropout: *const lora_dropout,
    /// What the forward of the same problem and inputs saved.
    pub saved: u64,
    /// Bytes of saved: at least the plan's saved_bytes.
    pub saved_bytes: usize,
    /// Out: (tokens, in_features), 0 where the problem has no input gradient.
    pub dx: u64,
    /// Scratch, at a multiple of LORA_BUFFER_ALIGNMENT; may be 0 if the plan's workspace_bytes is.
    pub workspace: u64,
    /// Bytes of workspace: at least the plan's workspace_bytes.
    pub workspace_bytes: usize,
    /// Instead of saved, which is 0 then: S in a buffer of its own, at a multiple of
    /// LORA_BUFFER_ALIGNMENT.
    pub saved_s: u64,
    /// Bytes of saved_s: at least the plan's s_bytes.
    pub saved_s_bytes: usize,
    /// With saved_s, and exactly if the plan's mask_bytes isn't 0: the mask in a buffer of its own,
    /// at a multiple of LORA_BUFFER_ALIGNMENT.
    pub saved_mask: u64,
    /// Bytes of saved_mask: at least the plan's mask_bytes.
    pub saved_mask_bytes: usize,
    /// What forward filled in: a backward that doesn't fit it is refused. Null: nobody checks.
    pub record: *const lora_forward_record,
    /// The adapters of each row, as in forward, and where their gradients go. Null exactly if the
    /// problem's adapter_slots is 0; no projection has adapters or gradients otherwise.
    pub rows: *const lora_rows,
}

// SAFETY: repr(C), an integer and a float of 4 bytes, integers of 8.
unsafe impl Versioned for lora_dropout {
    const NAME: &'static str = "lora_dropout";
    const SIZES: &[u32] = &[24];
}

// SAFETY: as lora_dropout.
unsafe impl Versioned for lora_forward_projection {
    const NAME: &'static str = "lora_forward_projection";
    const SIZES: &[u32] = &[48];
}

// SAFETY: as lora_dropout.
unsafe impl Versioned for lora_backward_projection {
    const NAME: &'static str = "lora_backward_projection";
    const SIZES: &[u32] = &[56];
}

// SAFETY: repr(C), two integers of 4 bytes, integers and pointers of 8.
unsafe impl Versioned for lora_forward_args {
    const NAME: &'static str = "lora_forward_args";
    const SIZES: &[u32] = &[112, 136];
}

// SAFETY: as lora_forward_args.
unsafe impl Versioned for lora_backward_args {
    const NAME: &'static str = "lora_backward_args";
    const SIZES: &[u32] = &[120, 128];
}

// SAFETY: repr(C), eight numbers of 4 bytes, integers of 8, an even number of floats.
unsafe impl Versioned for lora_forward_record {
    const NAME: &'static str = "lora_forward_record";
    const SIZES: &[u32] = &[224, 256];
}
