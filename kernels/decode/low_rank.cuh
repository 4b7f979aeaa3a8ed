// S of a part of the batch, by one warp of every block, beside the warps that stream the weight.
//
// An item is a group of 16 ranks of an adapter and a slice of 512 columns of x: its sums go to
// `s_partial`. Blocks draw items by tickets, so only running blocks have any, and nobody here waits
// for another block. Who brings the last slice of a group adds the slices in ascending order,
// rounds the sums to S and counts the group as ready. So S has the same bits whoever did what.
#pragma once
#include "common/adapter.cuh"
#include "decode/lists.cuh"
#include "skinny/pipeline.cuh"
#include "skinny/warp_product.cuh"

namespace decode {

inline constexpr int kSliceColumns = 512;
inline constexpr int kLineBytes = 128;  // of a row of a tile

// Words of DecodeParams::flags
enum Flag { kTickets, kReady, kLeft, kArrived };

template <typename T, int Tokens, int Stages, bool Vectorised>
struct LowRank {
    static constexpr int kDepth = kLineBytes / kSize<T>;  // columns of a step
    static constexpr int kChunks = 8;                     // of a row of a tile
    using ATile = Tile<T, kGroupRanks, kDepth>;           // of lora_A
    using XTile = Tile<T, Tokens, kDepth>;
    static constexpr int kStageBytes = ATile::kBytes + XTile::kBytes;
    static constexpr int kSharedBytes = Stages * kStageBytes;
    static_assert(ATile::kChunksPerRow == kChunks, "a row of a tile is a line");

    const DecodeParams& p;
    const Part& part;
    const Lists& lists;
    uint32_t memory;  // of the stages

    // An item's group
    struct Item {
        Group group;
        const AdapterEntry& adapter;
        int rank;          // of the adapter in this projection
        uint64_t members;  // the rows that have it
    };

    __device__ __forceinline__ void run() const {
        const int lane = threadIdx.x % 32;
        const int items = lists.groups(p.projections) * p.slices;
        for (;;) {
            int number = 0;
            if (lane == 0) {
                number = static_cast<int>(atomicAdd(part.flags + kTickets, 1u));
            }
            number = __shfl_sync(~0u, number, 0);
            if (number >= items) {
                return;
            }
            const int group_number = number / p.slices, slice = number % p.slices;
            const Group group = lists.group(group_number);
            const int slot = lists.slot[group.index];
            const Item item{group, entry(p.rows, p.projections, slot, group.projection),
                            rank_of(p.rows, p.projections, slot, group.projection),
                            members(group.index)};
            Accumulator<16, Tokens> acc;  // (16 ranks, tokens)
            acc.clear();
            multiply(acc, item, slice);
            store_slice(acc, item, slice);
            __threadfence();
            __syncwarp();
            bool last = false;
            if (lane == 0) {
                last = atomicAdd(part.flags + kArrived + group_number, 1u) + 1 == p.slices;
            }
            if (__any_sync(~0u, last)) {
                __threadfence();
                sum_slices(item);
                __threadfence();
                __syncwarp();
                if (lane == 0) {
                    atomicAdd(part.flags + kReady, 1u);
                }
            }
        }
    }

   private:
    __device__ __forceinline__ uint64_t members(int index) const {
        const int lane = threadIdx.x % 32;
        uint64_t rows = 0;
#pragma unroll
        for (int half = 0; half < (Tokens + 31) / 32; ++half) {
            const int row = 32 * half + lane;
            const bool member = row < part.rows && lists.place(p.rows.per_row, row, index) >= 0;
            rows |= static_cast<uint64_t>(__ballot_sync(~0u, member)) << 32 * half;
        }
        return rows;
    }

    // acc = lora_A (16, slice) * x (tokens, slice)^T
    __device__ __forceinline__ void multiply(Accumulator<16, Tokens>& acc, const Item& item,
                                             int slice) const {
        const int k0 = slice * kSliceColumns;
        const int columns = min(kSliceColumns, p.k - k0);
        const int steps = (columns + kDepth - 1) / kDepth;
        const ProductByRows<T, ATile, XTile> product(0, 0);
        int read = 0, write = Stages - 1;
#pragma unroll 1
        for (int step = 1 - Stages; step < steps; ++step) {
            const int next = step + Stages - 1;
            if (step >= 0) {
                ptx::cp_async_wait<Stages - 2>();
                __syncwarp();
            } else {
                write = next;
            }
            if (next < steps) {
                issue(item, k0 + next * kDepth, memory + write * kStageBytes);
            }
            ptx::cp_async_commit();
            if (step >= 0) {
                const uint32_t a = memory + read * kStageBytes;
#pragma unroll
                for (int column = 0; column < kDepth; column += 32) {
                    product.add_to(acc, a, a + ATile::kBytes, column * kSize<T>, KeepAllRows{});
                }
                read = read + 1 == Stages ? 0 : read + 1;
            }
            write = write + 1 == Stages ? 0 : write + 1;
        }
        ptx::cp_async_wait<0>();
        __syncwarp();
    }

