// What a launch of decode is told. Shapes: x (m, k); of projection i W (n, k) and y (m, n); S (m,
// s_stride) as common/rows.cuh says. A batch with more rows than a tile has consists of parts, each
// with blocks, flags and scratch memory of its own.
#pragma once
#include "common/rows.cuh"

struct DecodeProjection {
    const void* weight;  // (n, k)
    const void* bias;    // (n), null without
    void* y;
    int64_t weight_stride, y_stride;
    int32_t n;
    int32_t first_tile;         // of this projection among the tiles of all
    int32_t output_vectorised;  // y may be written 16 bytes at a time
    int32_t pad;
};

// y = x * W^T + bias + sum over a row's adapters of factor * S * B^T, or added to y
struct DecodeParams {
    const void* x;
    void* s;           // (m, s_stride)
    float* s_partial;  // (slices, rows, s_stride) of each part
    float* partial;    // (blocks, 2, rows of x, rows of a tile) of each part: of each block its
                       // first and its last tile
    uint32_t* flags;  // tickets, groups that are ready, blocks that have left, then the arrivals at
                      // each group and at each tile, of each part; zero before and after a launch
    int64_t x_stride;
    int32_t m, k;
    int32_t projections;
    int32_t accumulate;
    int32_t tiles;       // of all projections
    int32_t steps;       // of a tile; 0 where only the adapters' part is wanted
    int32_t share;       // whether blocks may share a tile
    int32_t slices;      // of the depth of S
    int32_t groups;      // of a part of the batch, the most there can be
    int32_t blocks;      // for a part of the batch
    int32_t flag_words;  // of a part of the batch
    int32_t pad;
    RowAdapterParams rows;
    DecodeProjection projection[kMaxProjections];
};
