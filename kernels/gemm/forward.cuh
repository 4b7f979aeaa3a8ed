// y = x * W^T + bias + S * B^T for every projection: one GEMM over [x | S] * [W | B]^T, the
// low-rank steps last.
#pragma once
#include "common/table.cuh"
#include "gemm/gemm.cuh"

template <typename T, typename Shape, Access A>
struct Forward {
    using G = Gemm<T, Shape, A == Access::kVectorisedKn ? Major::kMN : Major::kK, A != Access::kAny>;
    static constexpr int kBlockRows = G::kBlockM, kBlockColumns = G::kBlockN;
    static constexpr int kThreads = G::kThreads, kSharedBytes = G::kSharedBytes;
    using Loop = typename G::Loop;
    using LoraTile = Tile<T, G::kBlockN, G::kBlockK>;  // lora_B (n, r)

    __device__ __forceinline__ static Place place_of(const ForwardParams& p, uint32_t item) {
        int column;
        Place at = ::place_of<G::kBlockM>(p.schedule, item, gridDim.x, column);
        while (at.projection + 1 < p.projections &&
               column >= p.projection[at.projection + 1].first_tile) {
            ++at.projection;
        }
        at.column0 = (column - p.projection[at.projection].first_tile) * G::kBlockN;
        return at;
    }

    // Columns of S that a turn adds.
    __device__ __forceinline__ static int lora_depth(const ForwardParams& p, const Place& at) {
        return at.split == 0 ? round_up(p.projection[at.projection].r, kDepthStep) : 0;
    }

    // What the pipeline is fed of one turn: the steps of x * W^T, then those of S * B^T.
    struct Feed {
        const ForwardParams& p;
        uint32_t item;
        int lora_next;  // the first column of S that is not issued yet
        typename G::Steps steps;

        __device__ __forceinline__ Place place() const { return place_of(p, item); }

        // x (m, k)
        __device__ __forceinline__ Operand<T> a(const Place&) const {
            return {static_cast<const T*>(p.x), p.x_stride, p.m, p.k, true};
        }

        // The weight, (n, k) or (k, n)
        __device__ __forceinline__ Operand<T> b(const Place& at) const {
            const ForwardProjection& layer = p.projection[at.projection];
            return {static_cast<const T*>(layer.weight), layer.weight_stride, layer.n, p.k,
                    G::depth_contiguous(p.weight_transposed == 0)};
        }

        __device__ __forceinline__ void start() {
            const Place at = place();
            lora_next = 0;
            steps.start(a(at), b(at), at, p.schedule.splits);
        }

        __device__ __forceinline__ void operator()(uint32_t stage) {
            if (steps.issue(*this, stage)) {
                return;
            }
            const Place at = place();
            const int depth = lora_depth(p, at);
            if (lora_next >= depth) {
                return;
            }
            const ForwardProjection& layer = p.projection[at.projection];
            const Source<T> s{static_cast<const T*>(p.s) + layer.rank0, p.ranks, p.m,
                              depth};  // (m, r_pad)
            const AdapterSource lora_b{
                layer.lora_b, layer.lora_b_stride, layer.n,
                layer.r,      p.adapter_f32 != 0,  layer.lora_vectorised != 0};  // (n, r)
            load_tile<G::kThreads>(Loop::a_tile(stage), s, at.row0, lora_next, true);
            load_adapter_tile<G::kThreads>(Loop::template b_tile<LoraTile>(stage), lora_b,
                                           at.column0, lora_next);
            lora_next += G::kBlockK;
        }
    };

    __device__ static void run(const ForwardParams& p) {
        Loop loop;
        Feed feed{p, blockIdx.x};
        for (;; feed.item += gridDim.x) {
            const bool more = feed.item < turns(p.schedule);
            int base_steps = 0;
            if (more) {
                feed.start();
                base_steps = feed.steps.count();
                loop.prologue(feed);
            }
            // The tile before waits in the accumulators to be stored, while the first steps of this
            // one are already under way.
            if (feed.item >= gridDim.x) {
                store(p, loop.acc, place_of(p, feed.item - gridDim.x));
            }
            if (!more) {
                return;
            }
            loop.acc.clear();
            G::run(loop, feed, base_steps);
#pragma unroll 1
            for (int depth = lora_depth(p, feed.place()); depth > 0; depth -= G::kBlockK) {
                loop.template plain_step<Major::kK, LoraTile>(min(depth, G::kBlockK), feed);
            }
            loop.end();
        }
    }

   private:
    __device__ __forceinline__ static void store(const ForwardParams& p, typename G::Acc& acc,
                                                 const Place& at) {
        if (!G::combine(acc, p.schedule, at)) {
            return;
        }
        const ForwardProjection& layer = p.projection[at.projection];
        const Output<T> y{static_cast<T*>(layer.y),     layer.y_stride,   p.m, layer.n,
                          layer.output_vectorised != 0, p.accumulate != 0};  // (m, n)
        G::Finish::store(acc, G::staging(), y, at.row0 + Loop::warp_row(),
                         at.column0 + Loop::warp_column(), static_cast<const T*>(layer.bias));
    }
};
