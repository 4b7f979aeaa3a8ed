// One pass over dy gives both T = scaling * dy * B and dB = scaling * dy^T * S, as f32 partials: T
// one per column group, dB one per row split. The launch that reads them sums them in order. The
// projections follow each other in the grid; its last blocks pack lora_A for dx.
#pragma once
#include "common/pack.cuh"
#include "skinny/weight_grad.cuh"

template <typename T, typename Shape, Access A>
struct GradB : WeightGrad<T, Shape> {
    using Base = WeightGrad<T, Shape>;
    using typename Base::Acc;
    using typename Base::Position;
    using typename Base::QTile;
    using typename Base::ZProducer;
    using typename Base::ZTile;
    using Base::kColumns, Base::kGroupColumns, Base::kQTiles, Base::kRanks, Base::kRows,
        Base::kSize, Base::kStages, Base::kSteps, Base::kThreads, Base::kWarps;

    using BTile =
        Tile<T, kGroupColumns, kRanks>;  // (n, r): this group's rows of lora_B, loaded once
    using SCopy = TileCopy<kThreads, T, kRows, kRanks>;
    static constexpr int kSharedBytes =
        BTile::kBytes + kStages * ZTile::kBytes + kQTiles * QTile::kBytes;

    // The warps share T (kRows, kRanks): 16 rows each, and where there are more warps a part of
    // the columns.
    static constexpr int kRowWarps = kRows / 16;
    static constexpr int kWarpRanks = kRanks * kRowWarps / kWarps;
    static_assert(kRows % 16 == 0 && kRowWarps <= kWarps && kWarps % kRowWarps == 0,
                  "the warps cover T's rows");
    static_assert(kWarpRanks % 16 == 0 && kWarpRanks * kWarps == kRanks * kRowWarps,
                  "the warps cover T's columns");

    static constexpr bool kVectorised = A != Access::kAny;

    __device__ static void run(const GradBParams& p) {
        zero_counters<kThreads>(p.counters, p.counter_count);
        if constexpr (kTensorCore<T>) {
            const int blocks = static_cast<int>(gridDim.x) - p.pack_a.blocks;
            if (static_cast<int>(blockIdx.x) >= blocks) {
                pack_adapters<T, kThreads>(p.pack_a, static_cast<int>(blockIdx.x) - blocks);
                return;
            }
        }
        int found = 0;
        for (int i = 1; i < p.projections; ++i) {
            found = static_cast<int>(blockIdx.x) >= p.projection[i].first_block ? i : found;
        }
        run_projection(p, p.projection[found]);
    }

   private:
    __device__ __forceinline__ static void run_projection(const GradBParams& p,
                                                          const GradBProjection& q) {
        const uint32_t memory = ptx::shared_address(block_memory());
        const uint32_t dy_tiles = memory + BTile::kBytes;  // lora_B's rows come first
        const uint32_t s_tiles = dy_tiles + kStages * ZTile::kBytes;

        const int r_pad = padded_rank(q.lora_b.r);
        const Position at(static_cast<int>(blockIdx.x) - q.first_block, r_pad, q.column_groups);
        const int row0 = at.split * q.rows_per_split;
        ZProducer dy(q.dy, q.dy_stride, row0, min(p.m, row0 + q.rows_per_split), at.column0(),
                     q.n);  // (m, n)
        SCopy s;            // (m, ranks)
#pragma unroll
        for (int pass = 0; pass < SCopy::kPasses; ++pass) {
            s.from[pass] = static_cast<const T*>(p.s) +
                           static_cast<int64_t>(row0 + SCopy::row(pass)) * p.ranks +
                           q.lora_b.rank0 + at.rank0 + SCopy::column();
        }
        load_b(q, at, memory, p.adapter_f32 != 0);

        Acc grad[kSteps];               // dB (columns, kRanks)
        Accumulator<16, kWarpRanks> t;  // T (16, kWarpRanks) per warp, over this group's columns
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            grad[step].clear();
        }
        t.clear();
        const int t_row = threadIdx.x / 32 % kRowWarps * 16;
        const int t_rank = threadIdx.x / 32 / kRowWarps * kWarpRanks;

        const ProductOfColumns<T, ZTile, QTile> grad_product(Base::warp_column());
        const ProductOfRows<T, ZTile, BTile> t_product(t_row, t_rank);

