// One pass over x gives dA = T^T * drop(x) as f32 partials, one per row split. T is summed from its partials on the way and stored for
// grad_x. The last blocks of the grid sum dB, whose partials grad_b left.
#pragma once
#include "dropout.cuh"
#include "grad_columns.cuh"
#include "reduce.cuh"

template <typename T, int RankTile>
struct GradA : GradColumns<T, RankTile> {
    using Base = GradColumns<T, RankTile>;
    using typename Base::Acc;
    using typename Base::QTile;
    using typename Base::ZTile;
    using Base::kColumns, Base::kGroupColumns, Base::kRows, Base::kStages, Base::kSteps, Base::kThreads;

    // One T tile per stage is enough: a row block's tile lives for kSteps steps, and at most kStages row blocks are in flight.
    static constexpr int kSharedBytes = kStages * (ZTile::kElements + QTile::kElements) * static_cast<int>(sizeof(T));

    template <bool Vectorised>
    __device__ static void run(const GradAParams& p) {
        const int blocks = static_cast<int>(gridDim.x) - p.reduce_b.blocks;
        if (static_cast<int>(blockIdx.x) >= blocks) {
            reduce_partials<T, kThreads>(p.reduce_b, static_cast<int>(blockIdx.x) - blocks);
            return;
        }
        extern __shared__ uint4 shared[];
        const auto x_tile = [](int stage) { return ZTile{reinterpret_cast<T*>(shared) + stage * ZTile::kElements}; };
        const auto t_tile = [&](int row_block) {
            return QTile{x_tile(kStages).data + row_block % kStages * QTile::kElements};
        };

        const auto at = Base::position(blockIdx.x, p.column_groups, p.m_splits);
        const int column0 = at.group * kGroupColumns;
        const int row0 = at.split * p.rows_per_split;
        const int row_end = min(p.m, row0 + p.rows_per_split);
        const Source<T> x{static_cast<const T*>(p.x), p.x_stride, row_end, p.k};  // (m, k)

        Acc grad[kSteps];  // dA^T (columns, RankTile)
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            grad[step].clear();
        }
        const int row_blocks = (row_end - row0 + kRows - 1) / kRows;
        const auto load = [&](int step, int stage) {
            const int row_block = step / kSteps;
            const int row = row0 + row_block * kRows;
            load_tile<kThreads>(x_tile(stage), x, row, column0 + step % kSteps * kColumns, Vectorised);
            if (step % kSteps == 0) {
                sum_t(p, t_tile(row_block), at, row, row_end);
            }
        };
        const auto compute = [&](int step, int stage, int column_step) {
            const int row_block = step / kSteps;
            if (p.mask != nullptr) {
                drop(p, x_tile(stage), row0 + row_block * kRows, column0 + column_step * kColumns, row_end);
                __syncthreads();
            }
            Base::accumulate(grad[column_step], x_tile(stage), t_tile(row_block));
        };
        run_pipeline<kStages, kSteps>(row_blocks * kSteps, load, compute);

        float* const partial = p.lora_a_partial + static_cast<int64_t>(at.split) * p.r_pad * p.k;  // (r_pad, k)
        Base::for_each_pair(grad, at, [&](int column, int rank, float first, float second) {
            if (column < p.k && rank < p.r_pad) {
                partial[static_cast<int64_t>(rank) * p.k + column] = p.keep_scale * first;
                partial[static_cast<int64_t>(rank + 1) * p.k + column] = p.keep_scale * second;
            }
        });
    }

   private:
    // T tile (kRows, RankTile) = sum of T partials, rounded to T. The blocks of the first column group store it for grad_x.
    __device__ __forceinline__ static void sum_t(const GradAParams& p, QTile tile, typename Base::Position at, int row0,
                                                 int row_end) {
        const int64_t partial_elements = static_cast<int64_t>(p.m) * p.r_pad;
        for (int index = threadIdx.x; index < kRows * RankTile / 2; index += kThreads) {
            const int tile_row = index / (RankTile / 2);
            const int tile_column = index % (RankTile / 2) * 2;
            const int row = row0 + tile_row;
            const int rank = at.rank0 + tile_column;
            float2 sum = make_float2(0.0f, 0.0f);
            if (row < row_end && rank < p.r_pad) {
                const int64_t offset = static_cast<int64_t>(row) * p.r_pad + rank;
                for (int i = 0; i < p.t_partials; ++i) {
                    const float2 partial =
                        *reinterpret_cast<const float2*>(p.t_partial + i * partial_elements + offset);
                    sum.x += partial.x;
                    sum.y += partial.y;
                }
                if (at.group == 0) {
                    store_pair(static_cast<T*>(p.t) + offset, sum.x, sum.y);
                }
            }
            store_pair(tile.at(tile_row, tile_column), sum.x, sum.y);
        }
    }

    __device__ __forceinline__ static void drop(const GradAParams& p, ZTile tile, int row0, int column0, int row_end) {
        dropout::apply<kThreads>(tile, [&](int tile_row, int tile_group) -> uint32_t {
            const int row = row0 + tile_row;
            const int group = column0 / dropout::kGroup + tile_group;
            // Outside the matrix the tile holds zeros already.
            return row < row_end && group < p.mask_row_bytes ? p.mask[row * p.mask_row_bytes + group] : 0xFFu;
        });
    }
};
