// y = x * W^T + bias + sum over a row's adapters of factor * S * B^T, for every projection: the
// main loop in the natural order of the depth, then groups of 16 ranks of every adapter of the
// tile's rows, in ascending order of the slots. A group's product is summed from zero and added by
// one fused multiply-add, to the rows that have the adapter. That is the order of the decode
// kernel, so both give the same bits.
#pragma once
#include "gemm/gemm.cuh"
#include "rows/forward_params.cuh"
#include "rows/members.cuh"

template <typename T, typename Shape, Access A>
struct ForwardRows {
    using G =
        Gemm<T, Shape, A == Access::kVectorisedKn ? Major::kMN : Major::kK, A != Access::kAny>;
    using Loop = typename G::Loop;
    using STile = typename Loop::ATile;                // S (m, r)
    using LoraTile = Tile<T, G::kBlockN, G::kBlockK>;  // lora_B (n, r)
    static constexpr int kBlockRows = G::kBlockM, kBlockColumns = G::kBlockN;
    static constexpr int kThreads = G::kThreads;
    // Behind the stages, for this adapter and for the next: of each row the place of its list that
    // names it, or -1, and its factor; and a word for every warp
    static constexpr int kListOffset = G::kSharedBytes;
    static constexpr int kSharedBytes = kListOffset + (4 * kBlockRows + kThreads / 32) * 4;

    __device__ static void run(const RowsForwardParams& p) {
        Loop loop;
        Steps steps{p, blockIdx.x};
        for (; steps.index < work_items(p.schedule); steps.index += gridDim.x) {
            const WorkItem item = item_at(p, steps.index);
            loop.acc.clear();
            if (p.base != 0) {
                const int base_steps = steps.start();
                loop.prologue(steps);
                G::run(loop, steps, base_steps);
                loop.end();
            }
            const bool any = low_rank(p, loop.acc, item);
            // Without a product, there is nothing to add to a tile without adapters.
            if (any || p.base != 0 || p.accumulate == 0 ||
                p.projection[item.projection].bias != nullptr) {
                store(p, loop.acc, item);
            }
            __syncthreads();
        }
    }

   private:
    __device__ __forceinline__ static WorkItem item_at(const RowsForwardParams& p, uint32_t index) {
        int tile_column;
        WorkItem item = work_item<G::kBlockM>(p.schedule, index, gridDim.x, tile_column);
        while (item.projection + 1 < p.projections &&
               tile_column >= p.projection[item.projection + 1].first_tile) {
            ++item.projection;
        }
        item.column0 = (tile_column - p.projection[item.projection].first_tile) * G::kBlockN;
        item.reversed = false;
        return item;
    }

    // Issues the steps of x * W^T of one work item: the full ones, then the tail.
    struct Steps {
        const RowsForwardParams& p;
        uint32_t index;  // of the work item
        bool tail;       // whether the tail step is still to come
        typename G::BaseProducer base;

        __device__ __forceinline__ WorkItem item() const { return item_at(p, index); }

        // x (m, k)
        __device__ __forceinline__ Operand<T> x() const {
            return {static_cast<const T*>(p.x), p.x_stride, p.m, p.k, true};
        }

        // The weight, (n, k) or (k, n)
        __device__ __forceinline__ Operand<T> weight(const WorkItem& item) const {
            const RowsForwardProjection& layer = p.projection[item.projection];
            return {static_cast<const T*>(layer.weight), layer.weight_stride, layer.n, p.k,
                    G::b_k_major(p.weight_transposed == 0)};
        }

        // Returns how many there are.
        __device__ __forceinline__ int start() {
            const WorkItem at = item();
            base.start(x(), weight(at), at, 1);
            tail = base.tail;
            const int count = base.count();
            base.tail = false;
            return count;
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
            gather_tile<kThreads>(Loop::a_tile(stage), x(), at.row0, k0);
            gather_tile<kThreads>(Loop::b_tile(stage), weight(at), at.column0, k0);
        }

        // The next step, if one is left.
        __device__ __forceinline__ void operator()(uint32_t stage) {
            if (base.full > 0) {
                issue_full(stage);
            } else if (tail) {
                tail = false;
                if constexpr (G::kVectorised) {
                    const WorkItem at = item();
                    base.issue_tail(stage, x(), weight(at), at);
                } else {
                    gather(stage, base.take_tail(p.k));
                }
            }
        }
    };

