// Where in the mask of a whole layer a call begins, and where the mask's seed comes from. It stands
// apart from params.cuh because only the kernels that draw need it.
#pragma once
#include "common/dropout.cuh"
#include "common/params.cuh"

// A shard draws the bits that the unsharded layer draws for its rows and columns. A mask in memory
// is indexed by the shard's own rows and columns. Philox gives eight columns at a time, so a shard
// begins at a multiple of eight.
struct MaskOrigin {
    const uint64_t* words;  // {seed, offset} in device memory; null: those of DropoutParams
    uint32_t row0;          // the shard's first row
    uint32_t group0;        // its first column / 8
};

struct DrawnShrinkParams : ShrinkParams {
    MaskOrigin origin;
};

struct DrawnGradAParams : GradAParams {
    MaskOrigin origin;
};

struct DrawnGradXParams : GradXParams {
    MaskOrigin origin;
};

struct DrawnGradXSm90Params : GradXSm90Params {
    MaskOrigin origin;
    int32_t origin_pad[12];
};

namespace dropout {

// The dropout with its seed and offset from memory where they are there. The lanes of a quad read a
// part each: in wide kernels a branch instead makes ptxas spill. All 32 lanes must call it.
__device__ __forceinline__ DropoutParams seeded(const DropoutParams& by_value,
                                                const MaskOrigin& origin) {
    const uint32_t* const words =
        reinterpret_cast<const uint32_t*>(origin.words != nullptr ? origin.words : &by_value.seed);
    const uint32_t own = words[threadIdx.x % 4];
    const auto pair = [&](int first) {
        return __shfl_sync(~0u, own, first) |
               static_cast<uint64_t>(__shfl_sync(~0u, own, first + 1)) << 32;
    };
    DropoutParams dropout = by_value;
    dropout.seed = pair(0);
    dropout.offset = pair(2);
    return dropout;
}

// Keep bits of 64 columns of two rows of the shard, drawn by the quads of a warp together: lane l
// receives those of rows row0 + l / 4 and that + 8, columns 64 * block and on; each lane of a quad
// draws a quarter. All 32 lanes must call it. The words are read at every call: a kernel that draws
// has no registers to keep them in, and they stay in the L1 cache.
__device__ __forceinline__ KeepBits draw(const DropoutParams& by_value, const MaskOrigin& origin,
                                         int row0, int block) {
    DropoutParams dropout = by_value;
    if (origin.words != nullptr) {
        dropout.seed = __ldg(origin.words);
        dropout.offset = __ldg(origin.words + 1);
    }
    const int lane = threadIdx.x % 32;
    const uint32_t row = origin.row0 + row0 + lane / 4;
    const uint32_t group = origin.group0 + 8 * block + 2 * (lane % 4);
    // This lane's 16 columns, the upper row's in the low half
    const uint32_t own = keep_bits(dropout, row, group) | keep_bits(dropout, row, group + 1) << 8 |
                         keep_bits(dropout, row + 8, group) << 16 |
                         keep_bits(dropout, row + 8, group + 1) << 24;
    const uint32_t other = __shfl_xor_sync(~0u, own, 1);
    const uint32_t first = lane % 2 == 0 ? own : other, second = lane % 2 == 0 ? other : own;
    const uint32_t upper = ptx::prmt(first, second, 0x5410),
                   lower = ptx::prmt(first, second, 0x7632);
    const uint32_t far_upper = __shfl_xor_sync(~0u, upper, 2),
                   far_lower = __shfl_xor_sync(~0u, lower, 2);
    const auto join = [&](uint32_t near, uint32_t far) {
        return lane % 4 < 2 ? static_cast<uint64_t>(far) << 32 | near
                            : static_cast<uint64_t>(near) << 32 | far;
    };
    return {join(upper, far_upper), join(lower, far_lower)};
}

}  // namespace dropout
