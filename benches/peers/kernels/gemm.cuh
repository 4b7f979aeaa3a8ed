// A tile product from global memory, as the peers' libraries have it: cp.async through a ring of stages, mma.sync, blocks in groups of eight
// rows of tiles, an epilogue whose global accesses are whole lines. Every size is a multiple of its tile, except for short depths.
#pragma once
#include "tile.cuh"

namespace peers {

// C (m, n) = A (m, depth) * B (depth, n), all dense. A is stored (m, depth), Major::kDepth, or (depth, m), Major::kOuter; B (n, depth) or
// (depth, n).
template <int BlockM, int BlockN, int BlockK, int WarpsM, int WarpsN, int Stages, Major AMajor, Major BMajor>
struct Gemm {
    static constexpr int kThreads = 32 * WarpsM * WarpsN;
    static constexpr int kWarpM = BlockM / WarpsM;
    static constexpr int kWarpN = BlockN / WarpsN;

    using Acc = Accumulator<kWarpM, kWarpN>;
    using ATile = std::conditional_t<AMajor == Major::kDepth, Tile<BlockM, BlockK>, Tile<BlockK, BlockM>>;
    using BTile = std::conditional_t<BMajor == Major::kDepth, Tile<BlockN, BlockK>, Tile<BlockK, BlockN>>;
    using OutTile = Tile<kWarpM, kWarpN>;  // of one warp

    struct Position {
        int row0, column0;
    };
    struct Operands {
        const bf16* a;
        const bf16* b;
        int64_t a_stride, b_stride;  // elements from row to row as stored
    };

    __device__ __forceinline__ static int warp() { return threadIdx.x / 32; }
    __device__ __forceinline__ static int warp_row() { return warp() % WarpsM * kWarpM; }
    __device__ __forceinline__ static int warp_column() { return warp() / WarpsM * kWarpN; }
    __device__ __forceinline__ static bf16* shared_memory() {
        extern __shared__ uint4 shared[];
        return reinterpret_cast<bf16*>(shared);
    }

    __device__ __forceinline__ static Position position(int block, int m, int n) {
        constexpr int kGroupM = 8;
        const int tiles_m = m / BlockM;
        const int tiles_n = n / BlockN;
        const int first = block / (kGroupM * tiles_n) * kGroupM;
        const int height = min(kGroupM, tiles_m - first);
        const int inner = block % (kGroupM * tiles_n);
        return {(first + inner % height) * BlockM, inner / height * BlockN};
    }

    // acc += A * f(B). With `Short`, depth is any multiple of 16, else one of BlockK. Leaves shared memory free.
    template <bool Short, typename F = Unchanged>
    __device__ __forceinline__ static void accumulate(Acc& acc, const Operands& from, Position at, int depth,
                                                      F&& f = F{}) {
        const auto a_tile = [](int stage) {
            return ATile{shared_memory() + stage * (ATile::kElements + BTile::kElements)};
        };
        const auto b_tile = [&](int stage) { return BTile{a_tile(stage).data + ATile::kElements}; };
        const auto load = [&](int step, int stage) {
            const int k0 = step * BlockK;
            if constexpr (AMajor == Major::kDepth) {
                load_tile<kThreads, Short>(a_tile(stage), from.a + at.row0 * from.a_stride + k0, from.a_stride, BlockM,
                                           depth - k0);
            } else {
                load_tile<kThreads, Short>(a_tile(stage), from.a + k0 * from.a_stride + at.row0, from.a_stride,
                                           depth - k0, BlockM);
            }
            if constexpr (BMajor == Major::kDepth) {
                load_tile<kThreads, Short>(b_tile(stage), from.b + at.column0 * from.b_stride + k0, from.b_stride,
                                           BlockN, depth - k0);
            } else {
                load_tile<kThreads, Short>(b_tile(stage), from.b + k0 * from.b_stride + at.column0, from.b_stride,
                                           depth - k0, BlockN);
            }
        };

        const int steps = (depth + BlockK - 1) / BlockK;
#pragma unroll
        for (int step = 0; step < Stages - 1; ++step) {
            if (step < steps) {
                load(step, step);
            }
            ptx::cp_async_commit();
        }
        int read = 0, write = Stages - 1;
        for (int step = 0; step < steps; ++step) {
            ptx::cp_async_wait<Stages - 2>();
            __syncthreads();
            if (step + Stages - 1 < steps) {
                load(step + Stages - 1, write);
            }
            ptx::cp_async_commit();
#pragma unroll
            for (int k = 0; k < BlockK; k += kDepthStep) {
                if (Short && step * BlockK + k >= depth) {
                    break;
                }
                warp_mma<AMajor, BMajor>(acc, a_tile(read), warp_row(), b_tile(read), warp_column(), k, f);
            }
            read = read + 1 == Stages ? 0 : read + 1;
            write = write + 1 == Stages ? 0 : write + 1;
        }
        ptx::cp_async_wait<0>();
        __syncthreads();
    }

