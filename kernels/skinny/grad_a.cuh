// One pass over x gives dA = T^T * drop(x) of all adapters as f32 partials, one per row split. T is
// summed from its partials on the way and stored for grad_x. The last blocks of the grid sum dB,
// whose partials grad_b left.
#pragma once
#include "common/mask_origin.cuh"
#include "common/reduce.cuh"
#include "skinny/weight_grad.cuh"

template <typename T, typename Shape, Access A>
struct GradA : WeightGrad<T, Shape> {
    using Base = WeightGrad<T, Shape>;
    using typename Base::Acc;
    using typename Base::Position;
    using typename Base::QTile;
    using typename Base::ZProducer;
    using typename Base::ZTile;
    using Base::kColumns, Base::kQTiles, Base::kRanks, Base::kRows, Base::kSize, Base::kStages,
        Base::kSteps, Base::kThreads, Base::kWarps;

    static constexpr int kMaskBlocks =
        kColumns / dropout::kBlock;  // words of the mask per row of a step
    static constexpr int kMaskBytes =
        kMaskBlocks * kRows * static_cast<int>(sizeof(uint64_t));  // block after block
    static constexpr int kSharedBytes =
        kStages * (ZTile::kBytes + kMaskBytes) + kQTiles * QTile::kBytes;

    static constexpr bool kVectorised = A != Access::kAny;

    __device__ static void run(const DrawnGradAParams& p) {
        const int blocks = static_cast<int>(gridDim.x) - p.reduce_b.blocks;
        if (static_cast<int>(blockIdx.x) >= blocks) {
            reduce_partials<T, kThreads>(p.reduce_b, static_cast<int>(blockIdx.x) - blocks);
            return;
        }
        const uint32_t memory = ptx::shared_address(block_memory());
        const uint32_t t_tiles = memory + kStages * ZTile::kBytes;  // x's come first
        const uint32_t mask_tiles = t_tiles + kQTiles * QTile::kBytes;

        const Position at(blockIdx.x, p.ranks, p.column_groups);
        const int row0 = at.split * p.rows_per_split;
        ZProducer x(p.x, p.x_stride, row0, min(p.m, row0 + p.rows_per_split), at.column0(),
                    p.k);  // (m, k)
        TSum t(p, at, row0);

        Acc grad[kSteps];  // dA^T (columns, kRanks)
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            grad[step].clear();
        }
        const auto issue = [&](int step, int stage) {
            x.template issue<kVectorised>(memory + stage * ZTile::kBytes, step);
            if (x.holds(step)) {
                issue_mask(p, mask_tiles + stage * kMaskBytes, x.row_of(step), x.row_end,
                           (at.column0() + Base::column_step(step) * kColumns) / dropout::kBlock);
            }
            if (Base::column_step(step) == 0) {
                t.load(p, x.row_end - x.row_of(step));
            }
        };
        const auto store_step = [&](int step, int) {
            if (Base::column_step(step) == 0) {
                t.store(p, t_tiles + Base::row_block(step) % kQTiles * QTile::kBytes,
                        x.row_end - x.row_of(step));
            }
        };
        const ProductOfColumns<T, ZTile, QTile> product(Base::warp_column());
        const int word_column = Base::warp_column() % 64;
        const KeepColumns keep_at(
            mask_tiles + Base::warp_column() / 64 * kRows * 8 + word_column / 32 * 4,
            word_column % 32 / 8, kTensorCore<T>);
        const auto consume = [&](int step, int stage) {
            if (!x.holds(step)) {
                return;
            }
            const uint32_t x_tile = memory + stage * ZTile::kBytes;
            const uint32_t t_tile = t_tiles + Base::row_block(step) % kQTiles * QTile::kBytes;
            Base::with_columns_of(grad, step, [&](Acc& acc) {
                if (p.mask_source == MaskSource::kNone) {
                    product.add_to(acc, x_tile, t_tile, KeepAllColumns{});
                } else {
                    product.add_to(acc, x_tile, t_tile, keep_at.in_tile(stage * kMaskBytes));
                }
            });
        };
        pipeline<kStages>(x.steps(), issue, store_step, consume);

