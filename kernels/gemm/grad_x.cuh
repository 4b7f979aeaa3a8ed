// dx = sum over projections of dy * W + keep_scale * mask o (T * A): the low-rank steps first,
// masked in the accumulator, then the main loops on top. The last blocks of the grid sum dA, whose
// partials grad_a left.
#pragma once
#include "common/mask_origin.cuh"
#include "common/reduce.cuh"
#include "gemm/gemm.cuh"

template <typename T, typename Shape, Access A>
struct GradX {
    using G =
        Gemm<T, Shape, A == Access::kVectorisedKn ? Major::kK : Major::kMN, A != Access::kAny>;
    using Loop = typename G::Loop;
    using LoraTile = Tile<T, G::kBlockK, G::kBlockN>;  // lora_A (r, k)
    static constexpr int kBlockRows = G::kBlockM, kBlockColumns = G::kBlockN;
    static constexpr int kThreads = G::kThreads, kSharedBytes = G::kSharedBytes;

    __device__ static void run(const DrawnGradXParams& p) {
        // The last blocks have another job.
        if (blockIdx.x >= blocks(p)) {
            reduce_partials<T, kThreads>(p.reduce_a, blockIdx.x - blocks(p));
            return;
        }
        Loop loop;
        Steps steps{p, blockIdx.x};
        for (;; steps.index += blocks(p)) {
            // Prologue: the first steps of this work item are issued.
            const bool more = steps.index < work_items(p.schedule);
            int base_steps = 0;
            if (more) {
                base_steps = steps.start();
                loop.prologue(steps);
            }
            // Combine and epilogue of the item before, whose sums wait in the accumulators: its
            // stores overlap with the first copies of this one.
            if (steps.index >= blocks(p)) {
                store(p, loop.acc, item_at(p, steps.index - blocks(p)));
            }
            if (!more) {
                return;
            }
            // Low-rank steps: T * A of every projection, then the mask.
            loop.acc.clear();
            const WorkItem item = steps.item();
            if (item.k_slice == 0) {
                low_rank(p, loop, steps);
                drop(p, loop.acc, item.row0 + Loop::warp_row(), item.column0 + Loop::warp_column());
            }
            // Main loop and tail: dy * W of every projection.
            G::run(loop, steps, base_steps);
            loop.end();
        }
    }

   private:
    // Blocks that multiply.
    __device__ __forceinline__ static uint32_t blocks(const DrawnGradXParams& p) {
        return gridDim.x - p.reduce_a.blocks;
    }

    __device__ __forceinline__ static WorkItem item_at(const DrawnGradXParams& p, uint32_t index) {
        int tile_column;
        WorkItem item = work_item<G::kBlockM>(p.schedule, index, blocks(p), tile_column);
        item.column0 = tile_column * G::kBlockN;
        return item;
    }

    __device__ __forceinline__ static int lora_steps(const GradXProjection& layer) {
        return round_up(layer.lora_a.r, G::kBlockK) / G::kBlockK;
    }

    // Issues the steps of one work item in order: those of T * A of every projection, then those of
    // dy * W of every projection.
    struct Steps {
        const DrawnGradXParams& p;
        uint32_t index;  // of the work item
        int lora_next;   // the step of all T * A that is issued next
        int projection;  // the one whose dy * W is issued
        typename G::BaseProducer base;

        __device__ __forceinline__ WorkItem item() const {
            WorkItem item = item_at(p, index);
            item.projection = projection;
            return item;
        }

        // dy (m, n)
        __device__ __forceinline__ Operand<T> dy(const WorkItem& item) const {
            const GradXProjection& layer = p.projection[item.projection];
            return {static_cast<const T*>(layer.dy), layer.dy_stride, p.m, layer.n, true};
        }

        // The weight, (n, k) or (k, n)
        __device__ __forceinline__ Operand<T> weight(const WorkItem& item) const {
            const GradXProjection& layer = p.projection[item.projection];
            return {static_cast<const T*>(layer.weight), layer.weight_stride, p.k, layer.n,
                    G::b_k_major(p.weight_transposed != 0)};
        }

        // Returns the steps of dy * W of all projections.
        __device__ __forceinline__ int start() {
            int base_steps = 0;
#pragma unroll 1
            for (projection = p.projections; projection > 0;) {
                --projection;
                start_projection();
                base_steps += base.count();
            }
            lora_next = 0;
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

        // The next step of any kind, if one is left.
        __device__ __forceinline__ void operator()(uint32_t stage) {
            if (issue_lora(stage)) {
                return;
            }
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

        // The next step of T * A. False if all are issued.
        __device__ __forceinline__ bool issue_lora(uint32_t stage) {
            int before = 0;
#pragma unroll 1
            for (int adapter = 0; adapter < p.projections; ++adapter) {
                const GradXProjection& layer = p.projection[adapter];
                const int rank = (lora_next - before) * G::kBlockK;
                if (rank >= layer.lora_a.r) {
                    before += lora_steps(layer);
                    continue;
                }
                const WorkItem at = item();
                if (at.k_slice != 0) {
                    return false;
                }
                const Source<T> t{static_cast<const T*>(p.t) + layer.lora_a.rank0, p.ranks, p.m,
                                  padded_rank(layer.lora_a.r)};  // (m, r_pad)
                load_tile<kThreads>(Loop::a_tile(stage), t, at.row0, rank, true);
                load_adapter_tile<kThreads>(Loop::template b_tile<LoraTile>(stage), layer.lora_a,
                                            p.adapter_f32 != 0, layer.lora_a.r, p.k, rank,
                                            at.column0);
                ++lora_next;
                return true;
            }
            return false;
        }
    };

    // acc = sum over projections of T * A
    __device__ __forceinline__ static void low_rank(const DrawnGradXParams& p, Loop& loop,
                                                    Steps& steps) {
#pragma unroll 1
        for (int i = 0; i < p.projections; ++i) {
#pragma unroll 1
            for (int depth = padded_rank(p.projection[i].lora_a.r); depth > 0;
                 depth -= G::kBlockK) {
                loop.template plain_step<Major::kMN, LoraTile>(min(depth, G::kBlockK), steps);
            }
        }
    }

    // acc = keep_scale * mask o acc, for the warp's part of dx that begins at (row0, column0)
    __device__ __forceinline__ static void drop(const DrawnGradXParams& p, typename G::Acc& acc,
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

    __device__ __forceinline__ static void store(const DrawnGradXParams& p, typename G::Acc& acc,
                                                 const WorkItem& item) {
        if (!G::combine(acc, p.schedule, item)) {
            return;
        }
        const Output<T> dx{static_cast<T*>(p.dx),    p.dx_stride,      p.m, p.k,
                           p.output_vectorised != 0, p.accumulate != 0};  // (m, k)
        G::Finish::store(acc, G::staging(), dx, item.row0 + Loop::warp_row(),
                         item.column0 + Loop::warp_column(), nullptr);
    }
};
