// What both launches of a forward are told whose rows go through adapters of a table, or that
// computes the adapters' part alone, or batch-invariant results of many rows. Shapes: x (m, k); of
// projection i W (n, k) or, transposed, (k, n), bias (n) and y (m, n); S (m, s_stride) as
// common/rows.cuh says.
#pragma once
#include "common/mask_origin.cuh"
#include "common/rows.cuh"

struct RowsForwardProjection {
    const void* weight;
    const void* bias;  // null without
    void* y;
    int64_t weight_stride, y_stride;
    int32_t n;
    int32_t first_tile;         // of this projection among the tile columns of all
    int32_t output_vectorised;  // y may be written 16 bytes at a time
    int32_t pad;
};

struct RowsForwardParams {
    const void* x;
    void* s;         // (m, s_stride)
    uint64_t* mask;  // null where it is not kept
    int64_t x_stride;
    int32_t m, k, projections;
    int32_t base;  // whether y has x * W^T
    int32_t accumulate;
    int32_t weight_transposed;  // W is (k, n); only the kernels of any alignment read it
    int32_t x_vectorised;       // x may be read 16 bytes at a time
    int32_t rank_tiles;         // of the projection with the most ranks
    MaskSource mask_source;     // kDrawn with dropout, else kNone
    int32_t pad;
    DropoutParams dropout;
    MaskOrigin origin;
    ScheduleParams schedule;
    RowAdapterParams rows;
    RowsForwardProjection projection[kMaxProjections];
};