        const float scale = p.mask_source == MaskSource::kNone ? 1.0f : p.dropout.keep_scale;
        float* const partial =
            p.lora_a_partial + static_cast<int64_t>(at.split) * p.ranks * p.k;  // (ranks, k)
        Base::for_each_pair(grad, at, [&](int column, int rank, float first, float second) {
            if (column < p.k && rank < p.ranks) {
                partial[static_cast<int64_t>(rank) * p.k + column] = scale * first;
                partial[static_cast<int64_t>(rank + 1) * p.k + column] = scale * second;
            }
        });
    }

   private:
    // T tile (kRows, kRanks) = sum of T partials in their order, rounded to T. A thread sums the
    // same four columns in each of its rows. The first few partials are on their way while
    // something else is computed.
    struct TSum {
        static constexpr int kQuads = kRanks / 4;
        static constexpr int kRowsPerPass = kThreads / kQuads;
        static constexpr int kPasses = kRows / kRowsPerPass;
        static_assert(kThreads % kQuads == 0 && kRows % kRowsPerPass == 0 && kPasses <= 8,
                      "the threads cover the tile of T in whole passes");
        static constexpr int kAhead = kTensorCore<T> ? 8 / kPasses
                                      : kRanks == 16 ? 2
                                                     : 0;  // as registers allow

        const float*
            from;  // of this thread's first row of the current block; not read beyond the ranks
        T* to;     // the same of T; null in blocks that don't store it
        int r_pad, partials;
        float4 ahead[kPasses][kAhead > 0 ? kAhead : 1];

        __device__ __forceinline__ static int row(int pass) {
            return threadIdx.x / kQuads + pass * kRowsPerPass;
        }

        __device__ __forceinline__ TSum(const DrawnGradAParams& p, Position at, int row0) {
            const int rank = at.rank0 + threadIdx.x % kQuads * 4;
            int found = 0;
            for (int i = 1; i < p.adapters; ++i) {
                found = rank >= p.t_source[i].rank0 ? i : found;
            }
            const TSource& source = p.t_source[found];
            const bool inside = rank < p.ranks;
            partials = inside ? source.partials : 0;
            r_pad = source.r_pad;
            from = source.partial + static_cast<int64_t>(row0 + row(0)) * r_pad +
                   (rank - source.rank0);
            to = inside && at.group == 0
                     ? static_cast<T*>(p.t) + static_cast<int64_t>(row0 + row(0)) * p.ranks + rank
                     : nullptr;
        }
        __device__ __forceinline__ int64_t partial_stride(const DrawnGradAParams& p) const {
            return static_cast<int64_t>(p.m) * r_pad;
        }
        // `rows` of the block at hand are within the matrix.
        __device__ __forceinline__ void load(const DrawnGradAParams& p, int rows) {
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
                for (int i = 0; i < kAhead; ++i) {
                    ahead[pass][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                    if (i < partials && row(pass) < rows) {
                        ahead[pass][i] = *reinterpret_cast<const float4*>(
                            from + static_cast<int64_t>(pass * kRowsPerPass) * r_pad +
                            i * partial_stride(p));
                    }
                }
            }
        }
        __device__ __forceinline__ void store(const DrawnGradAParams& p, uint32_t tile, int rows) {
            constexpr int kQuadsPerChunk = kChunk<T> / 4;
            const int quad = threadIdx.x % kQuads;
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass) {
                float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                const auto add = [&](float4 more) {
                    sum =
                        make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
                };
#pragma unroll
                for (int i = 0; i < kAhead; ++i) {
                    add(ahead[pass][i]);
                }
                if (row(pass) < rows) {
                    const float* rest = from + static_cast<int64_t>(pass * kRowsPerPass) * r_pad +
                                        kAhead * partial_stride(p);
#pragma unroll 4
                    for (int i = kAhead; i < partials; ++i) {
                        add(*reinterpret_cast<const float4*>(rest));
                        rest += partial_stride(p);
                    }
                    if (to != nullptr) {
                        store_quad(to + static_cast<int64_t>(pass * kRowsPerPass) * p.ranks, sum);
                    }
                }
                store_shared_quad<T>(
                    tile + QTile::chunk_offset(row(pass), quad / kQuadsPerChunk) * kSize +
                        quad % kQuadsPerChunk * 4 * kSize,
                    sum);
            }
            from += static_cast<int64_t>(kRows) * r_pad;
            to = to != nullptr ? to + static_cast<int64_t>(kRows) * p.ranks : nullptr;
        }
    };

    // Mask words of rows row0 .. and of the blocks of columns from `block` on: from memory, or
    // drawn again.
    __device__ __forceinline__ static void issue_mask(const DrawnGradAParams& p, uint32_t to,
                                                      int row0, int row_end, int block) {
        if (p.mask_source == MaskSource::kStored) {
            const int blocks = (p.k + dropout::kBlock - 1) / dropout::kBlock;
            for (int i = threadIdx.x; i < kMaskBlocks * kRows; i += kThreads) {
                const int word_block = block + i / kRows;
                const int row = row0 + i % kRows;
                const bool inside = word_block < blocks && row < row_end;
                const int64_t offset = inside ? static_cast<int64_t>(word_block) * p.m + row : 0;
                ptx::cp_async_8(to + i * 8, p.mask + offset, inside ? 8 : 0);
            }
        } else if (p.mask_source == MaskSource::kDrawn) {
            const int lane = threadIdx.x % 32;
            for (int i = threadIdx.x / 32; i < kMaskBlocks * kRows / 16; i += kWarps) {
                const int word_block = i / (kRows / 16);
                const int tile_row = i % (kRows / 16) * 16;
                const dropout::KeepBits keep =
                    dropout::draw(p.dropout, p.origin, row0 + tile_row, block + word_block);
                if (lane % 4 < 2) {
                    ptx::store_shared(
                        to + (word_block * kRows + tile_row + lane / 4 + lane % 4 * 8) * 8,
                        lane % 4 == 0 ? keep.upper : keep.lower);
                }
            }
        }
    }
};
