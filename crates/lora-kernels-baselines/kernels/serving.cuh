// The adapters of a batch whose tokens go through different ones, as servers compute them beside
// the product with the weight: y += scale * x A_d^T B_d^T. A is (adapters, rank, k), B is
// (adapters, n, rank), and S (m, rank) is f32.
#pragma once
#include "tile.cuh"

namespace peers {

inline constexpr int kServingThreads = 128;

__device__ __forceinline__ void copy_or_zero(uint32_t to, const bf16* from, bool inside) {
    ptx::cp_async_16(to, from, inside ? 16 : 0);
}

__device__ __forceinline__ float dot_eight(const bf16* a, const bf16* b) {
    const uint4 bits[2] = {*reinterpret_cast<const uint4*>(a), *reinterpret_cast<const uint4*>(b)};
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
        sum += __bfloat162float(reinterpret_cast<const bf16*>(&bits[0])[i]) *
               __bfloat162float(reinterpret_cast<const bf16*>(&bits[1])[i]);
    }
    return sum;
}

// Punica's BGMV (arXiv 2310.18547), shrink: a block for each rank and token. Tiles of 1024 columns
// of a row of A and of x go through two stages of shared memory.
__device__ __forceinline__ void bgmv_shrink(const bf16* x, const bf16* lora_a, const int* slots,
                                            float* s, int k, int rank, float scale) {
    constexpr int kTile = kServingThreads * kChunk;
    __shared__ alignas(16) bf16 a_tile[2][kTile];
    __shared__ alignas(16) bf16 x_tile[2][kTile];
    __shared__ float of_warp[kServingThreads / 32];
    const int token = blockIdx.x / rank;
    const int row = blockIdx.x % rank;
    const int slot = slots[token];
    if (slot < 0) {
        return;
    }
    const bf16* const from_a = lora_a + (static_cast<int64_t>(slot) * rank + row) * k;
    const bf16* const from_x = x + static_cast<int64_t>(token) * k;
    const int mine = threadIdx.x * kChunk;
    auto load = [&](int tile) {
        const int column = tile * kTile + mine;
        const bool inside = column < k;
        const int64_t at = inside ? column : 0;
        copy_or_zero(ptx::shared_address(&a_tile[tile % 2][mine]), from_a + at, inside);
        copy_or_zero(ptx::shared_address(&x_tile[tile % 2][mine]), from_x + at, inside);
    };
    const int tiles = (k + kTile - 1) / kTile;
    load(0);
    ptx::cp_async_commit();
    float sum = 0.0f;
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) {
            load(tile + 1);
        }
        ptx::cp_async_commit();
        ptx::cp_async_wait<1>();
        __syncthreads();
        float part = scale * dot_eight(&a_tile[tile % 2][mine], &x_tile[tile % 2][mine]);
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
            part += __shfl_down_sync(0xFFFFFFFFu, part, distance);
        }
        if (threadIdx.x % 32 == 0) {
            of_warp[threadIdx.x / 32] = part;
        }
        __syncthreads();
#pragma unroll
        for (float value : of_warp) {
            sum += value;
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        s[static_cast<int64_t>(token) * rank + row] += sum;
    }
}

// The same, expand: Rank / 8 threads for each element of y, which is read and written.
template <int Rank>
__device__ __forceinline__ void bgmv_expand(const float* s, const bf16* lora_b, const int* slots,
                                            bf16* y, int n) {
    constexpr int kThreadsPerRow = Rank / kChunk;
    static_assert(kThreadsPerRow <= 32, "a warp has whole rows");
    constexpr int kRows = kServingThreads / kThreadsPerRow;
    const int tiles = (n + kRows - 1) / kRows;
    const int token = blockIdx.x / tiles;
    const int slot = slots[token];
    if (slot < 0) {
        return;
    }
    const int row = blockIdx.x % tiles * kRows + threadIdx.x / kThreadsPerRow;
    const int column = threadIdx.x % kThreadsPerRow * kChunk;
    float sum = 0.0f;
    if (row < n) {
        const auto* const from =
            reinterpret_cast<const float4*>(s + static_cast<int64_t>(token) * Rank + column);
        const float4 first = from[0], second = from[1];
        const float x[kChunk] = {first.x,  first.y,  first.z,  first.w,
                                 second.x, second.y, second.z, second.w};
        const uint4 bits = *reinterpret_cast<const uint4*>(
            lora_b + (static_cast<int64_t>(slot) * n + row) * Rank + column);
        const auto* const b = reinterpret_cast<const bf16*>(&bits);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
            sum += x[i] * __bfloat162float(b[i]);
        }
    }
