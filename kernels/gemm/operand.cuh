// An operand of a GEMM in global memory, of either layout.
#pragma once
#include "common/tile.cuh"

template <typename T>
struct Operand {
    const T* data;
    int64_t stride;
    int mn, k;     // extents: rows or columns of the output, and depth
    bool k_major;  // else MN-major

    __device__ __forceinline__ const T* at(int o, int d) const {
        return data + (k_major ? o * stride + d : d * stride + o);
    }
    __device__ __forceinline__ Source<T> source() const {
        return k_major ? Source<T>{data, stride, mn, k} : Source<T>{data, stride, k, mn};
    }
};

// Brings an operand of any alignment, element by element, into a K-major tile (mn, k).
template <int Threads, typename T, int Rows, int Columns>
__device__ __forceinline__ void gather_tile(Tile<T, Rows, Columns> tile, const Operand<T>& operand,
                                            int mn0, int k0) {
    for_each_chunk<Threads>(tile, [&](int row, int chunk) {
        const int k = k0 + chunk * kChunk<T>;
        alignas(16) T values[kChunk<T>];
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
            const bool inside = mn0 + row < operand.mn && k + i < operand.k;
            values[i] = inside ? *operand.at(mn0 + row, k + i) : from_float<T>(0.0f);
        }
        *reinterpret_cast<uint4*>(tile.chunk(row, chunk)) = *reinterpret_cast<const uint4*>(values);
    });
}
