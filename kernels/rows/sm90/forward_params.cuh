// What forward_rows is told on Hopper. Shapes: x (m, k); of projection i W (n, k) or, transposed,
// (k, n), and y (m, n); S (m, s_stride) as common/rows.cuh says.
#pragma once
#include "common/rows.cuh"

struct RowsForwardSm90Projection {
    TensorMap weight;  // (n, k) or (k, n)
    TensorMap y;       // (m, n), where output_mapped is set
    const void* bias;  // (n), null without
    void* y_data;
    int64_t y_stride;
    int32_t n;
    int32_t first_tile;  // of this projection among the tile columns of all
    int32_t output_mapped;
    int32_t pad[7];
};

// y = x * W^T + bias + sum over a row's adapters of factor * S * B^T, or added to y
struct RowsForwardSm90Params {
    TensorMap x;  // (m, k)
    RowsForwardSm90Projection projection[kMaxProjections];
    const void* s;  // (m, s_stride)
    int32_t m, k;
    int32_t projections;
    int32_t accumulate;
    ScheduleParams schedule;
    RowAdapterParams rows;
    int32_t pad[6];
};