    // C = alpha * acc, or alpha * acc + C with `Add`, rounded once. C (m, n) is read and written in whole 16-byte chunks of each row.
    template <bool Add>
    __device__ __forceinline__ static void store(Acc& acc, bf16* c, int n, Position at, float alpha) {
        const OutTile tile{shared_memory() + warp() * OutTile::kElements};
        bf16* const corner = c + static_cast<int64_t>(at.row0 + warp_row()) * n + at.column0 + warp_column();
        const auto for_each_chunk = [&](auto&& f) {
#pragma unroll
            for (int index = threadIdx.x % 32; index < kWarpM * OutTile::kChunksPerRow; index += 32) {
                const int row = index / OutTile::kChunksPerRow;
                const int chunk = index % OutTile::kChunksPerRow;
                f(row, chunk, corner + static_cast<int64_t>(row) * n + chunk * kChunk);
            }
        };
        if constexpr (Add) {
            for_each_chunk(
                [&](int row, int chunk, bf16* from) { ptx::cp_async_16(tile.chunk_address(row, chunk), from, 16); });
            ptx::cp_async_commit();
            ptx::cp_async_wait<0>();
            __syncwarp();
        }
        acc.for_each_pair([&](int row, int column, float first, float second) {
            auto* const pair = reinterpret_cast<__nv_bfloat162*>(tile.chunk(row, column / kChunk) + column % kChunk);
            float2 value = make_float2(alpha * first, alpha * second);
            if constexpr (Add) {
                const float2 old = __bfloat1622float2(*pair);
                value = make_float2(fmaf(alpha, first, old.x), fmaf(alpha, second, old.y));
            }
            *pair = __float22bfloat162_rn(value);
        });
        __syncwarp();
        for_each_chunk([&](int row, int chunk, bf16* to) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(tile.chunk(row, chunk));
        });
    }

    // Rows as stored are as long as the index that is contiguous.
    __device__ __forceinline__ static Operands dense(const bf16* a, const bf16* b, int m, int n, int depth) {
        return {a, b, AMajor == Major::kDepth ? depth : m, BMajor == Major::kDepth ? depth : n};
    }

    static constexpr int kRingBytes = Stages * (ATile::kElements + BTile::kElements) * 2;
    static constexpr int kOutBytes = BlockM * BlockN * 2;
    static constexpr int kSharedBytes = kRingBytes > kOutBytes ? kRingBytes : kOutBytes;
};

// C = alpha * A * B, or += with `Add`. The names of the instances say which operand is transposed as stored: N for (m, depth) and (depth, n).
template <typename G, bool Short, bool Add>
__device__ __forceinline__ void matmul(const bf16* a, const bf16* b, bf16* c, int m, int n, int depth, float alpha) {
    const auto at = G::position(blockIdx.x, m, n);
    typename G::Acc acc;
    acc.clear();
    G::template accumulate<Short>(acc, G::dense(a, b, m, n, depth), at, depth);
    G::template store<Add>(acc, c, n, at, alpha);
}

}  // namespace peers
