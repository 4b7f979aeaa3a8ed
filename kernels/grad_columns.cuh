// What grad_b and grad_a share: a stream Z (m, columns), dy or x, is read once in row blocks, and every column group keeps
// Z^T * Q (columns, r), Q = S or T, in registers while it goes down its rows.
#pragma once
#include "pipeline.cuh"
#include "warp_mma.cuh"

template <typename T, int RankTile>
struct GradColumns {
    static constexpr int kThreads = 128;
    static constexpr int kWarps = kThreads / 32;
    static constexpr int kRows = 64;                                    // of Z per step
    static constexpr int kColumns = 256 / static_cast<int>(sizeof(T));  // of Z per step: a 256-byte line
    static constexpr int kSteps = RankTile == 16 ? 4 : 2;  // column tiles of a group, as many as fit the registers
    static constexpr int kGroupColumns = kSteps * kColumns;
    static constexpr int kStages = 2;
    static constexpr int kWarpColumns = kColumns / kWarps;

    using ZTile = Tile<T, kRows, kColumns>;
    using QTile = Tile<T, kRows, RankTile>;
    using Acc = Accumulator<kWarpColumns, RankTile>;

    // The grid is one line: column groups, then row splits, then rank tiles, slowest last.
    struct Position {
        int group, split, rank0;
    };
    __device__ __forceinline__ static Position position(int block, int groups, int splits) {
        return {block % groups, block / groups % splits, block / groups / splits * RankTile};
    }

    // acc (this warp's columns of the tile, RankTile) += Z^T * Q over the tile's rows.
    __device__ __forceinline__ static void accumulate(Acc& acc, ZTile z, QTile q) {
        const int warp_column = threadIdx.x / 32 * kWarpColumns;
#pragma unroll 2
        for (int row = 0; row < kRows; row += kDepthStep) {
            warp_mma<T, Major::kOuter, Major::kOuter>(acc, z, warp_column, q, 0, row);
        }
    }

    // f(column of the matrix, column of Q, first, second) for what this lane holds of a whole group.
    template <typename F>
    __device__ __forceinline__ static void for_each_pair(Acc (&acc)[kSteps], Position at, F&& f) {
        const int warp_column = at.group * kGroupColumns + threadIdx.x / 32 * kWarpColumns;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            acc[step].for_each_pair([&](int row, int column, float first, float second) {
                f(warp_column + step * kColumns + row, at.rank0 + column, first, second);
            });
        }
    }
};
