// dx = sum over projections of dy * W + keep_scale * mask o (sum over a row's adapters of T * A),
// or the second part alone: the low-rank part first, masked in the accumulator, then the main loops
// on top.
#pragma once
#include "gemm/gemm.cuh"
#include "rows/grad_params.cuh"
#include "rows/members.cuh"

template <typename T, typename Shape, Access A>
struct GradXRows {
    using G =
        Gemm<T, Shape, A == Access::kVectorisedKn ? Major::kK : Major::kMN, A != Access::kAny>;
    using Loop = typename G::Loop;
    static constexpr int kBlockRows = G::kBlockM, kBlockColumns = G::kBlockN;
    static constexpr int kThreads = G::kThreads;
    // Behind the stages: the place of each row's list that names the adapter at hand, or -1, and
    // a word for every warp
    static constexpr int kPlacesOffset = G::kSharedBytes;
    static constexpr int kSharedBytes = kPlacesOffset + (kBlockRows + kThreads / 32) * 4;
    using TTile = typename Loop::ATile;                // T (m, r)
    using LoraTile = Tile<T, G::kBlockK, G::kBlockN>;  // lora_A (r, k)

    __device__ static void run(const RowsGradParams& p) {
        Loop loop;
        Steps steps{p, blockIdx.x};
        for (; steps.index < work_items(p.schedule); steps.index += gridDim.x) {
            loop.acc.clear();
            const WorkItem item = item_at(p, steps.index);
            if (item.k_slice == 0) {
                low_rank(p, loop, item);
                drop(p, loop.acc, item.row0 + Loop::warp_row(), item.column0 + Loop::warp_column());
            }
            if (p.base != 0) {
                const int base_steps = steps.start();
                loop.prologue(steps);
                G::run(loop, steps, base_steps);
                loop.end();
            }
            store(p, loop.acc, item);
            __syncthreads();
        }
    }

   private:
    __device__ __forceinline__ static WorkItem item_at(const RowsGradParams& p, uint32_t index) {
        int tile_column;
        WorkItem item = work_item<G::kBlockM>(p.schedule, index, gridDim.x, tile_column);
        item.column0 = tile_column * G::kBlockN;
        return item;
    }

    // Issues the steps of dy * W of every projection of one work item, in order.
    struct Steps {
        const RowsGradParams& p;
        uint32_t index;  // of the work item
        int projection;  // the one whose dy * W is issued
        typename G::BaseProducer base;

        __device__ __forceinline__ WorkItem item() const {
            WorkItem item = item_at(p, index);
            item.projection = projection;
            return item;
        }

        // dy (m, n)
        __device__ __forceinline__ Operand<T> dy(const WorkItem& item) const {
            const RowsGradProjection& layer = p.projection[item.projection];
            return {static_cast<const T*>(layer.dy), layer.dy_stride, p.m, layer.n, true};
        }

        // The weight, (n, k) or (k, n)
        __device__ __forceinline__ Operand<T> weight(const WorkItem& item) const {
            const RowsGradProjection& layer = p.projection[item.projection];
            return {static_cast<const T*>(layer.weight), layer.weight_stride, p.k, layer.n,
                    G::b_k_major(p.weight_transposed != 0)};
        }

        // Returns the steps of all projections.
        __device__ __forceinline__ int start() {
            int base_steps = 0;
#pragma unroll 1
            for (projection = p.projections; projection > 0;) {
                --projection;
                start_projection();
                base_steps += base.count();
            }
            return base_steps;
        }

        __device__ __forceinline__ void start_projection() {
            const WorkItem at = item();
            base.start(dy(at), weight(at), at, p.schedule.k_slices);
        }

        __device__ __forceinline__ void issue_full(uint32_t stage) {
            if constexpr (G::kVectorised) {
                base.issue_full(stage);
            } else {
                gather(stage, base.take_full());
            }
        }

        // A step of any alignment and layout.
        __device__ __forceinline__ void gather(uint32_t stage, int k0) {
            const WorkItem at = item();
            gather_tile<kThreads>(Loop::a_tile(stage), dy(at), at.row0, k0);
            gather_tile<kThreads>(Loop::b_tile(stage), weight(at), at.column0, k0);
        }

        // The next step, if one is left.
        __device__ __forceinline__ void operator()(uint32_t stage) {
#pragma unroll 1
            while (!issue_base(stage) && projection + 1 < p.projections) {
                ++projection;
                start_projection();
            }
        }

