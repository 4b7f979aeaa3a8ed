// LoRAFusion's fused kernels (arXiv 2510.00206). The low-rank product is accumulated before the
// main loop. One pass over dy computes the gradients of B and S with atomic additions.
#pragma once
#include "gemm.cuh"

namespace peers {

// y (m, n) = x W^T + S (alpha B)^T, where alpha B is rounded to bf16.
template <typename G>
__device__ __forceinline__ void lorafusion_forward(const bf16* x, const bf16* weight, const bf16* s,
                                                   const bf16* lora_b, bf16* y, int m, int n, int k,
                                                   int rank, float alpha) {
    const auto at = G::position(blockIdx.x, m, n);
    typename G::Acc acc;
    acc.clear();
    G::template accumulate<true>(acc, G::dense(s, lora_b, m, n, rank), at, rank,
                                 [&](uint32_t(&fragment)[4]) {
#pragma unroll
        for (uint32_t& bits : fragment) {
            auto& pair = reinterpret_cast<__nv_bfloat162&>(bits);
            const float2 value = __bfloat1622float2(pair);
            pair = __floats2bfloat162_rn(alpha * value.x, alpha * value.y);
        }
    });
    G::template accumulate<false>(acc, G::dense(x, weight, m, n, k), at, k);
    G::template store<false>(acc, y, n, at, 1.0f);
}

// acc = where(mask, acc * keep_scale, 0). The mask (m, n) has a byte per element; the warp's part
// is staged in shared memory.
template <typename G>
__device__ __forceinline__ void apply_mask(typename G::Acc& acc, const uint8_t* mask, int n,
                                           typename G::Position at, float keep_scale) {
    constexpr int kChunksPerRow = G::kWarpN / 16;  // of 16 bytes
    using Place = Swizzle<kChunksPerRow>;
    auto* const tile =
        reinterpret_cast<uint8_t*>(G::shared_memory()) + G::warp() * G::kWarpM * G::kWarpN;
    const uint8_t* const from =
        mask + static_cast<int64_t>(at.row0 + G::warp_row()) * n + at.column0 + G::warp_column();
#pragma unroll
    for (int index = threadIdx.x % 32; index < G::kWarpM * kChunksPerRow; index += 32) {
        const int row = index / kChunksPerRow;
        const int chunk = index % kChunksPerRow;
        ptx::cp_async_16(ptx::shared_address(tile + 16 * Place::chunk(row, chunk)),
                         from + static_cast<int64_t>(row) * n + 16 * chunk, 16);
    }
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncwarp();
    acc.for_each_pair([&](int row, int column, float& first, float& second) {
        const uchar2 keep = *reinterpret_cast<const uchar2*>(
            tile + 16 * Place::chunk(row, column / 16) + column % 16);
        first = keep.x != 0 ? first * keep_scale : 0.0f;
        second = keep.y != 0 ? second * keep_scale : 0.0f;
    });
    __syncthreads();
}

// dx (m, k) = dy W + mask o (dS A) / (1 - p). A null mask means no dropout.
template <typename G>
__device__ __forceinline__ void lorafusion_grad_x(const bf16* dy, const bf16* weight,
                                                  const bf16* ds, const bf16* lora_a,
                                                  const uint8_t* mask, bf16* dx, int m, int n,
                                                  int k, int rank, float keep_scale) {
    const auto at = G::position(blockIdx.x, m, k);
    typename G::Acc acc;
    acc.clear();
    G::template accumulate<true>(acc, G::dense(ds, lora_a, m, k, rank), at, rank);
    if (mask != nullptr) {
        apply_mask<G>(acc, mask, k, at, keep_scale);
    }
    G::template accumulate<false>(acc, G::dense(dy, weight, m, k, n), at, n);
    G::template store<false>(acc, dx, k, at, 1.0f);
}

// dB (n, rank) += alpha dy^T S and dS (m, rank) += alpha dy B, both f32 and atomic, with one block
// per 128x128 tile of dy.
template <int Rank>
struct LoraFusionGradB {
    static constexpr int kBlock = 128;
    static constexpr int kWarps = kBlock / 16;  // 16 rows of dS and 16 rows of dB each
    static constexpr int kThreads = 32 * kWarps;

    using DyTile = Tile<kBlock, kBlock>;  // (rows of dy, columns of dy)
    using RankTile = Tile<kBlock, Rank>;
    using Acc = Accumulator<16, Rank>;
    // Used only for its raster.
    using G = Gemm<kBlock, kBlock, 64, 4, 2, 2, Major::kK, Major::kK>;

    static constexpr int kSharedBytes = DyTile::kBytes + 2 * RankTile::kBytes;

    __device__ __forceinline__ static void run(const bf16* dy, const bf16* lora_b, const bf16* s,
                                               float* d_lora_b, float* ds, int m, int n,
                                               float alpha) {
        const auto at = G::position(blockIdx.x, m, n);
        const DyTile dy_tile{ptx::shared_address(G::shared_memory())};
        const RankTile b_tile{dy_tile.address + DyTile::kBytes};   // (columns of dy, rank)
        const RankTile s_tile{b_tile.address + RankTile::kBytes};  // (rows of dy, rank)
        load(dy_tile, dy + static_cast<int64_t>(at.row0) * n + at.column0, n);
        load(b_tile, lora_b + static_cast<int64_t>(at.column0) * Rank, Rank);
        load(s_tile, s + static_cast<int64_t>(at.row0) * Rank, Rank);
        ptx::cp_async_commit();
        ptx::cp_async_wait<0>();
        __syncthreads();

        const int mine = threadIdx.x / 32 * 16;
        Acc acc;
        acc.clear();
#pragma unroll 2
        for (int depth = 0; depth < kBlock; depth += kDepthStep) {
            warp_mma<Major::kMn, Major::kMn>(acc, dy_tile, mine, s_tile, 0, depth);
        }
        add_to(d_lora_b + static_cast<int64_t>(at.column0 + mine) * Rank, acc, alpha);
        acc.clear();
#pragma unroll 2
        for (int depth = 0; depth < kBlock; depth += kDepthStep) {
            warp_mma<Major::kK, Major::kMn>(acc, dy_tile, mine, b_tile, 0, depth);
        }
        add_to(ds + static_cast<int64_t>(at.row0 + mine) * Rank, acc, alpha);
    }

   private:
    template <typename To>
    __device__ __forceinline__ static void load(To tile, const bf16* from, int64_t stride) {
        Source<kThreads, To>(from, stride, 0).template load<false>(tile, To::kRows, To::kColumns);
    }

    __device__ __forceinline__ static void add_to(float* out, Acc& acc, float alpha) {
        acc.for_each_pair([&](int row, int column, float first, float second) {
            atomicAdd(out + row * Rank + column, alpha * first);
            atomicAdd(out + row * Rank + column + 1, alpha * second);
        });
    }
};

}  // namespace peers
