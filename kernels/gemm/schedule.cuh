// The order in which persistent blocks take the work items of a GEMM.
#pragma once
#include "common/params.cuh"

// A tile of the output or, where tiles are split along their depth, one k-slice of it.
struct WorkItem {
    int tile;     // index among all tiles
    int k_slice;  // which part of the depth
    int projection;
    int row0, column0;  // of the projection's output
    bool reversed;      // goes through the depth backwards, to meet what the item before left in L2
};

// Items of all blocks, below 2^31.
__device__ __forceinline__ uint32_t work_items(const ScheduleParams& schedule) {
    return static_cast<uint32_t>(schedule.tiles_m) * schedule.tiles_n * schedule.k_slices;
}

// Item `index` of a grid of `blocks`. Tile columns form bands of `group_n`. Within a band, tiles go
// along its columns first, then to the next row: a wave of blocks covers a part of the output whose
// operands are about as wide as they are high, in bytes. `tile_column` counts the tile columns of
// all projections; the caller finds the projection.
template <int BlockM>
__device__ __forceinline__ WorkItem work_item(const ScheduleParams& schedule, uint32_t index,
                                              uint32_t blocks, int& tile_column) {
    const int tile = static_cast<int>(index / schedule.k_slices);
    const int k_slice = static_cast<int>(index % schedule.k_slices);
    const int band_tiles = schedule.group_n * schedule.tiles_m;
    const int first = tile / band_tiles * schedule.group_n;
    const int width = min(schedule.group_n, schedule.tiles_n - first);
    const int inner = tile % band_tiles;
    tile_column = first + inner % width;
    return {tile, k_slice, 0, inner / width * BlockM, 0, (index / blocks & 1) != 0};
}
