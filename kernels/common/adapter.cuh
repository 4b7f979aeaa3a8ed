// Matrices of adapters, whose elements are of the tensors' type or f32: tiles, rows and quads of
// lora_A and lora_B.
#pragma once
#include "common/params.cuh"
#include "common/tile.cuh"

// As load_tile, of `matrix` (rows, columns). An f32 element is rounded once to the tensors' type.
template <int Threads, typename T, int Rows, int Columns>
__device__ __forceinline__ void load_adapter_tile(Tile<T, Rows, Columns> tile, AdapterMatrix matrix,
                                                  bool is_f32, int rows, int columns, int row0,
                                                  int column0) {
    if (!is_f32) {
        const Source<T> source{static_cast<const T*>(matrix.data), matrix.stride, rows, columns};
        load_tile<Threads>(tile, source, row0, column0, matrix.vectorised != 0);
        return;
    }
    const float* const data = static_cast<const float*>(matrix.data);
    for_each_chunk<Threads>(tile, [&](int row, int chunk) {
        const int column = column0 + chunk * kChunk<T>;
        const int valid = row0 + row < rows ? columns - column : 0;
        alignas(16) T values[kChunk<T>];
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
            values[i] =
                from_float<T>(i < valid ? data[(row0 + row) * matrix.stride + column + i] : 0.0f);
        }
        *reinterpret_cast<uint4*>(tile.chunk(row, chunk)) = *reinterpret_cast<const uint4*>(values);
    });
}

// The adapter that column `rank` of S belongs to, or the last one where it belongs to none.
__device__ __forceinline__ const AdapterMatrix& adapter_at(const AdapterMatrix* adapters, int count,
                                                           int rank) {
    int found = 0;
    for (int i = 1; i < count; ++i) {
        found = rank >= adapters[i].rank0 ? i : found;
    }
    return adapters[found];
}

// Whether the rows of an f32 matrix may be read 16 bytes at a time.
__device__ __forceinline__ bool f32_vectorised(const AdapterMatrix& matrix) {
    return ((reinterpret_cast<uintptr_t>(matrix.data) |
             static_cast<uintptr_t>(matrix.stride) * sizeof(float)) &
            15) == 0;
}

// Four neighbours of a matrix's row, to be rounded once to T later. Those from `valid` on are zero.
template <typename T>
__device__ __forceinline__ float4 load_adapter_quad(const void* row, int column, int valid,
                                                    bool f32, bool vectorised) {
    float value[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (f32) {
        const float* const from = static_cast<const float*>(row) + column;
        if (vectorised && valid >= 4) {
            return __ldg(reinterpret_cast<const float4*>(from));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            value[i] = i < valid ? __ldg(from + i) : 0.0f;
        }
    } else {
        const T* const from = static_cast<const T*>(row) + column;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            value[i] = i < valid ? to_float(__ldg(from + i)) : 0.0f;
        }
    }
    return make_float4(value[0], value[1], value[2], value[3]);
}
