// Tiles of lora_A and lora_B, whose elements are of the tensors' type or f32.
#pragma once
#include "common/tile.cuh"

// One adapter's matrix (rows, columns) in global memory.
struct AdapterSource {
    const void* data;
    int64_t stride;
    int rows, columns;
    bool is_f32;
    bool vectorised;  // of the tensors' type, and may be read 16 bytes at a time
};

// As load_tile. An f32 element is rounded once to the tensors' type.
template <int Threads, typename T, int Rows, int Columns>
__device__ __forceinline__ void load_adapter_tile(Tile<T, Rows, Columns> tile,
                                                  const AdapterSource& source, int row0,
                                                  int column0) {
    if (!source.is_f32) {
        const Source<T> matrix{static_cast<const T*>(source.data), source.stride, source.rows,
                               source.columns};
        load_tile<Threads>(tile, matrix, row0, column0, source.vectorised);
        return;
    }
    const float* const data = static_cast<const float*>(source.data);
    for_each_chunk<Threads>(tile, [&](int row, int chunk) {
        const int column = column0 + chunk * kChunk<T>;
        const int valid = row0 + row < source.rows ? source.columns - column : 0;
        alignas(16) T values[kChunk<T>];
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
            values[i] =
                from_float<T>(i < valid ? data[(row0 + row) * source.stride + column + i] : 0.0f);
        }
        *reinterpret_cast<uint4*>(tile.chunk(row, chunk)) = *reinterpret_cast<const uint4*>(values);
    });
}