        // The next step of this projection's dy * W. False if all are issued.
        __device__ __forceinline__ bool issue_base(uint32_t stage) {
            if (base.tail) {
                if constexpr (G::kVectorised) {
                    const WorkItem at = item();
                    base.issue_tail(stage, dy(at), weight(at), at);
                } else {
                    gather(stage, base.take_tail(p.projection[projection].n));
                }
                return true;
            }
            if (base.full > 0) {
                issue_full(stage);
                return true;
            }
            return false;
        }
    };

    // acc += T * A of every adapter of the tile's rows, in ascending order of the slots
    __device__ __forceinline__ static void low_rank(const RowsGradParams& p, Loop& loop,
                                                    const WorkItem& item) {
        int* const places = reinterpret_cast<int*>(Loop::stage_data(kPlacesOffset));
        const int count = min(G::kBlockM, p.m - item.row0);
        int slot = -1;
#pragma unroll 1
        for (;;) {
            slot = rows::next_slot<kThreads>(p.rows, p.projections, item.row0, count, slot,
                                             places + kBlockRows);
            if (slot == rows::kNoSlot) {
                return;
            }
            for (int row = threadIdx.x; row < G::kBlockM; row += kThreads) {
                places[row] = row < count ? rows::member(p.rows, item.row0 + row, slot).place : -1;
            }
            __syncthreads();
#pragma unroll 1
            for (int projection = 0; projection < p.projections; ++projection) {
                const int rank = rows::rank_of(p.rows, p.projections, slot, projection);
#pragma unroll 1
                for (int rank0 = 0; rank0 < rank; rank0 += G::kBlockK) {
                    low_rank_step(p, loop, item, places, projection, slot, rank, rank0);
                }
            }
        }
    }

    __device__ __forceinline__ static void low_rank_step(const RowsGradParams& p, Loop& loop,
                                                         const WorkItem& item, const int* places,
                                                         int projection, int slot, int rank,
                                                         int rank0) {
        const AdapterEntry& of = rows::entry(p.rows, p.projections, slot, projection);
        const AdapterMatrix lora_a{
            of.lora_a, of.a_stride, 0, rank, (of.flags & kEntryAVectorised) != 0 ? 1 : 0,
            of.scaling};
        const int depth = min(padded_rank(rank) - rank0, G::kBlockK);
        const T* const t = static_cast<const T*>(p.t) +
                           static_cast<int64_t>(item.row0) * p.rows.s_stride +
                           p.rows.s_first[projection] + rank0;
        const TTile t_tile = Loop::a_tile(0);
        for_each_chunk<kThreads>(t_tile, [&](int row, int chunk) {
            const bool inside = places[row] >= 0 && chunk * kChunk<T> < depth;
            const T* from = static_cast<const T*>(p.t);
            if (inside) {
                from = t + static_cast<int64_t>(row) * p.rows.s_stride +
                       places[row] * p.rows.s_rank[projection] + chunk * kChunk<T>;
            }
            ptx::cp_async_16(t_tile.chunk_address(row, chunk), from, inside ? 16 : 0);
        });
        const LoraTile a_tile = Loop::template b_tile<LoraTile>(0);
        load_adapter_tile<kThreads>(a_tile, lora_a, p.rows.adapter_f32 != 0, rank, p.k, rank0,
                                    item.column0);
        ptx::cp_async_commit();
        ptx::cp_async_wait<0>();
        __syncthreads();
        multiply(loop.acc, t_tile, a_tile, places, depth);
        __syncthreads();
    }