    // Brings the columns of a step: of lora_A the group's rows, of x those that have the adapter.
    // All else is zero.
    __device__ __forceinline__ void issue(const Item& item, int k0, uint32_t stage) const {
        const int lane = threadIdx.x % 32;
        const int column = k0 + lane % kChunks * kChunk<T>;
        const int inside = max(0, min(p.k - column, kChunk<T>));
        const bool f32 = p.rows.adapter_f32 != 0 || std::is_same_v<T, float>;
        const bool by_copy = (item.adapter.flags & kEntryAVectorised) != 0;
        const int size = f32 ? static_cast<int>(sizeof(float)) : kSize<T>;
        const uint8_t* const a = static_cast<const uint8_t*>(item.adapter.lora_a);
#pragma unroll
        for (int row = lane / kChunks; row < kGroupRanks; row += 32 / kChunks) {
            const int rank = item.group.rank0 + row;
            const int valid = rank < item.rank ? inside : 0;
            const uint32_t to = stage + ATile::chunk_offset(row, lane % kChunks) * kSize<T>;
            const uint8_t* const from = valid > 0 ? a + rank * item.adapter.a_stride * size : a;
            if (by_copy) {
                ptx::cp_async_16(to, from + (valid > 0 ? column * kSize<T> : 0), valid * kSize<T>);
            } else {
#pragma unroll
                for (int quad = 0; quad < kChunk<T>; quad += 4) {
                    store_shared_quad<T>(
                        to + quad * kSize<T>,
                        load_adapter_quad<T>(from, column + quad, valid - quad, f32, false));
                }
            }
        }
        const T* const x = static_cast<const T*>(p.x);
#pragma unroll
        for (int row = lane / kChunks; row < Tokens; row += 32 / kChunks) {
            const int valid = (item.members >> row & 1) != 0 ? inside : 0;
            const uint32_t to =
                stage + ATile::kBytes + XTile::chunk_offset(row, lane % kChunks) * kSize<T>;
            const T* const from = valid > 0 ? x + (part.row0 + row) * p.x_stride + column : x;
            if constexpr (Vectorised) {
                ptx::cp_async_16(to, from, valid * kSize<T>);
            } else {
                ptx::store_shared(to, gather_chunk(from, valid));
            }
        }
    }

    // Calls f(value, row, column of S) for every value of this lane that belongs to a row with the
    // adapter.
    template <typename F>
    __device__ __forceinline__ void for_each(Accumulator<16, Tokens>& acc, const Item& item,
                                             F&& f) const {
        const int lane = threadIdx.x % 32;
        const int per_row = p.rows.per_row, projection = item.group.projection;
#pragma unroll
        for (int j = 0; j < Tokens / 8; ++j) {
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
                const int row = 8 * j + lane % 4 * 2 + odd;
                if ((item.members >> row & 1) == 0) {
                    continue;
                }
                const int place = lists.place(per_row, row, item.group.index);
                const int first = p.rows.s_first[projection] + place * p.rows.s_rank[projection] +
                                  item.group.rank0 + lane / 4;
                f(acc.value[0][j][odd], row, first);
                f(acc.value[0][j][2 + odd], row, first + 8);
            }
        }
    }

    __device__ __forceinline__ void store_slice(Accumulator<16, Tokens>& acc, const Item& item,
                                                int slice) const {
        float* const to =
            part.s_partial + static_cast<int64_t>(slice) * part.rows * p.rows.s_stride;
        for_each(acc, item, [&](float value, int row, int column) {
            to[static_cast<int64_t>(row) * p.rows.s_stride + column] = value;
        });
    }

    __device__ __forceinline__ void sum_slices(const Item& item) const {
        Accumulator<16, Tokens> unused;
        T* const s = static_cast<T*>(p.s) + part.row0 * p.rows.s_stride;
        const int64_t slice_stride = static_cast<int64_t>(part.rows) * p.rows.s_stride;
        const int projection = item.group.projection;
        for_each(unused, item, [&](float, int row, int column) {
            const int64_t at = static_cast<int64_t>(row) * p.rows.s_stride + column;
            float sum = 0.0f;
            for (int slice = 0; slice < p.slices; ++slice) {
                sum += __ldcg(part.s_partial + slice * slice_stride + at);
            }
            const int rank = (column - p.rows.s_first[projection]) % p.rows.s_rank[projection];
            s[at] = from_float<T>(rank < item.rank ? sum : 0.0f);
        });
    }
};

}  // namespace decode
