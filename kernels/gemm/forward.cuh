// y = x * W^T + bias + scaling * S * B^T for every projection: one GEMM over [x | S] * [W | B]^T,
// the low-rank steps last. They scale their product in f32.
#pragma once
#include "gemm/gemm.cuh"

template <typename T, typename Shape, Access A>
struct Forward {
    using G =
        Gemm<T, Shape, A == Access::kVectorisedKn ? Major::kMN : Major::kK, A != Access::kAny>;
    using Loop = typename G::Loop;
    using LoraTile = Tile<T, G::kBlockN, G::kBlockK>;  // lora_B (n, r)
    static constexpr int kBlockRows = G::kBlockM, kBlockColumns = G::kBlockN;
    static constexpr int kThreads = G::kThreads, kSharedBytes = G::kSharedBytes;

    __device__ static void run(const ForwardParams& p) {
        Loop loop;
        Steps steps{p, blockIdx.x};
        for (;; steps.index += gridDim.x) {
            // Prologue: the first steps of this work item are issued.
            const bool more = steps.index < work_items(p.schedule);
            int base_steps = 0;
            if (more) {
                steps.start();
                base_steps = steps.base.count();
                loop.prologue(steps);
            }
            // Combine and epilogue of the item before, whose sums wait in the accumulators: its
            // stores overlap with the first copies of this one.
            if (steps.index >= gridDim.x) {
                store(p, loop.acc, item_at(p, steps.index - gridDim.x));
            }
            if (!more) {
                return;
            }
            // Main loop and tail: x * W^T.
            loop.acc.clear();
            G::run(loop, steps, base_steps);
            // Low-rank steps: scaling * S * B^T.
#pragma unroll 1
            for (int depth = lora_depth(p, steps.item()); depth > 0; depth -= G::kBlockK) {
                const float scaling = p.projection[steps.item().projection].lora_b.scaling;
                loop.template scaled_step<Major::kK, LoraTile>(min(depth, G::kBlockK), scaling,
                                                               steps);
            }
            loop.end();
        }
    }

   private:
    __device__ __forceinline__ static WorkItem item_at(const ForwardParams& p, uint32_t index) {
        int tile_column;
        WorkItem item = work_item<G::kBlockM>(p.schedule, index, gridDim.x, tile_column);
        while (item.projection + 1 < p.projections &&
               tile_column >= p.projection[item.projection + 1].first_tile) {
            ++item.projection;
        }
        item.column0 = (tile_column - p.projection[item.projection].first_tile) * G::kBlockN;
        return item;
    }

    // Columns of S that a work item adds.
    __device__ __forceinline__ static int lora_depth(const ForwardParams& p, const WorkItem& item) {
        return item.k_slice == 0 ? padded_rank(p.projection[item.projection].lora_b.r) : 0;
    }

    // Issues the steps of one work item in order: those of x * W^T, then those of S * B^T.
    struct Steps {
        const ForwardParams& p;
        uint32_t index;  // of the work item
        int lora_next;   // the first column of S that is not issued yet
        typename G::BaseProducer base;

        __device__ __forceinline__ WorkItem item() const { return item_at(p, index); }

        // x (m, k)
        __device__ __forceinline__ Operand<T> x() const {
            return {static_cast<const T*>(p.x), p.x_stride, p.m, p.k, true};
        }

        // The weight, (n, k) or (k, n)
        __device__ __forceinline__ Operand<T> weight(const WorkItem& item) const {
            const ForwardProjection& layer = p.projection[item.projection];
            return {static_cast<const T*>(layer.weight), layer.weight_stride, layer.n, p.k,
                    G::b_k_major(p.weight_transposed == 0)};
        }

        __device__ __forceinline__ void start() {
            const WorkItem at = item();
            lora_next = 0;
            base.start(x(), weight(at), at, p.schedule.k_slices);
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

        // The next step of any kind, if one is left.
        __device__ __forceinline__ void operator()(uint32_t stage) {
            if (!issue_base(stage)) {
                issue_lora(stage);
            }
        }

        // The next step of x * W^T. False if all are issued.
        __device__ __forceinline__ bool issue_base(uint32_t stage) {
            if (base.tail) {
                if constexpr (G::kVectorised) {
                    const WorkItem at = item();
                    base.issue_tail(stage, x(), weight(at), at);
                } else {
                    gather(stage, base.take_tail(p.k));
                }
                return true;
            }
            if (base.full > 0) {
                issue_full(stage);
                return true;
            }
            return false;
        }

        __device__ __forceinline__ void issue_lora(uint32_t stage) {
            const WorkItem at = item();
            const int depth = lora_depth(p, at);
            if (lora_next >= depth) {
                return;
            }
            const ForwardProjection& layer = p.projection[at.projection];
            const Source<T> s{static_cast<const T*>(p.s) + layer.lora_b.rank0, p.ranks, p.m,
                              depth};  // (m, r_pad)
            load_tile<kThreads>(Loop::a_tile(stage), s, at.row0, lora_next, true);
            load_adapter_tile<kThreads>(Loop::template b_tile<LoraTile>(stage), layer.lora_b,
                                        p.adapter_f32 != 0, layer.n, layer.lora_b.r, at.column0,
                                        lora_next);
            lora_next += G::kBlockK;
        }
    };

    __device__ __forceinline__ static void store(const ForwardParams& p, typename G::Acc& acc,
                                                 const WorkItem& item) {
        if (!G::combine(acc, p.schedule, item)) {
            return;
        }
        const ForwardProjection& layer = p.projection[item.projection];
        const Output<T> y{static_cast<T*>(layer.y),     layer.y_stride,   p.m, layer.n,
                          layer.output_vectorised != 0, p.accumulate != 0};  // (m, n)
        G::Finish::store(acc, G::staging(), y, item.row0 + Loop::warp_row(),
                         item.column0 + Loop::warp_column(), static_cast<const T*>(layer.bias));
    }
};
