// Dropout by element: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011), indexed by (row, column / 8), so that any tiling draws the same mask. One call gives
// eight columns 16 random bits each.
#pragma once
#include "common/params.cuh"
#include "ptx/prmt.cuh"

namespace dropout {

inline constexpr int kBlock = 64;  // columns per word of the mask

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
__device__ __forceinline__ uint32_t keep_bits(const DropoutParams& dropout, uint32_t row,
                                              uint32_t group) {
    const uint4 random = philox4x32_10(
        make_uint4(group, row, static_cast<uint32_t>(dropout.offset),
                   static_cast<uint32_t>(dropout.offset >> 32)),
        make_uint2(static_cast<uint32_t>(dropout.seed), static_cast<uint32_t>(dropout.seed >> 32)));
    const uint32_t words[4] = {random.x, random.y, random.z, random.w};
    // Both halves of a word are compared in the upper 16 bits: the high half with the low one still
    // below it, the low half shifted up.
    const uint32_t threshold = dropout.threshold << 16;
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        bits |= words[i] << 16 >= threshold ? 1u << 2 * i : 0u;
        bits |= words[i] >= threshold ? 2u << 2 * i : 0u;
    }
    return bits;
}

// 64 columns of two rows
struct KeepBits {
    uint64_t upper, lower;
};

// The bits of block `block` that are columns of a matrix with `columns` of them.
__device__ __forceinline__ uint64_t inside(int columns, int block) {
    const int valid = columns - kBlock * block;
    return valid >= kBlock ? ~uint64_t{0} : (uint64_t{1} << valid) - 1;
}

// A mask that keeps or zeroes two 16-bit elements in one register. The highest bit of byte `index`
// of `low` decides about the low element, that of `high` about the high one. Shifting a word of the
// mask left by 7 - i brings bit i of all its bytes there.
__device__ __forceinline__ uint32_t pair_mask(uint32_t low, uint32_t high, int index) {
    return ptx::prmt(low, high, 0xCC88 + 0x1111 * index);
}

}  // namespace dropout
