// Which rows go through an adapter, and with which weight.
#pragma once
#include "common/rows.cuh"

namespace rows {

inline constexpr int kNoSlot = 0x7fffffff;  // behind all slots

// Entry (slot, projection) of the table
__device__ __forceinline__ const AdapterEntry& entry(const RowAdapterParams& rows, int projections,
                                                     int slot, int projection) {
    return rows.entries == nullptr
               ? rows.one[projection]
               : rows.entries[static_cast<int64_t>(slot) * projections + projection];
}

// The ranks that an adapter has in a projection. None where the entry has more than the table takes
// or a negative number, which only who writes entries without us can do.
__device__ __forceinline__ int rank_of(const RowAdapterParams& rows, int projections, int slot,
                                       int projection) {
    const int most = rows.s_rank[projection];
    const int rank = most == 0 ? 0 : entry(rows, projections, slot, projection).rank;
    return rank < 0 || rank > most ? 0 : rank;
}

// Whether rank_of took the ranks of a slot as they are
__device__ __forceinline__ bool has_sound_ranks(const RowAdapterParams& rows, int projections,
                                                int slot) {
    bool sound = true;
    for (int projection = 0; projection < projections; ++projection) {
        const int rank = entry(rows, projections, slot, projection).rank;
        sound = sound && rank == rank_of(rows, projections, slot, projection);
    }
    return sound;
}

// Whether a slot that a row names holds an adapter
__device__ __forceinline__ bool exists(const RowAdapterParams& rows, int projections, int slot) {
    return slot < rows.slots && (entry(rows, projections, slot, 0).flags & kEntryPresent) != 0;
}

// The slot that a place of a row's list names, or -1 for none. It need not hold an adapter.
__device__ __forceinline__ int named(const RowAdapterParams& rows, int row, int place) {
    if (rows.slot == nullptr) {
        return 0;
    }
    const int64_t at = static_cast<int64_t>(row) * rows.per_row + place;
    const int slot = rows.slot[at];
    return slot < 0 || (rows.weight != nullptr && rows.weight[at] == 0.0f) ? -1 : slot;
}

// A row's part in an adapter
struct Member {
    int place;     // the first of the row's list that names it, or -1
    float weight;  // of all of them
};

__device__ __forceinline__ Member member(const RowAdapterParams& rows, int row, int slot) {
    Member found{-1, 0.0f};
    for (int place = 0; place < rows.per_row; ++place) {
        if (named(rows, row, place) == slot) {
            found.place = found.place < 0 ? place : found.place;
            found.weight += rows.weight == nullptr
                                ? 1.0f
                                : rows.weight[static_cast<int64_t>(row) * rows.per_row + place];
        }
    }
    return rows.slot == nullptr ? Member{0, 1.0f} : found;
}

// The least slot above `after` that holds an adapter and that any of `count` rows from row0 on
// names, or kNoSlot. All threads of the block call it; `memory` has a word for every warp.
template <int Threads>
__device__ __forceinline__ int next_slot(const RowAdapterParams& rows, int projections, int row0,
                                         int count, int after, int* memory) {
    int least = kNoSlot;
    for (int i = threadIdx.x; i < count * rows.per_row; i += Threads) {
        const int slot = named(rows, row0 + i / rows.per_row, i % rows.per_row);
        if (slot > after && slot < least && exists(rows, projections, slot)) {
            least = slot;
        }
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        least = min(least, __shfl_xor_sync(~0u, least, lanes));
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        memory[threadIdx.x / 32] = least;
    }
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < Threads / 32; ++warp) {
        least = min(least, memory[warp]);
    }
    return least;
}

}  // namespace rows
