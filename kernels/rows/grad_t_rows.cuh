// T = factor * dy * B of every row's adapters, rounded once: a block per 64 rows, projection and 64
// ranks goes through the adapters of its rows. The first block lists those of the whole batch for
// the launch that follows, and says whether a row names one that isn't there or has wrong ranks.
#pragma once
#include "common/adapter.cuh"
#include "common/table.cuh"
#include "rows/grad_params.cuh"
#include "rows/members.cuh"
#include "skinny/pipeline.cuh"
#include "skinny/warp_product.cuh"

template <typename T, typename Shape, Access A>
struct GradTRows {
    static constexpr int kThreads = Shape::kThreads;
    static constexpr int kRows = Shape::kRows, kRanks = Shape::kRanks, kDepth = Shape::kDepth;
    static constexpr int kBlockRows = kRows, kBlockColumns = kRanks;
    static constexpr int kStages = Shape::kStages;
    static_assert(kThreads / 32 * 16 == kRows, "every warp has 16 rows");

    using DyTile = Tile<T, kRows, kDepth>;
    using BTile = Tile<T, kDepth, kRanks>;  // lora_B (n, r)
    static constexpr int kStageBytes = DyTile::kBytes + BTile::kBytes;
    static constexpr int kBitWords = kStages * kStageBytes / 4;  // a bit for every slot
    static constexpr int kSharedBytes = kStages * kStageBytes + kThreads / 32 * 4;

    __device__ static void run(const RowsGradParams& p) {
        zero_counters<kThreads>(p.counters, p.counter_count);
        if (blockIdx.x == 0) {
            list_adapters(p);
            return;
        }
        int block = static_cast<int>(blockIdx.x) - 1;
        const int rank0 = block % p.rank_tiles * kRanks;
        block /= p.rank_tiles;
        const int projection = block % p.projections;
        const int row0 = block / p.projections * kRows;
        if (rank0 >= p.rows.s_rank[projection]) {
            return;
        }
        int* const words = reinterpret_cast<int*>(block_memory() + kStages * kStageBytes);
        const int count = min(kRows, p.m - row0);
        int slot = -1;
        for (;;) {
            slot = rows::next_slot<kThreads>(p.rows, p.projections, row0, count, slot, words);
            if (slot == rows::kNoSlot) {
                return;
            }
            const int rank = rows::rank_of(p.rows, p.projections, slot, projection);
            if (rank0 < rank) {
                adapter(p, projection, row0, slot, rank, rank0);
            }
        }
    }