#pragma unroll
    for (int distance = kThreadsPerRow / 2; distance > 0; distance /= 2) {
        sum += __shfl_down_sync(0xFFFFFFFFu, sum, distance, kThreadsPerRow);
    }
    if (row < n && column == 0) {
        bf16& to = y[static_cast<int64_t>(token) * n + row];
        to = __float2bfloat16_rn(__bfloat162float(to) + sum);
    }
}

// vLLM's shrink in Triton, tiles 32x16x256 and 64 splits of the depth: the tokens of an adapter are
// gathered, and S, zero before, is added to atomically. Splits beyond K add zeros, as there. Rows
// beyond the adapter's tokens load its first ones again.
__device__ __forceinline__ void vllm_shrink(const bf16* x, const bf16* lora_a, const int* order,
                                            const int* starts, float* s, int m, int k, int rank,
                                            float scale) {
    constexpr int kM = 32, kN = 16, kK = 256, kSplits = 64;
    using XTile = Tile<kM, kK>;
    using ATile = Tile<kN, kK>;
    __shared__ alignas(128) uint8_t shared[XTile::kBytes + ATile::kBytes];
    const int m_tiles = (m + kM - 1) / kM;
    const int n_tiles = (rank + kN - 1) / kN;
    int block = blockIdx.x;
    const int split = block % kSplits;
    block /= kSplits;
    const int row0 = block % m_tiles * kM;
    block /= m_tiles;
    const int column0 = block % n_tiles * kN;
    const int adapter = block / n_tiles;
    const int tokens = starts[adapter + 1] - starts[adapter] - row0;
    if (tokens <= 0) {
        return;
    }
    const int* const mine = order + starts[adapter] + row0;
    const int valid = min(tokens, kM);
    const XTile x_tile{ptx::shared_address(shared)};
    const ATile a_tile{x_tile.address + XTile::kBytes};
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    // Each warp has 16 rows and 8 columns.
    float acc[4] = {};
    for (int depth0 = split * kK; depth0 - split * kK < k; depth0 += kK * kSplits) {
        for (int i = threadIdx.x; i < kM * XTile::kChunksPerRow; i += kServingThreads) {
            const int row = i / XTile::kChunksPerRow, chunk = i % XTile::kChunksPerRow;
            const int column = depth0 + chunk * kChunk;
            const bool inside = column < k;
            copy_or_zero(x_tile.chunk_address(0, row, chunk),
                         x + static_cast<int64_t>(mine[row % valid]) * k + (inside ? column : 0),
                         inside);
        }
        for (int i = threadIdx.x; i < kN * ATile::kChunksPerRow; i += kServingThreads) {
            const int row = i / ATile::kChunksPerRow, chunk = i % ATile::kChunksPerRow;
            const int column = depth0 + chunk * kChunk;
            const bool inside = column < k;
            copy_or_zero(a_tile.chunk_address(0, row, chunk),
                         lora_a +
                             (static_cast<int64_t>(adapter) * rank + (column0 + row) % rank) * k +
                             (inside ? column : 0),
                         inside);
        }
        ptx::cp_async_commit();
        ptx::cp_async_wait<0>();
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < kK; depth += kDepthStep) {
            uint32_t a[4], b[4];
            load_a_fragment<Major::kK>(a, x_tile, warp / 2 * 16, depth);
            load_b_fragment<Major::kK>(b, a_tile, depth, 0);
            ptx::mma_m16n8k16<bf16>(acc, a, warp % 2 == 0 ? b[0] : b[2],
                                    warp % 2 == 0 ? b[1] : b[3]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = warp / 2 * 16 + lane / 4 + i / 2 * 8;
        const int column = column0 + warp % 2 * 8 + lane % 4 * 2 + i % 2;
        if (row < valid && column < rank) {
            atomicAdd(s + static_cast<int64_t>(mine[row]) * rank + column, scale * acc[i]);
        }
    }
}

// vLLM's expand in Triton, tiles 64x128x32: S is rounded, and y is read and written.
__device__ __forceinline__ void vllm_expand(const float* s, const bf16* lora_b, const int* order,
                                            const int* starts, bf16* y, int m, int n, int rank) {
    constexpr int kM = 64, kN = 128, kK = 32;
    using STile = Tile<kM, kK>;
    using BTile = Tile<kN, kK>;
    using YTile = Tile<kM, kN>;
    __shared__ alignas(128) uint8_t shared[YTile::kBytes];
    static_assert(STile::kBytes + BTile::kBytes <= YTile::kBytes, "y takes their place");
    const int m_tiles = (m + kM - 1) / kM;
    const int n_tiles = n / kN;
    int block = blockIdx.x;
    const int row0 = block % m_tiles * kM;
    block /= m_tiles;
    const int column0 = block % n_tiles * kN;
    const int adapter = block / n_tiles;
    const int tokens = starts[adapter + 1] - starts[adapter] - row0;
    if (tokens <= 0) {
        return;
    }
    const int* const mine = order + starts[adapter] + row0;
    const int valid = min(tokens, kM);
    const STile s_tile{ptx::shared_address(shared)};
    const BTile b_tile{s_tile.address + STile::kBytes};
    const YTile y_tile{s_tile.address};
    const int warp = threadIdx.x / 32;
    // Each warp has 32 rows and 64 columns.
    Accumulator<32, 64> acc;
    acc.clear();
    for (int depth0 = 0; depth0 < rank; depth0 += kK) {
        for (int i = threadIdx.x; i < kN * BTile::kChunksPerRow; i += kServingThreads) {
            const int row = i / BTile::kChunksPerRow, chunk = i % BTile::kChunksPerRow;
            const int column = depth0 + chunk * kChunk;
            const bool inside = column < rank;
            copy_or_zero(b_tile.chunk_address(0, row, chunk),
                         lora_b + (static_cast<int64_t>(adapter) * n + column0 + row) * rank +
                             (inside ? column : 0),
                         inside);
        }
        ptx::cp_async_commit();
        for (int i = threadIdx.x; i < kM * STile::kChunksPerRow; i += kServingThreads) {
            const int row = i / STile::kChunksPerRow, chunk = i % STile::kChunksPerRow;
            const int column = depth0 + chunk * kChunk;
            __nv_bfloat162 pairs[4] = {};
            if (column < rank) {
                const auto* const from = reinterpret_cast<const float4*>(
                    s + static_cast<int64_t>(mine[row % valid]) * rank + column);
                const float4 first = from[0], second = from[1];
                pairs[0] = __floats2bfloat162_rn(first.x, first.y);
                pairs[1] = __floats2bfloat162_rn(first.z, first.w);
                pairs[2] = __floats2bfloat162_rn(second.x, second.y);
                pairs[3] = __floats2bfloat162_rn(second.z, second.w);
            }
            *reinterpret_cast<uint4*>(shared +
                                      (s_tile.chunk_address(0, row, chunk) - s_tile.address)) =
                *reinterpret_cast<const uint4*>(pairs);
        }
        ptx::cp_async_wait<0>();
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < kK; depth += kDepthStep) {
            warp_mma<Major::kK, Major::kK>(acc, s_tile, warp / 2 * 32, b_tile, warp % 2 * 64,
                                           depth);
        }
        __syncthreads();
    }
    acc.for_each_pair([&](int row, int column, float first, float second) {
        row += warp / 2 * 32;
        column += warp % 2 * 64;
        const uint32_t at = y_tile.chunk_address(0, row, column / kChunk) - y_tile.address;
        *reinterpret_cast<__nv_bfloat162*>(shared + at + column % kChunk * 2) =
            __floats2bfloat162_rn(first, second);
    });
    __syncthreads();
    for (int i = threadIdx.x; i < valid * YTile::kChunksPerRow; i += kServingThreads) {
        const int row = i / YTile::kChunksPerRow, chunk = i % YTile::kChunksPerRow;
        const uint32_t at = y_tile.chunk_address(0, row, chunk) - y_tile.address;
        const uint4 added = *reinterpret_cast<const uint4*>(shared + at);
        auto* const to = reinterpret_cast<uint4*>(y + static_cast<int64_t>(mine[row]) * n +
                                                  column0 + chunk * kChunk);
        uint4 value = *to;
        auto* const sums = reinterpret_cast<bf16*>(&value);
#pragma unroll
        for (int e = 0; e < kChunk; ++e) {
            sums[e] = __hadd(sums[e], reinterpret_cast<const bf16*>(&added)[e]);
        }
        *to = value;
    }
}

}  // namespace peers
