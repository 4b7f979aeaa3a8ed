// Stores a 16x16 block of an accumulator to global memory. A transposition within each quad of
// lanes makes that 16 bytes per lane, and whole sectors.
#pragma once
#include "common/element.cuh"

// `out` is the block's first element. It and all rows are 16-byte aligned; rows from `rows` on are
// not written. value[j][e] is as in Accumulator.
template <typename T>
__device__ __forceinline__ void store_block(T* out, int64_t stride, int rows,
                                            const float (&value)[2][4]) {
    const int g = threadIdx.x % 32 / 4;
    const int t = threadIdx.x % 4;
    if constexpr (std::is_same_v<T, float>) {
        const bool odd = t % 2 != 0;
        const int row = g + (odd ? 8 : 0);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float first = __shfl_xor_sync(~0u, odd ? value[j][0] : value[j][2], 1);
            const float second = __shfl_xor_sync(~0u, odd ? value[j][1] : value[j][3], 1);
            if (row < rows) {
                *reinterpret_cast<float4*>(out + row * stride + 8 * j + t / 2 * 4) =
                    odd ? make_float4(first, second, value[j][2], value[j][3])
                        : make_float4(value[j][0], value[j][1], first, second);
            }
        }
    } else {
        // Lane t of a quad collects words[t] of all four lanes: row g + 8 * (t / 2), and 8 columns
        // from 8 * (t % 2) on.
        const uint32_t words[4] = {
            pack_pair<T>(value[0][0], value[0][1]), pack_pair<T>(value[1][0], value[1][1]),
            pack_pair<T>(value[0][2], value[0][3]), pack_pair<T>(value[1][2], value[1][3])};
        uint32_t pairs[2][2];  // words[t % 2] and words[t % 2 + 2] of this lane and its neighbour
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const bool odd = t % 2 != 0;
            const uint32_t other = __shfl_xor_sync(~0u, odd ? words[2 * i] : words[2 * i + 1], 1);
            pairs[i][0] = odd ? other : words[2 * i];
            pairs[i][1] = odd ? words[2 * i + 1] : other;
        }
        const bool far = t >= 2;
        const uint32_t other0 = __shfl_xor_sync(~0u, far ? pairs[0][0] : pairs[1][0], 2);
        const uint32_t other1 = __shfl_xor_sync(~0u, far ? pairs[0][1] : pairs[1][1], 2);
        const int row = g + t / 2 * 8;
        if (row < rows) {
            *reinterpret_cast<uint4*>(out + row * stride + t % 2 * kChunk<T>) =
                far ? make_uint4(other0, other1, pairs[1][0], pairs[1][1])
                    : make_uint4(pairs[0][0], pairs[0][1], other0, other1);
        }
    }
}