    // acc += T * A for rows with the adapter. The others stay as they are, whatever A holds.
    __device__ __forceinline__ static void multiply(typename G::Acc& acc, const TTile& t_tile,
                                                    const LoraTile& a_tile, const int* places,
                                                    int depth) {
        constexpr int kWarpM = G::kWarpM, kWarpN = G::kWarpN;
        uint32_t lane = threadIdx.x % 32;
        pin(lane);
        const int row0 = Loop::warp_row(), column0 = Loop::warp_column();
#pragma unroll
        for (int i = 0; i < kWarpM / 16; ++i) {
            const bool upper = places[row0 + 16 * i + lane / 4] >= 0;
            const bool lower = places[row0 + 16 * i + 8 + lane / 4] >= 0;
#pragma unroll
            for (int j = 0; j < kWarpN / 16; ++j) {
                float part[2][4] = {};
#pragma unroll 1
                for (int k = 0; k < depth; k += kMmaK) {
                    multiply_block(part, t_tile, row0 + 16 * i, a_tile, column0 + 16 * j, k, lane);
                }
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    float& sum = acc.value[i][2 * j + e / 4][e % 4];
                    sum = (e % 4 < 2 ? upper : lower) ? sum + part[e / 4][e % 4] : sum;
                }
            }
        }
    }

    // part (16, 16) += T (16, 16) * A (16, 16)
    __device__ __forceinline__ static void multiply_block(float (&part)[2][4], const TTile& t_tile,
                                                          int row, const LoraTile& a_tile,
                                                          int column, int k, int lane) {
        if constexpr (kTensorCore<T>) {
            uint32_t t[4], a[4];
            ptx::ldmatrix_x4(t, t_tile.chunk_address(row + lane % 16, (k + lane / 16 * 8) / 8));
            ptx::ldmatrix_x4_trans(
                a, a_tile.chunk_address(k + lane % 16, (column + lane / 16 * 8) / 8));
            ptx::mma_m16n8k16<T>(part[0], t, a[0], a[1]);
            ptx::mma_m16n8k16<T>(part[1], t, a[2], a[3]);
        } else {
#pragma unroll 1
            for (int d = k; d < k + kMmaK; ++d) {
                const float upper = *t_tile.at(row + lane / 4, d);
                const float lower = *t_tile.at(row + 8 + lane / 4, d);
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const float a = *a_tile.at(d, column + 8 * (e / 2) + lane % 4 * 2 + e % 2);
                    part[e / 2][e % 2] = fmaf(upper, a, part[e / 2][e % 2]);
                    part[e / 2][2 + e % 2] = fmaf(lower, a, part[e / 2][2 + e % 2]);
                }
            }
        }
    }

    // acc = keep_scale * mask o acc, for the warp's part of dx that begins at (row0, column0)
    __device__ __forceinline__ static void drop(const RowsGradParams& p, typename G::Acc& acc,
                                                int row0, int column0) {
        if (p.mask_source == MaskSource::kNone) {
            return;
        }
        constexpr int kWordColumns = 64;
        const int lane = threadIdx.x % 32;
        const int word = column0 / kWordColumns;
        const int shift = column0 % kWordColumns + lane % 4 * 2;
        const auto stored = [&](int row) {
            return row < p.m && column0 < p.k ? p.mask[static_cast<int64_t>(word) * p.m + row] : 0;
        };
        acc.for_each_row_pair([&](int row, auto&& for_each_column_pair) {
            const int upper_row = row0 + row + lane / 4;
            const dropout::KeepBits keep =
                p.mask_source == MaskSource::kStored
                    ? dropout::KeepBits{stored(upper_row), stored(upper_row + 8)}
                    : dropout::draw(dropout::seeded(p.dropout, p.origin),
                                    {nullptr, p.origin.row0, p.origin.group0}, row0 + row, word);
            for_each_column_pair([&](int column, float(&value)[4]) {
                const uint32_t upper = static_cast<uint32_t>(keep.upper >> (shift + column));
                const uint32_t lower = static_cast<uint32_t>(keep.lower >> (shift + column));
                value[0] = (upper & 1u) != 0 ? p.dropout.keep_scale * value[0] : 0.0f;
                value[1] = (upper & 2u) != 0 ? p.dropout.keep_scale * value[1] : 0.0f;
                value[2] = (lower & 1u) != 0 ? p.dropout.keep_scale * value[2] : 0.0f;
                value[3] = (lower & 2u) != 0 ? p.dropout.keep_scale * value[3] : 0.0f;
            });
        });
    }

    __device__ __forceinline__ static void store(const RowsGradParams& p, typename G::Acc& acc,
                                                 const WorkItem& item) {
        if (!G::combine(acc, p.schedule, item)) {
            return;
        }
        const Output<T> dx{static_cast<T*>(p.dx), p.dx_stride,         p.m, p.k,
                           p.dx_vectorised != 0,  p.accumulate_dx != 0};  // (m, k)
        G::Finish::store(acc, G::staging(), dx, item.row0 + Loop::warp_row(),
                         item.column0 + Loop::warp_column(), nullptr);
    }
};
