// The low-rank steps of a tile: a stage of the ring holds S and lora_B of up to 64 ranks of one
// adapter, and a header beside the ring says which rows have it.
#pragma once
#include "common/accumulator.cuh"
#include "common/adapter.cuh"
#include "gemm/sm90/producer.cuh"
#include "rows/members.cuh"

namespace sm90 {

inline constexpr int kProducersBarrier = 4;  // of the producer's warpgroup

// What the consumers of a low-rank step are told. It belongs to its stage, like the operands.
template <int Rows>
struct StepHeader {
    float factor[Rows];           // scaling times weight; 0 where a row hasn't the adapter
    uint32_t members[Rows / 32];  // bit i of word w: row 32 * w + i has it
    uint32_t groups;              // of 16 ranks; 0 tells that the tile has no further step
    uint32_t pad[3];
};

// The warpgroup that fills the stages of low-rank steps. A thread stands for a row of the tile, and
// knows its adapters. Copies of `kAhead` steps are under way while the next is issued.
//
// Copies by threads take any address, and any rank: no tensor map knows the matrices of a table. A
// thread's copies, and its plain stores, are ordered before the products by its own proxy fence.
// Then the warpgroup meets, and one thread arrives for all.
template <typename G, typename Headers>
struct AdapterSteps {
    using T = typename G::T;
    static constexpr int kRows = G::kBlockM;
    static constexpr int kWarps = kWarpgroup / 32;
    static constexpr int kAhead = 2;
    static constexpr int kGroupRanks = kMmaK;
    static_assert(kRows == kWarpgroup, "a thread for every row of the tile");
    static_assert(kAhead < G::kStages, "a step waits for those that are under way");
    using STile = Tile<T, kRows, G::kBlockK>;
    using LoraTile = Tile<T, G::kBlockN, G::kBlockK>;  // lora_B (n, r)

    const RowAdapterParams& rows;
    const T* s;  // (m, s_stride)
    int m, projections;
    Ring<G> ring;
    uint32_t turn = 0;  // of `words`

    // This thread's row: the slots it names that have this projection, or -1, with their weights
    int slot[kMaxRowAdapters];
    float weight[kMaxRowAdapters];

    __device__ __forceinline__ AdapterSteps(const RowAdapterParams& rows_, const void* s_, int m_,
                                            int projections_)
        : rows(rows_), s(static_cast<const T*>(s_)), m(m_), projections(projections_) {}

    // Leaves out `stages`, which someone else fills.
    __device__ __forceinline__ void skip(int stages) {
        const uint32_t at = ring.stage + stages;
        ring.parity ^= at / G::kStages & 1;
        ring.stage = at % G::kStages;
    }

    // Fills the steps of all adapters of the tile's rows, in ascending order of their slots, and
    // the last one, which only says so. All stages before have been asked for when warp 0 calls
    // this; the other warps may come earlier.
    __device__ __forceinline__ void fill(int projection, int n, int row0, int column0) {
        find_row(projection, row0 + thread());
        Ring<G> behind = ring;  // the first step that is still under way
        int pending = 0;
        int next = next_slot(-1);
#pragma unroll 1
        while (next != rows::kNoSlot) {
            const Adapter adapter(*this, projection, next);
#pragma unroll 1
            for (int rank0 = 0; rank0 < adapter.rank; rank0 += G::kBlockK) {
                ptx::mbarrier_wait(ring.empty(ring.stage), ring.parity ^ 1);
                issue(adapter, projection, n, row0, column0, rank0);
                ptx::cp_async_commit();
                ring.advance();
                if (++pending > kAhead) {
                    meet<kAhead>();
                    arrive(behind, 1);
                    --pending;
                }
            }
            next = next_slot(next);
        }
        meet<0>();
        arrive(behind, pending);
        if (thread() == 0) {
            ptx::mbarrier_wait(ring.empty(ring.stage), ring.parity ^ 1);
            Headers::at(ring.stage).groups = 0;
            arrive(behind, 1);
        }
        ring.advance();
    }

   private:
    struct Adapter {
        const void* b;  // (n, rank)
        int64_t stride;
        int rank;
        bool by_copy;
        int place;     // where this thread's row names it, or -1
        float factor;  // of this thread's row

        __device__ __forceinline__ Adapter(const AdapterSteps& of, int projection, int at) {
            const AdapterEntry& entry = rows::entry(of.rows, of.projections, at, projection);
            b = entry.lora_b;
            stride = entry.b_stride;
            rank = rows::rank_of(of.rows, of.projections, at, projection);
            by_copy = (entry.flags & kEntryBVectorised) != 0;
            place = -1;
            float sum = 0.0f;
#pragma unroll
            for (int i = kMaxRowAdapters - 1; i >= 0; --i) {
                place = of.slot[i] == at ? i : place;
            }
#pragma unroll
            for (int i = 0; i < kMaxRowAdapters; ++i) {
                sum += of.slot[i] == at ? of.weight[i] : 0.0f;
            }
            factor = place < 0 ? 0.0f : entry.scaling * sum;
            place = factor != 0.0f ? place : -1;
        }
    };

    __device__ __forceinline__ static int thread() { return threadIdx.x % kWarpgroup; }
    __device__ __forceinline__ static int lane() { return threadIdx.x % 32; }
    __device__ __forceinline__ static int warp() { return threadIdx.x % kWarpgroup / 32; }

