// What a launch is told: one struct per kernel, passed by value. The host repeats them field for
// field in Rust, and the kernel `lora_layout_check` lets a test compare sizes and offsets.
//
// A call computes one or more projections of the same x, each with its own weight and, where r > 0,
// its own adapter. Shapes: x and dx (m, k); of projection i: W (n, k) or, transposed, (k, n);
// lora_A (r, k), lora_B (n, r), y and dy (m, n). S and T hold the adapted projections side by side,
// (m, ranks). Columns rank0 .. rank0 + r_pad are projection i's, r_pad being r rounded up to 16.
// They are zero from rank0 + r on. Strides are row strides in elements; columns are contiguous.
//
// The dropout mask has a 64-bit word for 64 columns of a row. Words of the same columns lie one
// below the other: mask (ceil(k / 64), m). Bit c of word (b, row) is set where x (row, 64 * b + c)
// is kept; bits beyond k are zero.
#pragma once
#include <cstdint>

inline constexpr int kMaxProjections = 8;

// Which elements of x the adapter sees. `threshold` 0 keeps all.
struct DropoutParams {
    uint64_t seed;
    uint64_t offset;
    uint32_t threshold;  // an element is dropped where its 16 random bits are below
    float keep_scale;    // 1 / (1 - p), p = threshold / 65536
};

// Where the bits come from: there is no dropout, the mask in memory, or Philox once more.
enum class MaskSource : int32_t { kNone, kStored, kDrawn };

// A matrix of an adapter, lora_A (r, k) or lora_B (n, r). Its elements are of the tensors' type, or
// f32 where `adapter_f32` is set.
struct AdapterMatrix {
    const void* data;
    int64_t stride;
    int32_t rank0, r;    // the adapter's first column of S and T, and its rank; 0 without adapter
    int32_t vectorised;  // of the tensors' type, and may be read 16 bytes at a time
    float scaling;       // the adapter's
};

// A 16-bit copy of an adapter's matrix that a tensor map can describe: `to_stride` is `columns`
// rounded up to 8, and the elements between are zero.
struct PackJob {
    const void* from;
    void* to;
    int64_t from_stride, to_stride;
    int32_t rows, columns;
    int32_t first_block;  // among the blocks that pack
    int32_t pad;
};

// What the last `blocks` blocks of a grid do instead of the kernel's own work, for the launch that
// follows
struct PackParams {
    int32_t blocks;
    int32_t jobs;
    int32_t from_f32;  // else of the tensors' type
    int32_t pad;
    PackJob job[kMaxProjections];
};

// S = drop(x) * A^T. Zeroes `counters` for the launch that follows.
struct ShrinkParams {
    const void* x;
    void* s;         // (m, ranks)
    uint64_t* mask;  // null where it is not kept
    uint32_t* counters;
    int64_t x_stride;
    int32_t m, k, ranks;
    int32_t adapters;
    int32_t adapter_f32;
    MaskSource mask_source;  // kDrawn with dropout, else kNone
    int32_t counter_count;
    int32_t pad;
    DropoutParams dropout;
    AdapterMatrix lora_a[kMaxProjections];  // only the adapted projections
    PackParams pack_b;
};

// How the persistent blocks of a product go through the tiles of its output.
struct ScheduleParams {
    int32_t tiles_m, tiles_n;
    int32_t group_n;    // tile columns of a band: tiles go along them first, then to the next row
    int32_t k_slices;   // parts of a tile's depth, each done by another block
    float* partial;     // (tiles, k-slices, elements of a tile), where there are several
    uint32_t* arrived;  // (tiles), zero at first, where there are several
};

struct ForwardProjection {
    const void* weight;
    const void* bias;  // (n), null without
    void* y;
    int64_t weight_stride;
    int64_t y_stride;
    int32_t n;
    int32_t first_tile;         // of this projection among the tile columns of all
    int32_t output_vectorised;  // y may be written 16 bytes at a time
    int32_t pad;
    AdapterMatrix lora_b;
};

