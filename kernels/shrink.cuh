// S = scaling * drop(x) * A^T: one block per 64 rows of x and RankTile columns of S. Draws the dropout mask and stores it.
#pragma once
#include "dropout.cuh"
#include "pipeline.cuh"
#include "warp_mma.cuh"

template <typename T, int RankTile>
struct Shrink {
    static constexpr int kThreads = 128;
    static constexpr int kRows = 64;                                  // of x, 16 per warp
    static constexpr int kDepth = 128 / static_cast<int>(sizeof(T));  // a 128-byte line of x
    static constexpr int kStages = 3;

    using XTile = Tile<T, kRows, kDepth>;
    using ATile = Tile<T, RankTile, kDepth>;
    static constexpr int kStageElements = XTile::kElements + ATile::kElements;
    static constexpr int kSharedBytes = kStages * kStageElements * static_cast<int>(sizeof(T));

    template <bool Vectorised>
    __device__ static void run(const ShrinkParams& p) {
        extern __shared__ uint4 shared[];
        const auto x_tile = [](int stage) { return XTile{reinterpret_cast<T*>(shared) + stage * kStageElements}; };
        const auto a_tile = [&](int stage) { return ATile{x_tile(stage).data + XTile::kElements}; };

        const int row0 = blockIdx.x * kRows;
        const int rank0 = blockIdx.y * RankTile;
        const Source<T> x{static_cast<const T*>(p.x), p.x_stride, p.m, p.k};                 // (m, k)
        const Source<T> lora_a{static_cast<const T*>(p.lora_a), p.lora_a_stride, p.r, p.k};  // (r, k)

        Accumulator<16, RankTile> acc;  // (16, RankTile) of S per warp
        acc.clear();
        const int warp_row = threadIdx.x / 32 * 16;
        const auto load = [&](int step, int stage) {
            load_tile<kThreads>(x_tile(stage), x, row0, step * kDepth, Vectorised);
            load_tile<kThreads>(a_tile(stage), lora_a, rank0, step * kDepth, p.lora_vectorised != 0);
        };
        const auto compute = [&](int step, int stage, int) {
            if (p.mask != nullptr) {
                drop(p, x_tile(stage), row0, step * kDepth);
                __syncthreads();
            }
#pragma unroll
            for (int depth = 0; depth < kDepth; depth += kDepthStep) {
                warp_mma<T, Major::kDepth, Major::kDepth>(acc, x_tile(stage), warp_row, a_tile(stage), 0, depth);
            }
        };
        run_pipeline<kStages>((p.k + kDepth - 1) / kDepth, load, compute);

        const float scale = p.scaling * (p.mask != nullptr ? p.dropout.keep_scale : 1.0f);
        T* const s = static_cast<T*>(p.s);  // (m, r_pad)
        acc.for_each_pair([&](int row, int column, float first, float second) {
            row += row0 + warp_row;
            column += rank0;
            if (row < p.m && column < p.r_pad) {
                store_pair(s + static_cast<int64_t>(row) * p.r_pad + column, scale * first, scale * second);
            }
        });
    }

   private:
    // The blocks of every rank tile draw the same bits; those of the first one store them.
    __device__ static void drop(const ShrinkParams& p, XTile tile, int row0, int column0) {
        dropout::apply<kThreads>(tile, [&](int tile_row, int tile_group) {
            const int row = row0 + tile_row;
            const int group = column0 / dropout::kGroup + tile_group;
            uint32_t bits = dropout::keep_bits(p.dropout, row, group);
            const int columns = p.k - group * dropout::kGroup;
            bits &= columns >= dropout::kGroup ? 0xFFu : columns > 0 ? (1u << columns) - 1 : 0u;
            if (blockIdx.y == 0 && row < p.m && group < p.mask_row_bytes) {
                p.mask[row * p.mask_row_bytes + group] = static_cast<uint8_t>(bits);
            }
            return bits;
        });
    }
};
