// What the launches of a backward are told whose rows go through adapters of a table, or that
// computes the adapters' part alone. All three take the same. Shapes: x and dx (m, k); of
// projection i W (n, k) or, transposed, (k, n), and dy (m, n); S and T (m, s_stride) as
// common/rows.cuh says.
#pragma once
#include "common/mask_origin.cuh"
#include "common/rows.cuh"

// Where the gradients of one projection's part of an adapter go. Null where nobody wants them.
struct RowGradients {
    void* lora_a;  // (rank, k)
    void* lora_b;  // (n, rank)
    int64_t a_stride, b_stride;
};

struct RowsGradProjection {
    const void* dy;
    const void* weight;
    int64_t dy_stride, weight_stride;
    int32_t n;
    int32_t dy_vectorised;  // dy may be read 16 bytes at a time
};

struct RowsGradParams {
    const void* x;
    const void* s;                  // (m, s_stride)
    void* t;                        // (m, s_stride)
    const uint64_t* mask;           // null where it is drawn again
    void* dx;                       // null where nobody wants it
    int32_t* adapters;              // how many the batch has, then their slots, ascending
    uint32_t* counters;             // zeroed for the product
    const RowGradients* gradients;  // (slots, projections); null: `one` is slot 0
    int64_t x_stride, dx_stride;
    int32_t m, k, projections;
    int32_t base;          // whether dx has dy * W
    int32_t gradient_f32;  // else of the tensors' type
    int32_t accumulate_a;  // added to what is there
    int32_t accumulate_b;
    int32_t accumulate_dx;
    int32_t weight_transposed;  // W is (k, n); only the kernels of any alignment read it
    int32_t x_vectorised;       // x may be read 16 bytes at a time
    int32_t dx_vectorised;      // dx may be written 16 bytes at a time
    int32_t counter_count;
    int32_t rank_tiles;  // of the projection with the most ranks
    MaskSource mask_source;
    DropoutParams dropout;
    ScheduleParams schedule;
    RowAdapterParams rows;
    RowGradients one[kMaxProjections];
    RowsGradProjection projection[kMaxProjections];
    MaskOrigin origin;
};