// y = x * W^T + bias + scaling * S * B^T, or added to y
struct ForwardParams {
    const void* x;
    const void* s;  // (m, ranks)
    int64_t x_stride;
    int32_t m, k, ranks;
    int32_t projections;
    int32_t adapter_f32;
    int32_t accumulate;
    int32_t weight_transposed;  // W is (k, n); only the kernels of any alignment read it
    int32_t pad;
    ScheduleParams schedule;
    ForwardProjection projection[kMaxProjections];
};

// A CUtensorMap: a matrix, and the box of it that one bulk copy takes. It is zero where no copy may
// use it.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

struct ForwardSm90Projection {
    TensorMap weight;  // (n, k) or (k, n)
    TensorMap lora_b;  // (n, r), where there is an adapter
    TensorMap y;       // (m, n), where output_mapped is set
    const void* bias;  // (n), null without
    void* y_data;
    int64_t y_stride;
    int32_t n;
    int32_t first_tile;  // of this projection among the tile columns of all
    int32_t rank0, r;    // the adapter's first column of S, and its rank; 0 without adapter
    float scaling;       // the adapter's; 1 without
    // 1 / scaling; 0 where the product of S and lora_B has to come first, since the other order
    // could round or overflow
    float inverse_scaling;
    int32_t output_mapped;
    int32_t pad[3];
};

// ForwardParams for TMA
struct ForwardSm90Params {
    TensorMap x;  // (m, k)
    TensorMap s;  // (m, ranks), where there is an adapter
    int32_t m, k;
    int32_t projections;
    int32_t accumulate;
    ScheduleParams schedule;
    int32_t pad[4];
    ForwardSm90Projection projection[kMaxProjections];
};

struct GradBProjection {
    const void* dy;
    float* t_partial;       // (column groups, m, r_pad)
    float* lora_b_partial;  // (m splits, n, r_pad); columns from r on have no defined value
    int64_t dy_stride;
    int32_t n;
    int32_t column_groups;
    int32_t rows_per_split;
    int32_t m_splits;
    int32_t first_block;  // of the grid
    int32_t pad;
    AdapterMatrix lora_b;
};

// T partials = scaling * dy * B, and dB partials = scaling * dy^T * S: one pass over every dy.
// Zeroes `counters` for the launches that follow.
struct GradBParams {
    const void* s;  // (m, ranks)
    uint32_t* counters;
    int32_t m, ranks;
    int32_t projections;  // only adapted ones are listed
    int32_t adapter_f32;
    int32_t counter_count;
    int32_t pad;
    GradBProjection projection[kMaxProjections];
    PackParams pack_a;
};

// A sum over `splits` partial matrices, in the order of their index: out (rows, columns) = sum of
// partial (splits, rows, partial_stride)
struct ReduceJob {
    const float* partial;
    void* out;
    int64_t out_stride;
    int64_t partial_stride;
    int64_t split_stride;
    int32_t splits;
    int32_t rows, columns;
    int32_t first_block;  // among the blocks that reduce
};

// What the last `blocks` blocks of a grid do instead of the kernel's own work
struct ReduceParams {
    int32_t blocks;
    int32_t jobs;
    int32_t out_f32;  // else of the tensors' type
    int32_t accumulate;
    ReduceJob job[kMaxProjections];
};

// Where T of an adapted projection comes from
struct TSource {
    const float* partial;  // (partials, m, r_pad)
    int32_t partials;
    int32_t rank0, r_pad;
    int32_t pad;
};

// T = sum of T partials, dA partials = T^T * drop(x) / (1 - p); the last blocks sum dB
struct GradAParams {
    const void* x;
    const uint64_t* mask;   // null where it is drawn again
    void* t;                // (m, ranks)
    float* lora_a_partial;  // (m splits, ranks, k); rows from r on have no defined value
    int64_t x_stride;
    int32_t m, k, ranks;
    int32_t adapters;
    int32_t rows_per_split;
    int32_t column_groups;
    int32_t m_splits;
    MaskSource mask_source;
    DropoutParams dropout;
    TSource t_source[kMaxProjections];
    ReduceParams reduce_b;
};

