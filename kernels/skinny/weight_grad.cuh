// What grad_b and grad_a share, the gradient of an adapter's matrix: Z^T * Q (columns, ranks) with
// Z (m, columns) = dy or x and Q (m, ranks) = S or T. Z is read once, in row blocks. A block keeps
// the sums of its column group in registers while it goes down its rows.
#pragma once
#include "common/table.cuh"
#include "skinny/pipeline.cuh"
#include "skinny/warp_product.cuh"

template <typename T, typename Shape>
struct WeightGrad {
    static constexpr int kSize = static_cast<int>(sizeof(T));
    static constexpr int kThreads = Shape::kThreads;
    static constexpr int kWarps = kThreads / 32;
    static constexpr int kRows = Shape::kRows;    // of Z per step
    static constexpr int kRanks = Shape::kRanks;  // columns of Q that a block works on
    static constexpr int kStages = Shape::kStages;
    static constexpr int kColumns = 256 / kSize;  // of Z per step: a 256-byte line
    static constexpr int kSteps = 4;              // column tiles of a group, one after the other
    static constexpr int kGroupColumns = kSteps * kColumns;
    static constexpr int kBlockRows = kRows, kBlockColumns = kGroupColumns;
    static constexpr int kWarpColumns = kColumns / kWarps;

    using ZTile = Tile<T, kRows, kColumns>;
    using QTile = Tile<T, kRows, kRanks>;
    using ZCopy = TileCopy<kThreads, T, kRows, kColumns>;
    using Acc = Accumulator<kWarpColumns, kRanks>;
    static constexpr int kQTiles = 2;  // a row block's is in use while the next one's is filled
    // A tile of Q is filled up to kStages - 1 steps ahead of its row block's first step.
    static_assert(kStages - 1 <= (kQTiles - 1) * kSteps, "a tile of Q is filled while it is read");

    // What a block works on. The grid is one line: rank tiles first, then column groups, then row
    // splits.
    struct Position {
        int rank0, group, split;

        __device__ __forceinline__ Position(int block, int ranks, int groups) {
            const int rank_tiles = (ranks + kRanks - 1) / kRanks;
            rank0 = block % rank_tiles * kRanks;
            group = block / rank_tiles % groups;
            split = block / rank_tiles / groups;
        }
        __device__ __forceinline__ int column0() const { return group * kGroupColumns; }
    };

    // Steps go along the columns of the group, then to the next row block.
    __device__ __forceinline__ static int column_step(int step) { return step & (kSteps - 1); }
    __device__ __forceinline__ static int row_block(int step) {
        return static_cast<uint32_t>(step) / kSteps;
    }

    // Copies a block's part of Z, rows row0 .. row_end and the columns of its group, tile by tile.
    struct ZProducer {
        ZCopy copy;
        int64_t to_next_block;  // elements from a row block's last tile to the next one's first
        int row0, row_end, columns;  // columns: those of Z from the group's first on
        int full_blocks;             // row blocks without rows beyond the end

        __device__ __forceinline__ ZProducer(const void* z, int64_t z_stride, int first_row,
                                             int last_row, int column0, int all_columns)
            : row0(first_row), row_end(last_row), columns(all_columns - column0) {
            full_blocks = (row_end - row0) / kRows;
            to_next_block = kRows * z_stride - (kSteps - 1) * kColumns;
#pragma unroll
            for (int pass = 0; pass < ZCopy::kPasses; ++pass) {
                // A matrix of one row may have any stride, so not even the address of an empty copy
                // may use it.
                const int row = min(row0 + ZCopy::row(pass), row_end - 1);
                copy.from[pass] =
                    static_cast<const T*>(z) + row * z_stride + column0 + ZCopy::column();
            }
        }
        __device__ __forceinline__ int steps() const {
            return (row_end - row0 + kRows - 1) / kRows * kSteps;
        }
        __device__ __forceinline__ int row_of(int step) const {
            return row0 + row_block(step) * kRows;
        }
        // Whether the tile holds any column of Z at all
        __device__ __forceinline__ bool holds(int step) const {
            return column_step(step) * kColumns < columns;
        }

        // Issues the copies of a step. Steps must follow each other.
        template <bool Vectorised>
        __device__ __forceinline__ void issue(uint32_t to, int step) {
            const int left = columns - column_step(step) * kColumns;
            if (Vectorised && row_block(step) < full_blocks && left >= kColumns) {
                copy.full(to);
            } else if (left > 0) {
                const int rows = row_end - row_of(step);
                copy.template partial<Vectorised>(to, [&](int pass) {
                    return ZCopy::row(pass) < rows ? left - ZCopy::column() : 0;
                });
            }
            copy.advance(column_step(step) == kSteps - 1 ? to_next_block : kColumns);
        }
    };

    // Calls f with the accumulator of a step's columns. Registers can't be indexed, so each
    // accumulator has code of its own.
    template <typename F>
    __device__ __forceinline__ static void with_columns_of(Acc (&acc)[kSteps], int step, F&& f) {
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
            if (column_step(step) == i) {
                f(acc[i]);
            }
        }
    }

    // First column of this warp in a tile of Z
    __device__ __forceinline__ static int warp_column() { return threadIdx.x / 32 * kWarpColumns; }

    // f(column of Z, column of Q, first, second) for what this lane holds of a whole group.
    template <typename F>
    __device__ __forceinline__ static void for_each_pair(Acc (&acc)[kSteps], Position at, F&& f) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            acc[step].for_each_pair([&](int row, int column, float first, float second) {
                f(at.column0() + step * kColumns + warp_column() + row, at.rank0 + column, first,
                  second);
            });
        }
    }
};
