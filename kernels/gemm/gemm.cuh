// A tile product with its operands in global memory: which steps there are, who issues them, and
// how the parts of a tile become one. forward and grad_x are the two users.
#pragma once
#include "common/adapter.cuh"
#include "gemm/step_copies.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/mainloop.cuh"
#include "ptx/load.cuh"
#include "gemm/schedule.cuh"

__device__ __forceinline__ int round_up(int value, int step) {
    return (value + step - 1) / step * step;
}

// An operand in global memory. Its contiguous index is the depth, or the outer one.
template <typename T>
struct Operand {
    const T* data;
    int64_t stride;
    int outer, depth;
    bool depth_contiguous;

    __device__ __forceinline__ const T* at(int o, int d) const {
        return data + (depth_contiguous ? o * stride + d : d * stride + o);
    }
    __device__ __forceinline__ Source<T> source() const {
        return depth_contiguous ? Source<T>{data, stride, outer, depth}
                                : Source<T>{data, stride, depth, outer};
    }
};

// An operand of any alignment and either layout, element by element, into a tile (outer, depth).
template <int Threads, typename T, int Rows, int Columns>
__device__ __forceinline__ void gather_tile(Tile<T, Rows, Columns> tile, const Operand<T>& operand,
                                            int outer0, int depth0) {
    for_each_chunk<Threads>(tile, [&](int row, int chunk) {
        const int depth = depth0 + chunk * kChunk<T>;
        alignas(16) T values[kChunk<T>];
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
            const bool inside = outer0 + row < operand.outer && depth + i < operand.depth;
            values[i] = inside ? *operand.at(outer0 + row, depth + i) : from_float<T>(0.0f);
        }
        *reinterpret_cast<uint4*>(tile.chunk(row, chunk)) = *reinterpret_cast<const uint4*>(values);
    });
}

// `Vectorised`: 16 bytes at a time. Then the layout of B is `BMajor`; otherwise it is known at run
// time only, and tiles are Major::kK.
template <typename T, typename Shape, Major BMajor, bool Vectorised>
struct Gemm {
    using Element = T;
    static constexpr int kBlockM = Shape::kRows, kBlockN = Shape::kColumns, kBlockK = Shape::kDepth;
    static constexpr int kWarpM = Shape::kWarpRows, kWarpN = Shape::kWarpColumns;
    static constexpr int kStages = Shape::kStages;
    static constexpr int kWarps = kBlockM / kWarpM * (kBlockN / kWarpN);
    static constexpr int kThreads = 32 * kWarps;

    using Loop = MainLoop<T, kBlockM, kBlockN, kBlockK, kWarpM, kWarpN, kStages,
                          Vectorised ? BMajor : Major::kK>;
    using Finish = Epilogue<T, kWarpM, kWarpN>;
    using Acc = Accumulator<kWarpM, kWarpN>;
    static constexpr int kStagesBytes = kStages * static_cast<int>(Loop::kStageBytes);
    static constexpr int kSharedBytes = kStagesBytes + kWarps * Finish::kStagingBytes;

    // Whether B's depth is contiguous. Only where tiles are gathered is that a question at run
    // time.
    __device__ __forceinline__ static bool depth_contiguous(bool given) {
        return Vectorised ? BMajor == Major::kK : given;
    }

    // Address of this warp's part of the staging in shared memory.
    __device__ __forceinline__ static uint32_t staging() {
        return ptx::shared_address(
            Loop::stage_data(kStagesBytes + threadIdx.x / 32 * Finish::kStagingBytes));
    }

    // The steps of one product A (m, depth) * B (depth, n) of a tile: first what the depth has
    // over, within bounds, then whole steps, of which each split takes a part. Only what a whole
    // step needs is kept; registers are scarce.
    struct Steps {
        int next;       // the whole step that is issued next
        int direction;  // 1 or -1
        int whole;      // steps left
        bool over;      // whether what the depth has over is still to come
        StepCopies<kThreads, Major::kK, typename Loop::ATile, T> a_copies;
        StepCopies<kThreads, BMajor, typename Loop::BTile, T> b_copies;

        __device__ __forceinline__ void start(const Operand<T>& a, const Operand<T>& b,
                                              const Place& at, int splits) {
            const int steps = a.depth / kBlockK;
            const auto part = [&](int split) {
                return static_cast<int>(static_cast<int64_t>(steps) * split / splits);
            };
            const int begin = part(at.split);
            const int end = part(at.split + 1);
            whole = end - begin;
            over = at.split == 0 && a.depth % kBlockK != 0;
            next = at.reversed ? end - 1 : begin;
            direction = at.reversed ? -1 : 1;
            if constexpr (Vectorised) {
                a_copies.start(a.source(), at.row0, next * kBlockK, direction);
                b_copies.start(b.source(), at.column0, next * kBlockK, direction);
            }
        }

