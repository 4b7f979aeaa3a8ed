// S = keep_scale * (mask o x) * A^T of every row's adapters, rounded once: a block per kRows rows,
// projection and kRanks ranks goes through the adapters of its rows. A product is summed in slices
// of kSlice columns, whose sums are added in order, as the decode kernel does. With dropout, the
// last blocks of the grid store the mask, one per kRows rows.
#pragma once
#include "common/adapter.cuh"
#include "common/table.cuh"
#include "rows/forward_params.cuh"
#include "rows/members.cuh"
#include "skinny/pipeline.cuh"
#include "skinny/warp_product.cuh"

template <typename T, typename Shape, Access A>
struct ShrinkRows {
    static constexpr int kThreads = Shape::kThreads;
    static constexpr int kRows = Shape::kRows, kRanks = Shape::kRanks, kDepth = Shape::kDepth;
    static constexpr int kBlockRows = kRows, kBlockColumns = kRanks;
    static constexpr int kStages = Shape::kStages;
    static constexpr int kSlice = 512;
    static_assert(kThreads / 32 * 16 == kRows, "every warp has 16 rows");
    static_assert(kSlice % kDepth == 0 && dropout::kBlock % kDepth == 0, "a step lies in a slice");

    using XTile = Tile<T, kRows, kDepth>;
    using ATile = Tile<T, kRanks, kDepth>;                     // lora_A (r, k)
    static constexpr int kSize = static_cast<int>(sizeof(T));  // of an element
    static constexpr int kStageBytes = XTile::kBytes + ATile::kBytes;
    // Behind the stages: the place of each row's list that names the adapter at hand, or -1, and a
    // word for every warp
    static constexpr int kPlacesOffset = kStages * kStageBytes;
    static constexpr int kSharedBytes = kPlacesOffset + (kRows + kThreads / 32) * 4;

    __device__ static void run(const RowsForwardParams& p) {
        const int row_tiles = (p.m + kRows - 1) / kRows;
        int block = static_cast<int>(blockIdx.x);
        const int of_s = row_tiles * p.projections * p.rank_tiles;
        int* const places = reinterpret_cast<int*>(block_memory() + kPlacesOffset);
        if (block >= of_s) {
            store_mask(p, (block - of_s) * kRows, places + kRows);
            return;
        }
        const int rank0 = block % p.rank_tiles * kRanks;
        block /= p.rank_tiles;
        const int projection = block % p.projections;
        const int row0 = block / p.projections * kRows;
        const int count = min(kRows, p.m - row0);
        if (projection == 0 && rank0 == 0) {
            check(p, row0, count);
        }
        if (rank0 >= p.rows.s_rank[projection]) {
            return;
        }
        int slot = -1;
        for (;;) {
            slot =
                rows::next_slot<kThreads>(p.rows, p.projections, row0, count, slot, places + kRows);
            if (slot == rows::kNoSlot) {
                return;
            }
            const int rank = rows::rank_of(p.rows, p.projections, slot, projection);
            if (rank0 < rank) {
                for (int row = threadIdx.x; row < kRows; row += kThreads) {
                    places[row] = row < count ? rows::member(p.rows, row0 + row, slot).place : -1;
                }
                __syncthreads();
                adapter(p, projection, row0, slot, rank, rank0, places);
            }
        }
    }

   private:
    // Says whether a row names an adapter that isn't there or has wrong ranks.
    __device__ __forceinline__ static void check(const RowsForwardParams& p, int row0, int count) {
        if (p.rows.wrong == nullptr) {
            return;
        }
        for (int i = threadIdx.x; i < count * p.rows.per_row; i += kThreads) {
            const int slot = rows::named(p.rows, row0 + i / p.rows.per_row, i % p.rows.per_row);
            if (slot >= 0 && (!rows::exists(p.rows, p.projections, slot) ||
                              !rows::has_sound_ranks(p.rows, p.projections, slot))) {
                atomicOr(p.rows.wrong, 1u);
            }
        }
    }

    // Rows that all have no adapter draw nothing: their bits are zero, and nobody needs them.
    __device__ __forceinline__ static void store_mask(const RowsForwardParams& p, int row0,
                                                      int* words) {
        const int count = min(kRows, p.m - row0);
        const bool used = rows::next_slot<kThreads>(p.rows, p.projections, row0, count, -1,
                                                    words) != rows::kNoSlot;
        const int warp_row = row0 + static_cast<int>(threadIdx.x) / 32 * 16;
        const int lane = threadIdx.x % 32;
        // Two lanes of a quad hold different rows.
        const int row = warp_row + lane / 4 + lane % 4 * 8;
        const bool stores = lane % 4 < 2 && row < p.m;
        const int blocks = (p.k + dropout::kBlock - 1) / dropout::kBlock;
#pragma unroll 1
        for (int block = 0; block < blocks; ++block) {
            dropout::KeepBits keep{};
            if (used) {
                keep = dropout::draw(p.dropout, p.origin, warp_row, block);
            }
            if (stores) {
                const uint64_t bits = lane % 4 == 0 ? keep.upper : keep.lower;
                p.mask[static_cast<int64_t>(block) * p.m + row] =
                    bits & dropout::inside(p.k, block);
            }
        }
    }