struct GradXProjection {
    const void* dy;
    const void* weight;
    int64_t dy_stride;
    int64_t weight_stride;
    int32_t n;
    int32_t pad;
    AdapterMatrix lora_a;
};

// dx = sum over projections of dy * W + keep_scale * mask o (T * A), or added to dx; the last
// blocks sum dA
struct GradXParams {
    const void* t;         // (m, ranks)
    const uint64_t* mask;  // null where it is drawn again
    void* dx;
    int64_t dx_stride;
    int32_t m, k, ranks;
    int32_t projections;
    int32_t adapter_f32;
    int32_t accumulate;
    int32_t weight_transposed;  // W is (k, n); only the kernels of any alignment read it
    int32_t output_vectorised;  // dx may be written 16 bytes at a time
    MaskSource mask_source;
    int32_t pad;
    DropoutParams dropout;
    ScheduleParams schedule;
    GradXProjection projection[kMaxProjections];
    ReduceParams reduce_a;
};

// The maps of a projection; its sizes stand apart so that all parameters fit in 4 KB, more than
// which drivers and compilers before CUDA 12.1 can't take.
struct GradXSm90Projection {
    TensorMap dy;      // (m, n)
    TensorMap weight;  // (n, k) or (k, n)
    TensorMap lora_a;  // (r, k), where there is an adapter
};

struct ProjectionSize {
    int32_t n;
    int32_t rank0, r;  // the adapter's first column of T, and its rank; 0 without adapter
};

// GradXParams for TMA
struct GradXSm90Params {
    TensorMap t;   // (m, ranks)
    TensorMap dx;  // (m, k), where output_mapped is set
    GradXSm90Projection projection[kMaxProjections];
    ProjectionSize size[kMaxProjections];  // of `projection`
    const uint64_t* mask;                  // null where it is drawn again
    void* dx_data;
    int64_t dx_stride;
    int32_t m, k, ranks;
    int32_t projections;
    int32_t accumulate;
    int32_t output_mapped;
    MaskSource mask_source;
    int32_t pad;
    DropoutParams dropout;
    ScheduleParams schedule;
    ReduceParams reduce_a;
    int32_t pad_end[8];
};

// What merging changes and what storing the result loses, of a block's elements or of all
struct MergeTotals {
    double delta_squares;  // sum of delta^2; this and the next over elements that stay finite
    double error_squares;  // sum of (what the stored weight changed by - delta)^2
    uint64_t elements;
    uint64_t nonzero;     // elements whose delta is not 0
    uint64_t unchanged;   // those of them whose stored weight is the old one
    uint64_t non_finite;  // elements whose merged value is a NaN or an infinity
};

// When merged weights are written: not yet, at once, or only if the totals count no value that is
// not finite.
enum class MergeWrite : int32_t { kNever, kAlways, kIfFinite };

// Both matrices of one adapter.
struct MergeAdapter {
    AdapterMatrix lora_a;
    AdapterMatrix lora_b;
};

// merged = weight + sum over adapters of scaling * lora_B * lora_A, or its transpose. `merged` may
// be `weight`.
struct MergeParams {
    const void* weight;
    void* merged;
    MergeTotals* partial;  // (blocks), null where nothing is counted
    MergeTotals* totals;   // null where nothing is counted
    int64_t weight_stride;
    int64_t merged_stride;
    int32_t rows, columns;  // of the weight as it is stored
    int32_t adapters;
    int32_t adapter_f32;
    int32_t weight_transposed;  // W is (k, n)
    int32_t partials;
    MergeWrite writing;
    int32_t pad;
    MergeAdapter adapter[kMaxProjections];
};
