// A tile product from global memory, as in the peers' libraries: cp.async through a ring of stages,
// mma.sync, blocks in groups of eight tile rows, and an epilogue that accesses whole lines of
// global memory. Every size is a multiple of its tile, except for short depths.
#pragma once
#include <type_traits>

#include "tile.cuh"

namespace peers {

// C (m, n) = A (m, k) * B (k, n), all dense. A K-major A is stored (m, k), an MN-major one (k, m).
// A K-major B is stored (n, k), an MN-major one (k, n).
template <int BlockM, int BlockN, int BlockK, int WarpsM, int WarpsN, int Stages, Major AMajor,
          Major BMajor>
struct Gemm {
    static constexpr int kThreads = 32 * WarpsM * WarpsN;
    static constexpr int kWarpM = BlockM / WarpsM;
    static constexpr int kWarpN = BlockN / WarpsN;

    static constexpr int kOutChunks = kWarpN / kChunk;  // in a row of a warp's output

    using Acc = Accumulator<kWarpM, kWarpN>;
    using ATile =
        std::conditional_t<AMajor == Major::kK, Tile<BlockM, BlockK>, Tile<BlockK, BlockM>>;
    using BTile =
        std::conditional_t<BMajor == Major::kK, Tile<BlockN, BlockK>, Tile<BlockK, BlockN>>;

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

    // The tiles of an operand along K, from row or column `outer` on.
    template <Major Layout, typename To>
    __device__ __forceinline__ static Source<kThreads, To> source(const bf16* from, int64_t stride,
                                                                  int outer) {
        return Layout == Major::kK ? Source<kThreads, To>(from + outer * stride, stride, BlockK)
                                   : Source<kThreads, To>(from + outer, stride, BlockK * stride);
    }

    // acc += A * f(B). K is a multiple of 16 if `Short` is set, else of BlockK. Shared memory is
    // free afterwards.
    template <bool Short, typename F = Unchanged>
    __device__ __forceinline__ static void accumulate(Acc& acc, const Operands& from, Position at,
                                                      int depth, F&& f = F{}) {
        const auto a_tile = [](int stage) {
            return ATile{ptx::shared_address(shared_memory()) +
                         stage * (ATile::kBytes + BTile::kBytes)};
        };
        const auto b_tile = [&](int stage) { return BTile{a_tile(stage).address + ATile::kBytes}; };
        auto a = source<AMajor, ATile>(from.a, from.a_stride, at.row0);
        auto b = source<BMajor, BTile>(from.b, from.b_stride, at.column0);
        const auto load = [&](int step, int stage) {
            const int left = depth - step * BlockK;
            a.template load<Short>(a_tile(stage), AMajor == Major::kK ? BlockM : left,
                                   AMajor == Major::kK ? left : BlockM);
            b.template load<Short>(b_tile(stage), BMajor == Major::kK ? BlockN : left,
                                   BMajor == Major::kK ? left : BlockN);
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
                warp_mma<AMajor, BMajor>(acc, a_tile(read), warp_row(), b_tile(read), warp_column(),
                                         k, f);
            }
            read = read + 1 == Stages ? 0 : read + 1;
            write = write + 1 == Stages ? 0 : write + 1;
        }
        ptx::cp_async_wait<0>();
        __syncthreads();
    }

    // C = alpha * acc, or alpha * acc + C if `Add` is set, rounded once. C (m, n) is read and
    // written in whole 16-byte chunks of each row.
    template <bool Add>
    __device__ __forceinline__ static void store(Acc& acc, bf16* c, int n, Position at,
                                                 float alpha) {
        bf16* const tile = shared_memory() + warp() * kWarpM * kWarpN;  // of this warp
        bf16* const corner =
            c + static_cast<int64_t>(at.row0 + warp_row()) * n + at.column0 + warp_column();
        const auto place = [&](int row, int column) {
            return tile + Swizzle<kOutChunks>::chunk(row, column / kChunk) * kChunk +
                   column % kChunk;
        };
        const auto for_each_chunk = [&](auto&& f) {
#pragma unroll
            for (int index = threadIdx.x % 32; index < kWarpM * kOutChunks; index += 32) {
                const int row = index / kOutChunks;
                const int chunk = index % kOutChunks;
                f(row, chunk, corner + static_cast<int64_t>(row) * n + chunk * kChunk);
            }
        };
        if constexpr (Add) {
            for_each_chunk([&](int row, int chunk, bf16* from) {
                ptx::cp_async_16(ptx::shared_address(place(row, chunk * kChunk)), from, 16);
            });
            ptx::cp_async_commit();
            ptx::cp_async_wait<0>();
            __syncwarp();
        }
        acc.for_each_pair([&](int row, int column, float first, float second) {
            auto* const pair = reinterpret_cast<__nv_bfloat162*>(place(row, column));
            float2 value = make_float2(alpha * first, alpha * second);
            if constexpr (Add) {
                const float2 old = __bfloat1622float2(*pair);
                value = make_float2(fmaf(alpha, first, old.x), fmaf(alpha, second, old.y));
            }
            *pair = __float22bfloat162_rn(value);
        });
        __syncwarp();
        for_each_chunk([&](int row, int chunk, bf16* to) {
            *reinterpret_cast<uint4*>(to) =
                *reinterpret_cast<const uint4*>(place(row, chunk * kChunk));
        });
    }

    // The row stride of a dense operand is the size of its contiguous dimension.
    __device__ __forceinline__ static Operands dense(const bf16* a, const bf16* b, int m, int n,
                                                     int depth) {
        return {a, b, AMajor == Major::kK ? depth : m, BMajor == Major::kK ? depth : n};
    }

    static constexpr int kRingBytes = Stages * (ATile::kBytes + BTile::kBytes);
    static constexpr int kOutBytes = BlockM * BlockN * 2;
    static constexpr int kSharedBytes = kRingBytes > kOutBytes ? kRingBytes : kOutBytes;
};

// C = alpha * A * B, or C += alpha * A * B if `Add` is set. The names of the instances say how
// operands are stored: N for (m, k) and (k, n), T for their transposes.
template <typename G, bool Short, bool Add>
__device__ __forceinline__ void matmul(const bf16* a, const bf16* b, bf16* c, int m, int n,
                                       int depth, float alpha) {
    const auto at = G::position(blockIdx.x, m, n);
    typename G::Acc acc;
    acc.clear();
    G::template accumulate<Short>(acc, G::dense(a, b, m, n, depth), at, depth);
    G::template store<Add>(acc, c, n, at, alpha);
}

}  // namespace peers