        const auto issue = [&](int step, int stage) {
            dy.template issue<kVectorised>(dy_tiles + stage * ZTile::kBytes, step);
            if (Base::column_step(step) == 0) {
                const int rows = dy.row_end - dy.row_of(step);
                s.template partial<true>(s_tiles + Base::row_block(step) % kQTiles * QTile::kBytes,
                                         [&](int pass) {
                    return SCopy::row(pass) < rows ? r_pad - at.rank0 - SCopy::column() : 0;
                });
                s.advance(static_cast<int64_t>(kRows) * p.ranks);
            }
        };
        const auto consume = [&](int step, int stage) {
            if (dy.holds(step)) {
                const uint32_t dy_tile = dy_tiles + stage * ZTile::kBytes;
                const uint32_t s_tile = s_tiles + Base::row_block(step) % kQTiles * QTile::kBytes;
                Base::with_columns_of(grad, step, [&](Acc& acc) {
                    grad_product.add_to(acc, dy_tile, s_tile, KeepAllColumns{});
                });
                // lora_B's rows for these columns of dy (kColumns, kRanks)
                t_product.add_to(t, dy_tile,
                                 memory + Base::column_step(step) * kColumns * kRanks * kSize);
            }
            if (Base::column_step(step) == kSteps - 1) {
                float* const partial =
                    q.t_partial + static_cast<int64_t>(at.group) * p.m * r_pad;  // (m, r_pad)
                t.for_each_pair([&](int row, int rank, float first, float second) {
                    row += dy.row_of(step) + t_row;
                    rank += at.rank0 + t_rank;
                    // An infinite dy makes NaNs of lora_B's padding, which must not reach T's.
                    if (row < dy.row_end && rank < r_pad) {
                        store_pair(partial + static_cast<int64_t>(row) * r_pad + rank,
                                   rank < q.lora_b.r ? q.lora_b.scaling * first : 0.0f,
                                   rank + 1 < q.lora_b.r ? q.lora_b.scaling * second : 0.0f);
                    }
                });
                t.clear();
            }
        };
        pipeline<kStages>(dy.steps(), issue, [](int, int) {}, consume);

        float* const partial =
            q.lora_b_partial + static_cast<int64_t>(at.split) * q.n * r_pad;  // (n, r_pad)
        Base::for_each_pair(grad, at, [&](int column, int rank, float first, float second) {
            if (column < q.n && rank < r_pad) {
                store_pair(partial + static_cast<int64_t>(column) * r_pad + rank,
                           q.lora_b.scaling * first, q.lora_b.scaling * second);
            }
        });
    }

    // This group's rows of lora_B, zeros beyond them and beyond r. Copies are waited for with the
    // pipeline's first ones.
    __device__ __forceinline__ static void load_b(const GradBProjection& q, Position at,
                                                  uint32_t to, bool f32) {
        const auto row_at = [&](int row) {
            // Nothing is read of a row beyond n, but its address must still be a good one.
            const int64_t offset = min(at.column0() + row, q.n - 1) * q.lora_b.stride + at.rank0;
            return static_cast<const uint8_t*>(q.lora_b.data) +
                   offset * (f32 ? static_cast<int>(sizeof(float)) : kSize);
        };
        const auto valid_at = [&](int row, int column) {
            return at.column0() + row < q.n ? q.lora_b.r - at.rank0 - column : 0;
        };
        if (kVectorised && q.lora_b.vectorised != 0) {
            constexpr int kChunks = BTile::kChunksPerRow;
            for (int i = threadIdx.x; i < kGroupColumns * kChunks; i += kThreads) {
                const int row = i / kChunks, column = i % kChunks * kChunk<T>;
                const int valid = max(0, min(valid_at(row, column), kChunk<T>));
                ptx::cp_async_16(to + BTile::chunk_offset(row, i % kChunks) * kSize,
                                 reinterpret_cast<const T*>(row_at(row)) + (valid > 0 ? column : 0),
                                 valid * kSize);
            }
            return;
        }
        constexpr int kQuads = kRanks / 4;
        constexpr int kQuadsPerChunk = kChunk<T> / 4;
        const bool vectorised = f32 && f32_vectorised(q.lora_b);
#pragma unroll 4
        for (int i = threadIdx.x; i < kGroupColumns * kQuads; i += kThreads) {
            const int row = i / kQuads, quad = i % kQuads;
            store_shared_quad<T>(to + BTile::chunk_offset(row, quad / kQuadsPerChunk) * kSize +
                                     quad % kQuadsPerChunk * 4 * kSize,
                                 load_adapter_quad<T>(row_at(row), quad * 4,
                                                      valid_at(row, quad * 4), f32, vectorised));
        }
    }
};