    // Some ranks of an adapter.
    struct Part {
        int slot;
        int rank;   // of the adapter
        int rank0;  // where they begin
        int list;   // which of the two lists has its rows

        __device__ __forceinline__ bool exists() const { return slot != rows::kNoSlot; }
    };

    struct Lists {
        int* memory;  // (2, 2, kBlockRows) and (warps)

        __device__ __forceinline__ int* places(int list) const {
            return memory + 2 * list * kBlockRows;
        }
        __device__ __forceinline__ float* factors(int list) const {
            return reinterpret_cast<float*>(places(list) + kBlockRows);
        }
        __device__ __forceinline__ int* words() const { return memory + 4 * kBlockRows; }
    };

    // The part that follows. Where it is another adapter's, it makes the list of its rows, which is
    // visible after the next barrier.
    __device__ __forceinline__ static Part next(const RowsForwardParams& p, const Lists& lists,
                                                const WorkItem& item, Part part) {
        part.rank0 += G::kBlockK;
        if (part.rank0 < part.rank) {
            return part;
        }
        const int count = min(G::kBlockM, p.m - item.row0);
        do {
            part.slot = rows::next_slot<kThreads>(p.rows, p.projections, item.row0, count,
                                                  part.slot, lists.words());
            if (!part.exists()) {
                return part;
            }
            part.rank = rows::rank_of(p.rows, p.projections, part.slot, item.projection);
        } while (part.rank <= 0);
        part.rank0 = 0;
        part.list ^= 1;
        const float scaling =
            rows::entry(p.rows, p.projections, part.slot, item.projection).scaling;
        for (int row = threadIdx.x; row < G::kBlockM; row += kThreads) {
            rows::Member member{-1, 0.0f};
            if (row < count) {
                member = rows::member(p.rows, item.row0 + row, part.slot);
            }
            lists.places(part.list)[row] = member.place;
            lists.factors(part.list)[row] = scaling * member.weight;
        }
        return part;
    }

    // acc += factor * S * B^T of every adapter of the tile's rows. Returns whether there is any.
    // No copy is under way before or after it.
    __device__ __forceinline__ static bool low_rank(const RowsForwardParams& p,
                                                    typename G::Acc& acc, const WorkItem& item) {
        const Lists lists{reinterpret_cast<int*>(Loop::stage_data(kListOffset))};
        if (p.rows.s_rank[item.projection] == 0) {
            return false;
        }
        Part part = next(p, lists, item, Part{-1, 0, 0, 0});
        if (!part.exists()) {
            return false;
        }
        uint32_t stage = 0;
        __syncthreads();
        issue(p, item, lists, part, stage);
        ptx::cp_async_commit();
#pragma unroll 1
        while (part.exists()) {
            const Part now = part;
            const uint32_t read = stage;
            part = next(p, lists, item, part);
            __syncthreads();
            Loop::next(stage);
            if (part.exists()) {
                issue(p, item, lists, part, stage);
            }
            ptx::cp_async_commit();
            ptx::cp_async_wait<1>();
            __syncthreads();
            multiply(acc, Loop::a_tile(read), Loop::template b_tile<LoraTile>(read),
                     lists.places(now.list), lists.factors(now.list),
                     min(padded_rank(now.rank) - now.rank0, G::kBlockK));
        }
        ptx::cp_async_wait<0>();
        __syncthreads();
        return true;
    }

    __device__ __forceinline__ static void issue(const RowsForwardParams& p, const WorkItem& item,
                                                 const Lists& lists, const Part& part,
                                                 uint32_t stage) {
        const AdapterEntry& of = rows::entry(p.rows, p.projections, part.slot, item.projection);
        const AdapterMatrix lora_b{
            of.lora_b, of.b_stride, 0, part.rank, (of.flags & kEntryBVectorised) != 0 ? 1 : 0,
            of.scaling};
        const int depth = min(padded_rank(part.rank) - part.rank0, G::kBlockK);
        const int* const places = lists.places(part.list);
        const T* const s = static_cast<const T*>(p.s) +
                           static_cast<int64_t>(item.row0) * p.rows.s_stride +
                           p.rows.s_first[item.projection] + part.rank0;
        const STile s_tile = Loop::a_tile(stage);
        for_each_chunk<kThreads>(s_tile, [&](int row, int chunk) {
            const bool inside = places[row] >= 0 && chunk * kChunk<T> < depth;
            const T* from = static_cast<const T*>(p.s);
            if (inside) {
                from = s + static_cast<int64_t>(row) * p.rows.s_stride +
                       places[row] * p.rows.s_rank[item.projection] + chunk * kChunk<T>;
            }
            ptx::cp_async_16(s_tile.chunk_address(row, chunk), from, inside ? 16 : 0);
        });
        load_adapter_tile<kThreads>(Loop::template b_tile<LoraTile>(stage), lora_b,
                                    p.rows.adapter_f32 != 0, p.projection[item.projection].n,
                                    part.rank, item.column0, part.rank0);
    }