    __device__ __forceinline__ static void adapter(const RowsForwardParams& p, int projection,
                                                   int row0, int slot, int rank, int rank0,
                                                   const int* places) {
        const AdapterEntry& of = rows::entry(p.rows, p.projections, slot, projection);
        const AdapterMatrix a{
            of.lora_a, of.a_stride, 0, rank, (of.flags & kEntryAVectorised) != 0 ? 1 : 0,
            of.scaling};
        const uint32_t memory = ptx::shared_address(block_memory());
        const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
        const ProductByRows<T, XTile, ATile> product(warp_row, 0);
        Accumulator<16, kRanks> slice, sum;
        slice.clear();
        sum.clear();
        const int steps = (p.k + kDepth - 1) / kDepth;
        pipeline<kStages>(steps, [&](int step, int stage) {
            T* const at = reinterpret_cast<T*>(block_memory() + stage * kStageBytes);
            load_members(p, XTile{at}, row0, step * kDepth, places);
            load_adapter_tile<kThreads>(ATile{at + XTile::kElements}, a, p.rows.adapter_f32 != 0,
                                        rank, p.k, rank0, step * kDepth);
        }, [](int, int) {}, [&](int step, int stage) {
            const uint32_t x = memory + stage * kStageBytes;
            dropout::KeepBits keep{};
            if (p.mask_source == MaskSource::kDrawn) {
                const int column = step * kDepth;
                keep =
                    dropout::draw(p.dropout, p.origin, row0 + warp_row, column / dropout::kBlock);
                const int shift = column % dropout::kBlock;
                keep = {keep.upper >> shift, keep.lower >> shift};
            }
#pragma unroll
            for (int column = 0; column < kDepth; column += 32) {
                if (p.mask_source == MaskSource::kDrawn) {
                    const KeepRows kept{static_cast<uint32_t>(keep.upper >> column),
                                        static_cast<uint32_t>(keep.lower >> column)};
                    product.add_to(slice, x, x + XTile::kBytes, column * kSize, kept);
                } else {
                    product.add_to(slice, x, x + XTile::kBytes, column * kSize, KeepAllRows{});
                }
            }
            if ((step + 1) % (kSlice / kDepth) == 0 || step + 1 == steps) {
#pragma unroll
                for (int j = 0; j < kRanks / 8; ++j) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        sum.value[0][j][e] += slice.value[0][j][e];
                    }
                }
                slice.clear();
            }
        });
        store(p, sum, projection, row0 + warp_row, rank, rank0, places + warp_row);
    }

    // Columns k0.. of the rows that have the adapter; the others are zero.
    __device__ __forceinline__ static void load_members(const RowsForwardParams& p,
                                                        const XTile& tile, int row0, int k0,
                                                        const int* places) {
        const bool vectorised = p.x_vectorised != 0;
        for_each_chunk<kThreads>(tile, [&](int row, int chunk) {
            const int column = k0 + chunk * kChunk<T>;
            const int valid = places[row] < 0 ? 0 : max(0, min(p.k - column, kChunk<T>));
            const T* from = static_cast<const T*>(p.x);
            if (valid > 0) {
                from += (row0 + row) * p.x_stride + column;
            }
            if (vectorised) {
                ptx::cp_async_16(tile.chunk_address(row, chunk), from, valid * kSize);
            } else {
                *reinterpret_cast<uint4*>(tile.chunk(row, chunk)) = gather_chunk(from, valid);
            }
        });
    }

    // `places` begins at the warp's first row.
    __device__ __forceinline__ static void store(const RowsForwardParams& p,
                                                 const Accumulator<16, kRanks>& sum, int projection,
                                                 int row0, int rank, int rank0, const int* places) {
        const int lane = threadIdx.x % 32;
        const int end = min(padded_rank(rank) - rank0, kRanks);
        const float keep_scale = p.mask_source == MaskSource::kDrawn ? p.dropout.keep_scale : 1.0f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = 8 * half + lane / 4;
            const int place = places[row];
            if (place < 0) {
                continue;
            }
            T* const s = static_cast<T*>(p.s) + static_cast<int64_t>(row0 + row) * p.rows.s_stride +
                         p.rows.s_first[projection] + place * p.rows.s_rank[projection] + rank0;
#pragma unroll
            for (int j = 0; j < kRanks / 8; ++j) {
                const int column = 8 * j + lane % 4 * 2;
                const float* const value = sum.value[0][j] + 2 * half;
                // Whatever x holds: what lies between the rank and its padding is zero.
                const float first = rank0 + column < rank ? keep_scale * value[0] : 0.0f;
                const float second = rank0 + column + 1 < rank ? keep_scale * value[1] : 0.0f;
                if (column < end) {
                    store_pair(s + column, first, second);
                }
            }
        }
    }
};