        __device__ __forceinline__ int count() const { return whole + (over ? 1 : 0); }

        // The next whole step. `place()` and `operands(place, a, b)` are asked where tiles are
        // gathered.
        template <typename Feed>
        __device__ __forceinline__ void issue_whole(const Feed& feed, uint32_t stage) {
            if constexpr (Vectorised) {
                const uint32_t tile = ptx::shared_address(Loop::stage_data(stage));
                a_copies.issue(tile, direction);
                b_copies.issue(tile + Loop::ATile::kBytes, direction);
            } else {
                gather(feed, stage, next * kBlockK);
                next += direction;
            }
            --whole;
        }

        // The next step of any kind. False if there is none.
        template <typename Feed>
        __device__ __forceinline__ bool issue(const Feed& feed, uint32_t stage) {
            if (over) {
                over = false;
                const Place at = feed.place();
                const Operand<T> a = feed.a(at), b = feed.b(at);
                const int depth0 = a.depth / kBlockK * kBlockK;
                if constexpr (Vectorised) {
                    load_tile<kThreads>(Loop::a_tile(stage), a.source(), at.row0, depth0, true);
                    const bool deep = BMajor == Major::kK;
                    load_tile<kThreads>(Loop::b_tile(stage), b.source(), deep ? at.column0 : depth0,
                                        deep ? depth0 : at.column0, true);
                } else {
                    gather(feed, stage, depth0);
                }
                return true;
            }
            if (whole > 0) {
                issue_whole(feed, stage);
                return true;
            }
            return false;
        }

       private:
        template <typename Feed>
        __device__ __forceinline__ static void gather(const Feed& feed, uint32_t stage,
                                                      int depth0) {
            const Place at = feed.place();
            gather_tile<kThreads>(Loop::a_tile(stage), feed.a(at), at.row0, depth0);
            gather_tile<kThreads>(Loop::b_tile(stage), feed.b(at), at.column0, depth0);
        }
    };

    // `count` steps of the base product. While whole ones are left to issue, nothing else is in the
    // loop.
    template <typename Feed>
    __device__ __forceinline__ static void run(Loop& loop, Feed& feed, int count) {
        while (count > 0) {
            if (feed.steps.whole > 0) {
                loop.begin();
#pragma unroll 1
                for (; feed.steps.whole > 0; --count) {
                    loop.whole_step([&](uint32_t stage) { feed.steps.issue_whole(feed, stage); });
                }
            }
            loop.template plain_step<Loop::kBMajor, typename Loop::BTile>(kBlockK, feed);
            --count;
        }
    }

    // With several splits of a tile: leaves this block's part in memory, and in the block that
    // comes last puts their sum, in the order of the splits, in its place. False where another
    // block comes later.
    __device__ __forceinline__ static bool combine(Acc& acc, const ScheduleParams& schedule,
                                                   const Place& at) {
        if (schedule.splits == 1) {
            return true;
        }
        constexpr int kQuads = kWarpM / 16 * (kWarpN / 8);  // float4 per thread
        uint32_t thread = threadIdx.x;
        pin(thread);
        float4* const parts = reinterpret_cast<float4*>(schedule.partial) +
                              static_cast<int64_t>(at.tile) * schedule.splits * kQuads * kThreads +
                              thread;
        const auto part = [&](int split, int quad) {
            return parts + (split * kQuads + quad) * kThreads;
        };
        acc.for_each_quad([&](int quad, float(&value)[4]) {
            *part(at.split, quad) = make_float4(value[0], value[1], value[2], value[3]);
        });
        __threadfence();
        __syncthreads();
        const bool last =
            threadIdx.x == 0 && atomicAdd(schedule.arrived + at.tile, 1u) + 1 == schedule.splits;
        if (!__syncthreads_or(last)) {
            return false;
        }
        __threadfence();
        acc.clear();
#pragma unroll 1
        for (int split = 0; split < schedule.splits; ++split) {
            acc.for_each_quad([&](int quad, float(&value)[4]) {
                const float4 add = ptx::load_cg(part(split, quad));
                value[0] += add.x, value[1] += add.y, value[2] += add.z, value[3] += add.w;
            });
        }
        return true;
    }
};
