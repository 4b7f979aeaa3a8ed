// dx = sum over projections of dy * W + keep_scale * mask o (T * A): the low-rank steps first,
// masked in the accumulator, then the main loops on top. The last blocks of the grid sum dA, whose
// partials grad_a left.
#pragma once
#include "common/dropout.cuh"
#include "common/table.cuh"
#include "gemm/gemm.cuh"
#include "common/reduce.cuh"

template <typename T, typename Shape, Access A>
struct GradX {
    using G = Gemm<T, Shape, A == Access::kVectorisedKn ? Major::kK : Major::kMN, A != Access::kAny>;
    static constexpr int kBlockRows = G::kBlockM, kBlockColumns = G::kBlockN;
    static constexpr int kThreads = G::kThreads, kSharedBytes = G::kSharedBytes;
    using Loop = typename G::Loop;
    using LoraTile = Tile<T, G::kBlockK, G::kBlockN>;  // lora_A (r, k)

    __device__ __forceinline__ static uint32_t blocks(const GradXParams& p) {
        return gridDim.x - p.reduce_a.blocks;
    }

    __device__ __forceinline__ static Place place_of(const GradXParams& p, uint32_t item) {
        int column;
        Place at = ::place_of<G::kBlockM>(p.schedule, item, blocks(p), column);
        at.column0 = column * G::kBlockN;
        return at;
    }

    __device__ __forceinline__ static int lora_steps(const GradXProjection& layer) {
        return round_up(layer.r, G::kBlockK) / G::kBlockK;
    }

    // What the pipeline is fed of one turn: the steps of T * A of every projection, then those of
    // dy * W of every projection.
    struct Feed {
        const GradXParams& p;
        uint32_t item;
        int lora_next;   // the step of all T * A that is issued next
        int projection;  // the one whose dy * W is issued
        typename G::Steps steps;

        __device__ __forceinline__ Place place() const {
            Place at = place_of(p, item);
            at.projection = projection;
            return at;
        }

        // dy (m, n)
        __device__ __forceinline__ Operand<T> a(const Place& at) const {
            const GradXProjection& layer = p.projection[at.projection];
            return {static_cast<const T*>(layer.dy), layer.dy_stride, p.m, layer.n, true};
        }

        // The weight, (n, k) or (k, n)
        __device__ __forceinline__ Operand<T> b(const Place& at) const {
            const GradXProjection& layer = p.projection[at.projection];
            return {static_cast<const T*>(layer.weight), layer.weight_stride, p.k, layer.n,
                    G::depth_contiguous(p.weight_transposed != 0)};
        }

        // Returns the steps of dy * W of all projections.
        __device__ __forceinline__ int start() {
            int base_steps = 0;
#pragma unroll 1
            for (projection = p.projections; projection > 0;) {
                --projection;
                start_projection();
                base_steps += steps.count();
            }
            lora_next = 0;
            return base_steps;
        }

        __device__ __forceinline__ void start_projection() {
            const Place at = place();
            steps.start(a(at), b(at), at, p.schedule.splits);
        }

        __device__ __forceinline__ void operator()(uint32_t stage) {
            if (issue_lora(stage)) {
                return;
            }
#pragma unroll 1
            while (!steps.issue(*this, stage) && projection + 1 < p.projections) {
                ++projection;
                start_projection();
            }
        }

        // False if all are issued.
        __device__ __forceinline__ bool issue_lora(uint32_t stage) {
            int before = 0;
#pragma unroll 1
            for (int adapter = 0; adapter < p.projections; ++adapter) {
                const GradXProjection& layer = p.projection[adapter];
                const int rank = (lora_next - before) * G::kBlockK;
                if (rank >= layer.r) {
                    before += lora_steps(layer);
                    continue;
                }
                const Place at = place();
                if (at.split != 0) {
                    return false;
                }
                const Source<T> t{static_cast<const T*>(p.t) + layer.rank0, p.ranks, p.m,
                                  round_up(layer.r, kDepthStep)};  // (m, r_pad)
                const AdapterSource lora_a{
                    layer.lora_a, layer.lora_a_stride, layer.r,
                    p.k,          p.adapter_f32 != 0,  layer.lora_vectorised != 0};  // (r, k)
                load_tile<G::kThreads>(Loop::a_tile(stage), t, at.row0, rank, true);
                load_adapter_tile<G::kThreads>(Loop::template b_tile<LoraTile>(stage), lora_a, rank,
                                               at.column0);
                ++lora_next;
                return true;
            }
            return false;
        }
    };

    __device__ static void run(const GradXParams& p) {
        if (blockIdx.x >= blocks(p)) {
            reduce_partials<T, G::kThreads>(p.reduce_a, blockIdx.x - blocks(p));
            return;
        }
        Loop loop;
        Feed feed{p, blockIdx.x};
        for (;; feed.item += blocks(p)) {
            const bool more = feed.item < turns(p.schedule);
            int base_steps = 0;
            if (more) {
                base_steps = feed.start();
                loop.prologue(feed);
            }
            // The tile before waits in the accumulators to be stored, while the first steps of this
            // one are already under way.
            if (feed.item >= blocks(p)) {
                store(p, loop.acc, place_of(p, feed.item - blocks(p)));
            }
            if (!more) {
                return;
            }
            loop.acc.clear();
            const Place at = feed.place();
            if (at.split == 0) {
                low_rank(p, loop, feed);
                drop(p, loop.acc, at.row0 + Loop::warp_row(), at.column0 + Loop::warp_column());
            }
            G::run(loop, feed, base_steps);
            loop.end();
        }
    }

   private:
    __device__ __forceinline__ static void store(const GradXParams& p, typename G::Acc& acc,
                                                 const Place& at) {
        if (!G::combine(acc, p.schedule, at)) {
            return;
        }
        const Output<T> dx{static_cast<T*>(p.dx),    p.dx_stride,      p.m, p.k,
                           p.output_vectorised != 0, p.accumulate != 0};  // (m, k)
        G::Finish::store(acc, G::staging(), dx, at.row0 + Loop::warp_row(),
                         at.column0 + Loop::warp_column(), nullptr);
    }

    // acc = sum over projections of T * A
    __device__ __forceinline__ static void low_rank(const GradXParams& p, Loop& loop, Feed& feed) {
#pragma unroll 1
        for (int i = 0; i < p.projections; ++i) {
#pragma unroll 1
            for (int depth = round_up(p.projection[i].r, kDepthStep); depth > 0;
                 depth -= G::kBlockK) {
                loop.template plain_step<Major::kMN, LoraTile>(min(depth, G::kBlockK), feed);
            }
        }
    }

    // acc = keep_scale * mask o acc, for the warp's part of dx that begins at (row0, column0)
    __device__ __forceinline__ static void drop(const GradXParams& p, typename G::Acc& acc,
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
                    : dropout::draw(p.dropout, row0 + row, word);
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
};
