// One pass over dy gives both T = scaling * dy * B and dB = dy^T * S, as f32 partials: T one per column group, dB one per row split.
// Whoever reads them next sums them in order.
#pragma once
#include "grad_columns.cuh"
#include "params.cuh"

template <typename T, int RankTile>
struct GradB : GradColumns<T, RankTile> {
    using Base = GradColumns<T, RankTile>;
    using typename Base::Acc;
    using typename Base::QTile;
    using typename Base::ZTile;
    using Base::kColumns, Base::kGroupColumns, Base::kRows, Base::kStages, Base::kSteps, Base::kThreads;

    using BTile = Tile<T, kGroupColumns, RankTile>;  // (n, r): this group's rows of lora_B, loaded once
    static constexpr int kStageElements = ZTile::kElements + QTile::kElements;
    static constexpr int kSharedBytes = (BTile::kElements + kStages * kStageElements) * static_cast<int>(sizeof(T));

    template <bool Vectorised>
    __device__ static void run(const GradBParams& p) {
        extern __shared__ uint4 shared[];
        const BTile b_tile{reinterpret_cast<T*>(shared)};
        const auto dy_tile = [&](int stage) { return ZTile{b_tile.data + BTile::kElements + stage * kStageElements}; };
        const auto s_tile = [&](int stage) { return QTile{dy_tile(stage).data + ZTile::kElements}; };

        const auto at = Base::position(blockIdx.x, p.column_groups, p.m_splits);
        const int column0 = at.group * kGroupColumns;
        const int row0 = at.split * p.rows_per_split;
        const int row_end = min(p.m, row0 + p.rows_per_split);
        const Source<T> dy{static_cast<const T*>(p.dy), p.dy_stride, row_end, p.n};          // (m, n)
        const Source<T> lora_b{static_cast<const T*>(p.lora_b), p.lora_b_stride, p.n, p.r};  // (n, r)
        const Source<T> s{static_cast<const T*>(p.s), p.r_pad, row_end, p.r_pad};            // (m, r_pad)

        Acc grad[kSteps];             // dB (columns, RankTile)
        Accumulator<16, RankTile> t;  // T (16 rows per warp, RankTile) over this group's columns
        const int warp_row = threadIdx.x / 32 * 16;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            grad[step].clear();
        }
        t.clear();

        // Waited for with the pipeline's first group.
        load_tile<kThreads>(b_tile, lora_b, column0, at.rank0, p.lora_vectorised != 0);
        const int row_blocks = (row_end - row0 + kRows - 1) / kRows;
        const auto load = [&](int step, int stage) {
            const int row = row0 + step / kSteps * kRows;
            load_tile<kThreads>(dy_tile(stage), dy, row, column0 + step % kSteps * kColumns, Vectorised);
            load_tile<kThreads>(s_tile(stage), s, row, at.rank0, true);
        };
        const auto compute = [&](int step, int stage, int column_step) {
            Base::accumulate(grad[column_step], dy_tile(stage), s_tile(stage));
            // lora_B's rows for these columns of dy (kColumns, RankTile)
            const Tile<T, kColumns, RankTile> b_rows{b_tile.data + column_step * kColumns * RankTile};
#pragma unroll 2
            for (int depth = 0; depth < kColumns; depth += kDepthStep) {
                warp_mma<T, Major::kDepth, Major::kOuter>(t, dy_tile(stage), warp_row, b_rows, 0, depth);
            }
            if (column_step == kSteps - 1) {
                store_t(p, t, at, row0 + step / kSteps * kRows + warp_row, row_end);
                t.clear();
            }
        };
        run_pipeline<kStages, kSteps>(row_blocks * kSteps, load, compute);

        float* const partial = p.lora_b_partial + static_cast<int64_t>(at.split) * p.n * p.r_pad;  // (n, r_pad)
        Base::for_each_pair(grad, at, [&](int column, int rank, float first, float second) {
            if (column < p.n && rank < p.r_pad) {
                store_pair(partial + static_cast<int64_t>(column) * p.r_pad + rank, first, second);
            }
        });
    }

   private:
    __device__ __forceinline__ static void store_t(const GradBParams& p, Accumulator<16, RankTile>& t,
                                                   typename Base::Position at, int row0, int row_end) {
        float* const partial = p.t_partial + static_cast<int64_t>(at.group) * p.m * p.r_pad;  // (m, r_pad)
        t.for_each_pair([&](int row, int rank, float first, float second) {
            row += row0;
            rank += at.rank0;
            if (row < row_end && rank < p.r_pad) {
                store_pair(partial + static_cast<int64_t>(row) * p.r_pad + rank, p.scaling * first, p.scaling * second);
            }
        });
    }
};
