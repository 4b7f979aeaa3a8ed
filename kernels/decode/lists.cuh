// The adapters that the rows of a batch go through, each once, and the groups of 16 ranks that they
// have. One warp of every block finds them anew, from the rows' lists and the table.
#pragma once
#include "common/accumulator.cuh"
#include "decode/part.cuh"
#include "rows/members.cuh"

namespace decode {

using rows::entry;
using rows::rank_of;

inline constexpr int kMaxTokens = 64;
inline constexpr int kMaxPlaces = kMaxTokens * kMaxRowAdapters;
inline constexpr int kGroupRanks = kMmaK;

// A group of 16 ranks of an adapter in a projection
struct Group {
    int projection;
    int index;  // of its slot among the distinct ones
    int rank0;  // its first rank
};

// In shared memory
struct Lists {
    int count;                             // of distinct slots
    int first_group[kMaxProjections + 1];  // of each projection, among the groups of all
    int slot[kMaxPlaces];                  // the distinct ones, ascending
    int named[kMaxPlaces];      // (rows, per_row): the slots as the rows name them, or -1
    float weight[kMaxPlaces];   // (rows, per_row)
    int16_t index[kMaxPlaces];  // (rows, per_row): into `slot`, or -1
    // (projections, slots): the groups of a projection up to those of this slot, included
    uint16_t group_end[kMaxProjections][kMaxPlaces];

    __device__ __forceinline__ int groups(int projections) const {
        return first_group[projections];
    }

    // Of a projection
    __device__ __forceinline__ int groups_of(int projection) const {
        return first_group[projection + 1] - first_group[projection];
    }

    // Group `number` of a projection
    __device__ __forceinline__ Group group_of(int projection, int number) const {
        int low = 0, high = count - 1;
        while (low < high) {
            const int middle = (low + high) / 2;
            if (group_end[projection][middle] > number) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        const int before = low > 0 ? group_end[projection][low - 1] : 0;
        return {projection, low, (number - before) * kGroupRanks};
    }

    // Group `number` of all
    __device__ __forceinline__ Group group(int number) const {
        int projection = 0;
        while (number >= first_group[projection + 1]) {
            ++projection;
        }
        return group_of(projection, number - first_group[projection]);
    }

    // The first place of a row's list that names a distinct slot, or -1
    __device__ __forceinline__ int place(int per_row, int row, int of) const {
        int found = -1;
        for (int i = per_row - 1; i >= 0; --i) {
            found = index[row * per_row + i] == of ? i : found;
        }
        return found;
    }

    // The sum of the weights with which a row names a distinct slot; 0 if it doesn't
    __device__ __forceinline__ float weight_of(int per_row, int row, int of) const {
        float sum = 0.0f;
        for (int i = 0; i < per_row; ++i) {
            const int at = row * per_row + i;
            sum += index[at] == of ? weight[at] : 0.0f;
        }
        return sum;
    }
};

// Of the rows of a part, by one warp
__device__ __forceinline__ void find_lists(const RowAdapterParams& rows, const Part& part,
                                           int projections, Lists& lists) {
    const int lane = threadIdx.x % 32;
    const int places = part.rows * rows.per_row;
    const int64_t first_place = part.row0 * rows.per_row;
    const bool says_wrong = rows.wrong != nullptr && part.block == 0;
    for (int i = lane; i < places; i += 32) {
        int slot = rows.slot == nullptr ? 0 : rows.slot[first_place + i];
        const float weight = rows.weight == nullptr ? 1.0f : rows.weight[first_place + i];
        slot = slot < 0 || weight == 0.0f ? -1 : slot;
        const bool wrong = slot >= 0 && !rows::exists(rows, projections, slot);
        if (wrong && says_wrong) {
            atomicOr(rows.wrong, 1u);
        }
        slot = wrong ? -1 : slot;
        lists.named[i] = slot;
        lists.weight[i] = weight;
    }
    __syncwarp();

    // A place is the head of its slot if none before it names the same. Heads are marked by an
    // index of 0, others by -1, until the indices are known.
    int count = 0;
    for (int base = 0; base < places; base += 32) {
        const int i = base + lane;
        const int slot = i < places ? lists.named[i] : -1;
        bool head = slot >= 0;
        for (int j = 0; head && j < i; ++j) {
            head = lists.named[j] != slot;
        }
        if (i < places) {
            lists.index[i] = head ? 0 : -1;
        }
        count += __popc(__ballot_sync(~0u, head));
    }
    __syncwarp();
    int16_t found[kMaxPlaces / 32];  // of this lane's places
#pragma unroll
    for (int turn = 0; turn < kMaxPlaces / 32; ++turn) {
        const int i = 32 * turn + lane;
        int below = -1;
        if (i < places && lists.named[i] >= 0) {
            const int slot = lists.named[i];
            below = 0;
            for (int j = 0; j < places; ++j) {
                below += lists.index[j] == 0 && lists.named[j] < slot ? 1 : 0;
            }
            if (lists.index[i] == 0) {
                lists.slot[below] = slot;
            }
        }
        found[turn] = static_cast<int16_t>(below);
    }
    __syncwarp();
#pragma unroll
    for (int turn = 0; turn < kMaxPlaces / 32; ++turn) {
        if (32 * turn + lane < places) {
            lists.index[32 * turn + lane] = found[turn];
        }
    }
    __syncwarp();

    int first = 0;
    for (int projection = 0; projection < projections; ++projection) {
        int before = 0;
        for (int base = 0; base < count; base += 32) {
            const int i = base + lane;
            int end = 0;
            if (i < count) {
                const int slot = lists.slot[i];
                const int rank = rank_of(rows, projections, slot, projection);
                if (says_wrong && rank != entry(rows, projections, slot, projection).rank) {
                    atomicOr(rows.wrong, 1u);
                }
                end = padded_rank(rank) / kGroupRanks;
            }
#pragma unroll
            for (int step = 1; step < 32; step *= 2) {
                const int lower = __shfl_up_sync(~0u, end, step);
                end += lane >= step ? lower : 0;
            }
            if (i < count) {
                lists.group_end[projection][i] = static_cast<uint16_t>(before + end);
            }
            before += __shfl_sync(~0u, end, 31);
        }
        if (lane == 0) {
            lists.first_group[projection] = first;
        }
        first += before;
    }
    if (lane == 0) {
        lists.first_group[projections] = first;
        lists.count = count;
    }
    __syncwarp();
}

}  // namespace decode
