// What a launch is told: one struct per kernel, passed by value. src/raw/params.rs mirrors each field for field, and the
// kernel `lora_contract` lets a test compare sizes and offsets.
//
// Shapes: x (m, k), W (n, k), lora_A (r, k), lora_B (n, r), y and dy (m, n), S and T (m, r_pad). Strides are row strides in elements;
// columns are contiguous. r_pad is r rounded up to 16; the columns of S and T from r on hold zeros.
#pragma once
#include <cstdint>

// Which elements of x the adapter sees. `threshold` 0 keeps all.
struct DropoutParams {
    uint64_t seed;
    uint64_t offset;
    uint32_t threshold;  // an element is dropped where its 16 random bits are below
    float keep_scale;    // 1 / (1 - p), p = threshold / 65536
};

// S = scaling * drop(x) * A^T
struct ShrinkParams {
    const void* x;
    const void* lora_a;
    void* s;
    uint8_t* mask;  // (m, mask_row_bytes), null without dropout
    int64_t x_stride;
    int64_t lora_a_stride;
    int64_t mask_row_bytes;
    int32_t m, k, r, r_pad;
    float scaling;
    int32_t lora_vectorised;  // lora_a may be read 16 bytes at a time
    DropoutParams dropout;
};

// y = x * W^T + bias + S * B^T
struct ForwardParams {
    const void* x;
    const void* weight;
    const void* bias;  // (n), null without
    const void* s;
    const void* lora_b;
    void* y;
    int64_t x_stride;
    int64_t weight_stride;
    int64_t lora_b_stride;
    int64_t y_stride;
    int32_t m, n, k, r, r_pad;
    int32_t lora_vectorised;  // lora_b may be read 16 bytes at a time
    int32_t out_paired;       // y may be written two elements at a time
    int32_t pad;
};

// T partials = scaling * dy * B, and dB partials = dy^T * S: one pass over dy
struct GradBParams {
    const void* dy;
    const void* lora_b;
    const void* s;
    float* t_partial;       // (column groups, m, r_pad)
    float* lora_b_partial;  // (m splits, n, r_pad)
    int64_t dy_stride;
    int64_t lora_b_stride;
    int32_t m, n, r, r_pad;
    int32_t rows_per_split;
    int32_t column_groups;
    int32_t m_splits;
    float scaling;
    int32_t lora_vectorised;  // lora_b may be read 16 bytes at a time
    int32_t pad;
};

// A sum over `splits` partial matrices, in the order of their index: out (rows, columns) = sum of partial (splits, rows, partial_stride)
struct ReduceParams {
    const float* partial;
    void* out;
    int64_t out_stride;
    int64_t partial_stride;
    int64_t split_stride;
    int32_t splits;
    int32_t rows, columns;
    int32_t blocks;  // how many blocks of the grid do this instead of the kernel's own work: the last ones
};

// T = sum of T partials, dA partials = T^T * drop(x); the last blocks sum dB
struct GradAParams {
    const void* x;
    const uint8_t* mask;  // (m, mask_row_bytes), null without dropout
    const float* t_partial;
    void* t;
    float* lora_a_partial;  // (m splits, r_pad, k)
    int64_t x_stride;
    int64_t mask_row_bytes;
    int32_t m, k, r, r_pad;
    int32_t t_partials;
    int32_t rows_per_split;
    int32_t column_groups;
    int32_t m_splits;
    float keep_scale;
    int32_t pad;
    ReduceParams reduce_b;
};

// dx = keep_scale * mask o (T * A) + dy * W; the last blocks sum dA
struct GradXParams {
    const void* dy;
    const void* weight;
    const void* t;
    const void* lora_a;
    const uint8_t* mask;  // (m, mask_row_bytes), null without dropout
    void* dx;
    int64_t dy_stride;
    int64_t weight_stride;
    int64_t lora_a_stride;
    int64_t dx_stride;
    int64_t mask_row_bytes;
    int32_t m, n, k, r, r_pad;
    float keep_scale;
    int32_t lora_vectorised;  // lora_a may be read 16 bytes at a time
    int32_t out_paired;       // dx may be written two elements at a time
    ReduceParams reduce_a;
};
