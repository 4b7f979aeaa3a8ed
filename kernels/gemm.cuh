// The tile product that forward and grad_x share: acc (BlockM, BlockN) += A (m, depth) * B (depth, n), operands in global memory.
// A is (m, depth) row-major. B is stored (n, depth), Major::kDepth, or (depth, n), Major::kOuter.
#pragma once
#include "pipeline.cuh"
#include "warp_mma.cuh"

template <typename T, int BlockM, int BlockN, int BlockK, int WarpM, int WarpN, int Stages>
struct Gemm {
    static constexpr int kBlockM = BlockM;
    static constexpr int kBlockN = BlockN;
    static constexpr int kWarpsM = BlockM / WarpM;
    static constexpr int kWarpsN = BlockN / WarpN;
    static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
    static constexpr int kStageElements = (BlockM + BlockN) * BlockK;
    static constexpr int kSharedBytes = Stages * kStageElements * static_cast<int>(sizeof(T));

    using Acc = Accumulator<WarpM, WarpN>;
    using ATile = Tile<T, BlockM, BlockK>;
    template <Major BMajor>
    using BTile = std::conditional_t<BMajor == Major::kDepth, Tile<T, BlockN, BlockK>, Tile<T, BlockK, BlockN>>;

    // First row and column of this warp in the block's tile.
    __device__ __forceinline__ static int warp_row() { return threadIdx.x / 32 % kWarpsM * WarpM; }
    __device__ __forceinline__ static int warp_column() { return threadIdx.x / 32 / kWarpsM * WarpN; }

    struct Position {
        int row0, column0;
    };

    // Blocks go down groups of 8 row tiles before they step to the next column tile: a wave then shares both operands in L2.
    __device__ __forceinline__ static Position position(int block, int m, int n) {
        constexpr int kGroup = 8;
        const int tiles_m = (m + BlockM - 1) / BlockM;
        const int tiles_n = (n + BlockN - 1) / BlockN;
        const int first = block / (kGroup * tiles_n) * kGroup;
        const int height = min(kGroup, tiles_m - first);
        const int inner = block % (kGroup * tiles_n);
        return {(first + inner % height) * BlockM, inner / height * BlockN};
    }

    // Depth is a whole number of BlockK in the main loop; the low-rank step, with `Ragged`, stops at the last k16 step that holds anything.
    template <Major BMajor, bool Ragged>
    __device__ __forceinline__ static void accumulate(Acc& acc, const Source<T>& a, const Source<T>& b, Position at,
                                                      int depth, bool a_vectorised, bool b_vectorised) {
        extern __shared__ uint4 shared[];
        const auto a_tile = [](int stage) { return ATile{reinterpret_cast<T*>(shared) + stage * kStageElements}; };
        const auto b_tile = [&](int stage) { return BTile<BMajor>{a_tile(stage).data + ATile::kElements}; };
        const auto load = [&](int step, int stage) {
            const int k0 = step * BlockK;
            load_tile<kThreads>(a_tile(stage), a, at.row0, k0, a_vectorised);
            if constexpr (BMajor == Major::kDepth) {
                load_tile<kThreads>(b_tile(stage), b, at.column0, k0, b_vectorised);
            } else {
                load_tile<kThreads>(b_tile(stage), b, k0, at.column0, b_vectorised);
            }
        };
        const auto compute = [&](int step, int stage, int) {
#pragma unroll
            for (int k = 0; k < BlockK; k += kDepthStep) {
                if (Ragged && step * BlockK + k >= depth) {
                    break;
                }
                warp_mma<T, Major::kDepth, BMajor>(acc, a_tile(stage), warp_row(), b_tile(stage), warp_column(), k);
            }
        };
        run_pipeline<Stages>((depth + BlockK - 1) / BlockK, load, compute);
    }

    // out (m, n) = transform(row, column, acc), rounded once. `paired`: two neighbours may be written in one access.
    template <typename F>
    __device__ __forceinline__ static void store(Acc& acc, T* out, int64_t stride, Position at, int m, int n,
                                                 bool paired, F&& transform) {
        acc.for_each_pair([&](int row, int column, float first, float second) {
            row += at.row0 + warp_row();
            column += at.column0 + warp_column();
            if (row >= m || column >= n) {
                return;
            }
            T* const to = out + row * stride + column;
            if (column + 1 == n) {
                to[0] = from_float<T>(transform(column, first));
            } else if (paired) {
                store_pair(to, transform(column, first), transform(column + 1, second));
            } else {
                to[0] = from_float<T>(transform(column, first));
                to[1] = from_float<T>(transform(column + 1, second));
            }
        });
    }
};
