// The order in which persistent blocks take the tiles of a product.
#pragma once
#include "common/params.cuh"

// What a block does in one of its turns: a tile of the output, or of `splits` parts of its depth
// one.
struct Place {
    int tile;  // its index, whatever the split
    int split;
    int projection;
    int row0, column0;  // of the projection's output
    bool reversed;  // walks the depth backwards, and so begins with what the turn before left in L2
};

// All turns of all blocks, below 2^31.
__device__ __forceinline__ uint32_t turns(const ScheduleParams& schedule) {
    return static_cast<uint32_t>(schedule.tiles_m) * schedule.tiles_n * schedule.splits;
}

// Tile columns come in bands of `group_n`; within a band tiles go along the columns first, then to
// the next row. A wave of blocks then covers a part of the output whose operands are about as wide
// as high, in bytes. `column` is the tile's column among those of all projections; the caller makes
// it one of a projection's.
template <int BlockM>
__device__ __forceinline__ Place place_of(const ScheduleParams& schedule, uint32_t item,
                                          uint32_t blocks, int& column) {
    const int tile = static_cast<int>(item / schedule.splits);
    const int split = static_cast<int>(item % schedule.splits);
    const int band_tiles = schedule.group_n * schedule.tiles_m;
    const int first = tile / band_tiles * schedule.group_n;
    const int width = min(schedule.group_n, schedule.tiles_n - first);
    const int inner = tile % band_tiles;
    column = first + inner % width;
    return {tile, split, 0, inner / width * BlockM, 0, (item / blocks & 1) != 0};
}