   private:
    __device__ __forceinline__ static void adapter(const RowsGradParams& p, int projection,
                                                   int row0, int slot, int rank, int rank0) {
        const RowsGradProjection& layer = p.projection[projection];
        const AdapterEntry& of = rows::entry(p.rows, p.projections, slot, projection);
        const AdapterMatrix b{
            of.lora_b, of.b_stride, 0, rank, (of.flags & kEntryBVectorised) != 0 ? 1 : 0,
            of.scaling};
        const Source<T> dy{static_cast<const T*>(layer.dy), layer.dy_stride, p.m, layer.n};
        const uint32_t memory = ptx::shared_address(block_memory());
        const auto dy_tile = [&](int stage) {
            return DyTile{reinterpret_cast<T*>(block_memory() + stage * kStageBytes)};
        };
        const auto b_tile = [&](int stage) {
            return BTile{
                reinterpret_cast<T*>(block_memory() + stage * kStageBytes + DyTile::kBytes)};
        };
        const int warp_row = threadIdx.x / 32 * 16;
        const ProductOfRows<T, DyTile, BTile> product(warp_row, 0);
        Accumulator<16, kRanks> acc;
        acc.clear();
        pipeline<kStages>((layer.n + kDepth - 1) / kDepth, [&](int step, int stage) {
            load_tile<kThreads>(dy_tile(stage), dy, row0, step * kDepth, layer.dy_vectorised != 0);
            load_adapter_tile<kThreads>(b_tile(stage), b, p.rows.adapter_f32 != 0, layer.n, rank,
                                        step * kDepth, rank0);
        }, [](int, int) {}, [&](int, int stage) {
            const uint32_t at = memory + stage * kStageBytes;
            product.add_to(acc, at, at + DyTile::kBytes);
        });

        const int lane = threadIdx.x % 32;
        const int end = min(padded_rank(rank) - rank0, kRanks);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = row0 + warp_row + 8 * half + lane / 4;
            if (row >= p.m) {
                continue;
            }
            const rows::Member member = rows::member(p.rows, row, slot);
            if (member.place < 0) {
                continue;
            }
            const float factor = of.scaling * member.weight;
            T* const t = static_cast<T*>(p.t) + static_cast<int64_t>(row) * p.rows.s_stride +
                         p.rows.s_first[projection] + member.place * p.rows.s_rank[projection] +
                         rank0;
#pragma unroll
            for (int j = 0; j < kRanks / 8; ++j) {
                const int column = 8 * j + lane % 4 * 2;
                const float* const value = acc.value[0][j] + 2 * half;
                // Whatever dy holds: what lies between the rank and its padding is zero.
                const float first = rank0 + column < rank ? factor * value[0] : 0.0f;
                const float second = rank0 + column + 1 < rank ? factor * value[1] : 0.0f;
                if (column < end) {
                    store_pair(t + column, first, second);
                }
            }
        }
    }

    // The slots that rows name, ascending: a bit in shared memory for each of as many slots as fit
    // at a time.
    __device__ __forceinline__ static void list_adapters(const RowsGradParams& p) {
        uint32_t* const bits = reinterpret_cast<uint32_t*>(block_memory());
        constexpr int kSlots = 32 * kBitWords;
        int found = 0;
#pragma unroll 1
        for (int slot0 = 0; slot0 < p.rows.slots; slot0 += kSlots) {
            const int words = min((p.rows.slots - slot0 + 31) / 32, kBitWords);
            __syncthreads();
            for (int i = threadIdx.x; i < words; i += kThreads) {
                bits[i] = 0;
            }
            __syncthreads();
            const int64_t places = static_cast<int64_t>(p.m) * p.rows.per_row;
#pragma unroll 1
            for (int64_t i = threadIdx.x; i < places; i += kThreads) {
                const int slot = rows::named(p.rows, static_cast<int>(i / p.rows.per_row),
                                             static_cast<int>(i % p.rows.per_row));
                if (slot < 0) {
                    continue;
                }
                if (!rows::exists(p.rows, p.projections, slot)) {
                    if (p.rows.wrong != nullptr) {
                        atomicOr(p.rows.wrong, 1u);
                    }
                } else if (slot >= slot0 && slot - slot0 < kSlots) {
                    atomicOr(bits + (slot - slot0) / 32, 1u << (slot - slot0) % 32);
                }
            }
            if (p.rows.slot == nullptr && threadIdx.x == 0) {
                atomicOr(bits, 1u);  // also of a batch without rows
            }
            __syncthreads();
            if (threadIdx.x < 32) {
                found = list_bits(p, bits, words, slot0, found);
            }
        }
        if (threadIdx.x == 0) {
            p.adapters[0] = found;
        }
    }

    // By one warp. Returns how many adapters are listed now.
    __device__ __forceinline__ static int list_bits(const RowsGradParams& p, const uint32_t* bits,
                                                    int words, int slot0, int found) {
        const int lane = threadIdx.x;
#pragma unroll 1
        for (int word0 = 0; word0 < words; word0 += 32) {
            uint32_t word = word0 + lane < words ? bits[word0 + lane] : 0;
            int end = __popc(word);  // of this lane's slots, among those of all
#pragma unroll
            for (int lanes = 1; lanes < 32; lanes *= 2) {
                const int before = __shfl_up_sync(~0u, end, lanes);
                end += lane >= lanes ? before : 0;
            }
            int at = found + end - __popc(word);
            while (word != 0) {
                const int slot = slot0 + (word0 + lane) * 32 + __ffs(word) - 1;
                p.adapters[1 + at] = slot;
                if (p.rows.wrong != nullptr &&
                    !rows::has_sound_ranks(p.rows, p.projections, slot)) {
                    atomicOr(p.rows.wrong, 1u);
                }
                word &= word - 1;
                ++at;
            }
            found += __shfl_sync(~0u, end, 31);
        }
        return found;
    }
};