    __device__ __forceinline__ void find_row(int projection, int row) {
#pragma unroll
        for (int i = 0; i < kMaxRowAdapters; ++i) {
            slot[i] = -1;
            weight[i] = 1.0f;
            if (row < m && i < rows.per_row) {
                const int64_t at = static_cast<int64_t>(row) * rows.per_row + i;
                slot[i] = rows.slot == nullptr ? 0 : rows.slot[at];
                weight[i] = rows.weight == nullptr ? 1.0f : rows.weight[at];
            }
        }
#pragma unroll
        for (int i = 0; i < kMaxRowAdapters; ++i) {
            if (slot[i] >= 0) {
                const bool has = weight[i] != 0.0f && rows::exists(rows, projections, slot[i]) &&
                                 rows::rank_of(rows, projections, slot[i], projection) > 0;
                slot[i] = has ? slot[i] : -1;
            }
        }
    }

    // The least slot above `after` that a row of the tile has, or kNoSlot
    __device__ __forceinline__ int next_slot(int after) {
        int least = rows::kNoSlot;
#pragma unroll
        for (int i = 0; i < kMaxRowAdapters; ++i) {
            least = slot[i] > after ? min(least, slot[i]) : least;
        }
        least = __reduce_min_sync(~0u, least);
        // Two sets in turn: nobody writes to one before all have left the barrier behind which it
        // was read.
        int* const words = Headers::words(turn);
        turn ^= 1;
        if (lane() == 0) {
            words[warp()] = least;
        }
        ptx::barrier_sync(kProducersBarrier, kWarpgroup);
#pragma unroll
        for (int i = 0; i < kWarps; ++i) {
            least = min(least, words[i]);
        }
        return least;
    }

    // The warpgroup's copies of all but the `Pending` youngest steps are there, for products too.
    template <int Pending>
    __device__ __forceinline__ static void meet() {
        ptx::cp_async_wait<Pending>();
        ptx::fence_proxy_async();
        ptx::barrier_sync(kProducersBarrier, kWarpgroup);
    }

    __device__ __forceinline__ static void arrive(Ring<G>& behind, int steps) {
#pragma unroll 1
        for (; steps > 0; --steps) {
            if (thread() == 0) {
                ptx::mbarrier_arrive_expect(behind.full(behind.stage), 0);
            }
            behind.advance();
        }
    }

    // One step: ranks rank0.. of an adapter. Rows without it are zeros.
    __device__ __forceinline__ void issue(const Adapter& adapter, int projection, int n, int row0,
                                          int column0, int rank0) const {
        const int depth = padded_rank(min(adapter.rank - rank0, G::kBlockK));
        const uint32_t data = ring.data(ring.stage);
        auto& header = Headers::at(ring.stage);
        header.factor[thread()] = adapter.factor;
        const uint32_t members = __ballot_sync(~0u, adapter.place >= 0);
        if (lane() == 0) {
            header.members[warp()] = members;
        }
        if (thread() == 0) {
            header.groups = depth / kGroupRanks;
        }
        // Two lanes bring a row's 16 ranks, a whole sector.
        const int warp_row = warp() * 32;
        const T* const from_s = s + rows.s_first[projection] + rank0;
#pragma unroll 1
        for (int half = 0; half < 32; half += 16) {
            const int row = half + lane() / 2;
            const int place = __shfl_sync(~0u, adapter.place, row);
            const T* const from = from_s + place * rows.s_rank[projection] +
                                  static_cast<int64_t>(row0 + warp_row + row) * rows.s_stride;
#pragma unroll 1
            for (int chunk = lane() % 2; chunk * kChunk<T> < depth; chunk += 2) {
                ptx::cp_async_16(data + STile::chunk_offset(warp_row + row, chunk) * kSize<T>,
                                 place < 0 ? s : from + chunk * kChunk<T>, place < 0 ? 0 : 16);
            }
        }
        copy_b(adapter, data + G::kABytes, n, column0, rank0, depth);
    }

    __device__ __forceinline__ void copy_b(const Adapter& adapter, uint32_t data, int n,
                                           int column0, int rank0, int depth) const {
        constexpr int kWarpColumns = G::kBlockN / kWarps;
        const int size = rows.adapter_f32 != 0 ? static_cast<int>(sizeof(float)) : kSize<T>;
#pragma unroll 1
        for (int i = lane() / 2; i < kWarpColumns; i += 16) {
            const int column = warp() * kWarpColumns + i;
            const bool inside = column0 + column < n;
            const uint8_t* const from = static_cast<const uint8_t*>(adapter.b) +
                                        (inside ? column0 + column : 0) * adapter.stride * size;
#pragma unroll 1
            for (int chunk = lane() % 2; chunk * kChunk<T> < depth; chunk += 2) {
                const int rank = rank0 + chunk * kChunk<T>;
                const int valid = inside ? max(0, min(adapter.rank - rank, kChunk<T>)) : 0;
                const uint32_t to = data + LoraTile::chunk_offset(column, chunk) * kSize<T>;
                if (adapter.by_copy) {
                    ptx::cp_async_16(to, from + (valid > 0 ? rank * kSize<T> : 0),
                                     valid * kSize<T>);
                } else {
                    gather_b(to, from, rank, valid);
                }
            }
        }
    }

    __device__ __forceinline__ void gather_b(uint32_t to, const uint8_t* from, int rank,
                                             int valid) const {
        const bool f32 = rows.adapter_f32 != 0;
        const bool quads = f32 && (reinterpret_cast<uintptr_t>(from) & 15) == 0;
        const float4 low = load_adapter_quad<T>(from, rank, valid, f32, quads);
        const float4 high = load_adapter_quad<T>(from, rank + 4, valid - 4, f32, quads);
        ptx::store_shared(to,
                          make_uint4(pack_pair<T>(low.x, low.y), pack_pair<T>(low.z, low.w),
                                     pack_pair<T>(high.x, high.y), pack_pair<T>(high.z, high.w)));
    }
};

}  // namespace sm90