    // acc = factor * (S * B^T) + acc per 16 ranks, in the rows that have a place
    __device__ __forceinline__ static void multiply(typename G::Acc& acc, const STile& s_tile,
                                                    const LoraTile& b_tile, const int* places,
                                                    const float* factors, int depth) {
        constexpr int kWarpM = G::kWarpM, kWarpN = G::kWarpN;
        uint32_t lane = threadIdx.x % 32;
        pin(lane);
        const int row0 = Loop::warp_row(), column0 = Loop::warp_column();
#pragma unroll
        for (int i = 0; i < kWarpM / 16; ++i) {
            const int row = row0 + 16 * i + lane / 4;
            const bool upper = places[row] >= 0, lower = places[row + 8] >= 0;
            const float upper_factor = factors[row], lower_factor = factors[row + 8];
#pragma unroll
            for (int j = 0; j < kWarpN / 16; ++j) {
#pragma unroll 1
                for (int k = 0; k < depth; k += kMmaK) {
                    float part[2][4] = {};
                    multiply_block(part, s_tile, row0 + 16 * i, b_tile, column0 + 16 * j, k, lane);
#pragma unroll
                    for (int e = 0; e < 8; ++e) {
                        float& sum = acc.value[i][2 * j + e / 4][e % 4];
                        const float factor = e % 4 < 2 ? upper_factor : lower_factor;
                        const float more = fmaf(factor, part[e / 4][e % 4], sum);
                        sum = (e % 4 < 2 ? upper : lower) ? more : sum;
                    }
                }
            }
        }
    }

    // part (16, 16) += S (16, 16) * B (16, 16)^T
    __device__ __forceinline__ static void multiply_block(float (&part)[2][4], const STile& s_tile,
                                                          int row, const LoraTile& b_tile,
                                                          int column, int k, int lane) {
        if constexpr (kTensorCore<T>) {
            uint32_t s[4], b[4];
            ptx::ldmatrix_x4(s, s_tile.chunk_address(row + lane % 16, (k + lane / 16 * 8) / 8));
            ptx::ldmatrix_x4(b, b_tile.chunk_address(column + lane % 8 + lane / 16 * 8,
                                                     (k + lane / 8 % 2 * 8) / 8));
            ptx::mma_m16n8k16<T>(part[0], s, b[0], b[1]);
            ptx::mma_m16n8k16<T>(part[1], s, b[2], b[3]);
        } else {
#pragma unroll 1
            for (int d = k; d < k + kMmaK; ++d) {
                const float upper = *s_tile.at(row + lane / 4, d);
                const float lower = *s_tile.at(row + 8 + lane / 4, d);
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const float b = *b_tile.at(column + 8 * (e / 2) + lane % 4 * 2 + e % 2, d);
                    part[e / 2][e % 2] = fmaf(upper, b, part[e / 2][e % 2]);
                    part[e / 2][2 + e % 2] = fmaf(lower, b, part[e / 2][2 + e % 2]);
                }
            }
        }
    }

    __device__ __forceinline__ static void store(const RowsForwardParams& p, typename G::Acc& acc,
                                                 const WorkItem& item) {
        const RowsForwardProjection& layer = p.projection[item.projection];
        const Output<T> y{static_cast<T*>(layer.y),     layer.y_stride,   p.m, layer.n,
                          layer.output_vectorised != 0, p.accumulate != 0};  // (m, n)
        G::Finish::store(acc, G::staging(), y, item.row0 + Loop::warp_row(),
                         item.column0 + Loop::warp_column(), static_cast<const T*>(layer.bias));
    }
};
