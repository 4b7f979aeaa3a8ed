// Dropout by element: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), indexed by (row, column / 8),
// so that any tiling draws the same mask. One call gives eight columns 16 random bits each.
#pragma once
#include "params.cuh"
#include "tile.cuh"

namespace dropout {

inline constexpr int kGroup = 8;  // columns per Philox call, and per mask byte

__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t low0 = 0xD2511F53u * counter.x, high0 = __umulhi(0xD2511F53u, counter.x);
        const uint32_t low1 = 0xCD9E8D57u * counter.z, high1 = __umulhi(0xCD9E8D57u, counter.z);
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// Bit i is set where column 8 * group + i of `row` is kept.
__device__ __forceinline__ uint32_t keep_bits(const DropoutParams& dropout, uint32_t row, uint32_t group) {
    const uint4 random = philox4x32_10(
        make_uint4(group, row, static_cast<uint32_t>(dropout.offset), static_cast<uint32_t>(dropout.offset >> 32)),
        make_uint2(static_cast<uint32_t>(dropout.seed), static_cast<uint32_t>(dropout.seed >> 32)));
    const uint32_t words[4] = {random.x, random.y, random.z, random.w};
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
        const uint32_t lane = i % 2 == 0 ? words[i / 2] & 0xFFFFu : words[i / 2] >> 16;
        bits |= (lane >= dropout.threshold ? 1u : 0u) << i;
    }
    return bits;
}

// Zeroes what `bits_of(row, group)` drops of each group of eight columns of the tile.
template <int Threads, typename T, int Rows, int Columns, typename F>
__device__ __forceinline__ void apply(Tile<T, Rows, Columns> tile, F&& bits_of) {
    constexpr int kGroupsPerRow = Columns / kGroup;
    for (int index = threadIdx.x; index < Rows * kGroupsPerRow; index += Threads) {
        const int row = index / kGroupsPerRow;
        const int group = index % kGroupsPerRow;
        const uint32_t bits = bits_of(row, group);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            if ((bits >> i & 1u) == 0) {
                *tile.at(row, group * kGroup + i) = from_float<T>(0.0f);
            }
        }
    }
}

}  // namespace dropout
