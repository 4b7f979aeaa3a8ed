// The persistent GEMM that forward and grad_x share: its tile, its main loop over full and tail
// steps, and how the k-slices of a tile become one.
#pragma once
#include "common/adapter.cuh"
#include "common/table.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/mainloop.cuh"
#include "gemm/producer.cuh"
#include "ptx/load.cuh"

__device__ __forceinline__ int round_up(int value, int step) {
    return (value + step - 1) / step * step;
}

// `Shape` is a tile of kernels/table.toml. With `Vectorised` operands are copied 16 bytes at a time
// and B has the layout `BMajor`. Without, B's layout is known at run time only, and all tiles are
// K-major.
template <typename T, typename Shape, Major BMajor, bool Vectorised>
struct Gemm {
    static constexpr int kBlockM = Shape::kRows, kBlockN = Shape::kColumns, kBlockK = Shape::kDepth;
    static constexpr int kWarpM = Shape::kWarpRows, kWarpN = Shape::kWarpColumns;
    static constexpr int kStages = Shape::kStages;
    static constexpr int kWarps = kBlockM / kWarpM * (kBlockN / kWarpN);
    static constexpr int kThreads = 32 * kWarps;
    static constexpr bool kVectorised = Vectorised;

    using Loop = MainLoop<T, kBlockM, kBlockN, kBlockK, kWarpM, kWarpN, kStages,
                          Vectorised ? BMajor : Major::kK>;
    using BaseProducer = Producer<T, Loop, kThreads, Vectorised>;
    using Finish = Epilogue<T, kWarpM, kWarpN>;
    using Acc = Accumulator<kWarpM, kWarpN>;
    static constexpr int kSharedBytes = kStages * static_cast<int>(Loop::kStageBytes);
    static_assert(kWarps * Finish::kStagingBytes <= static_cast<int>(Loop::kStageBytes),
                  "the epilogue's staging lives in the last stage");

    // Whether B is K-major: with vectorised copies a constant, else as `given`.
    __device__ __forceinline__ static bool b_k_major(bool given) {
        return Vectorised ? BMajor == Major::kK : given;
    }

    // Address of this warp's part of the epilogue's staging: in the last stage, which is free from
    // the loop's end() to the first arrive() of the item that follows. The prologue leaves it
    // empty, so the copies of that item are under way meanwhile.
    __device__ __forceinline__ static uint32_t staging() {
        return ptx::shared_address(
            Loop::stage_data(Loop::kLastStage + threadIdx.x / 32 * Finish::kStagingBytes));
    }

    // Multiplies `count` steps of the base product. `producer(stage)` issues the next step of any
    // kind. While full ones are left, the loop issues them alone with `producer.issue_full(stage)`
    // and holds nothing else.
    template <typename Steps>
    __device__ __forceinline__ static void run(Loop& loop, Steps& producer, int count) {
        while (count > 0) {
            if (producer.base.full > 0) {
                loop.begin();
#pragma unroll 1
                for (; producer.base.full > 0; --count) {
                    loop.full_step([&](uint32_t stage) { producer.issue_full(stage); });
                }
            }
            loop.template plain_step<Loop::kBMajor, typename Loop::BTile>(kBlockK, producer);
            --count;
        }
    }

    // Where several k-slices share a tile: leaves this block's part in memory. The block that
    // comes last puts the sum of all parts, in the order of the k-slices, in its place. False in
    // the others, which have nothing to store.
    __device__ __forceinline__ static bool combine(Acc& acc, const ScheduleParams& schedule,
                                                   const WorkItem& item) {
        if (schedule.k_slices == 1) {
            return true;
        }
        constexpr int kQuads = kWarpM / 16 * (kWarpN / 8);  // float4 per thread
        uint32_t thread = threadIdx.x;
        pin(thread);
        // (tiles, k-slices, quads, threads)
        float4* const parts =
            reinterpret_cast<float4*>(schedule.partial) +
            static_cast<int64_t>(item.tile) * schedule.k_slices * kQuads * kThreads + thread;
        const auto part = [&](int k_slice, int quad) {
            return parts + (k_slice * kQuads + quad) * kThreads;
        };
        acc.for_each_quad([&](int quad, float(&value)[4]) {
            *part(item.k_slice, quad) = make_float4(value[0], value[1], value[2], value[3]);
        });
        __threadfence();
        __syncthreads();
        const bool last = threadIdx.x == 0 &&
                          atomicAdd(schedule.arrived + item.tile, 1u) + 1 == schedule.k_slices;
        if (!__syncthreads_or(last)) {
            return false;
        }
        __threadfence();
        acc.clear();
#pragma unroll 1
        for (int k_slice = 0; k_slice < schedule.k_slices; ++k_slice) {
            acc.for_each_quad([&](int quad, float(&value)[4]) {
                const float4 add = ptx::load_cg(part(k_slice, quad));
                value[0] += add.x, value[1] += add.y, value[2] += add.z, value[3] += add.w;
            });
        }
        return true;
    }
};
