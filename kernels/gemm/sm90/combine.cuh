// The k-slices of a tile become one: in the order of their index, whichever block comes last.
#pragma once
#include "common/params.cuh"
#include "gemm/sm90/epilogue.cuh"
#include "ptx/load.cuh"

namespace sm90 {

// Where several k-slices share a tile: leaves this block's part, `acc` of its consumers, in memory.
// The block that comes last puts the sum of all parts in its place. False in the others, which have
// nothing to store. All `Threads` consumers, the first threads of the block, call it.
template <int Threads, int Blocks, int QuadsPerBlock>
__device__ __forceinline__ bool combine(float (&acc)[Blocks][QuadsPerBlock][4],
                                        const ScheduleParams& schedule, int tile, int k_slice) {
    if (schedule.k_slices == 1) {
        return true;
    }
    constexpr int kQuads = Blocks * QuadsPerBlock;  // float4 per thread
    float(&quads)[kQuads][4] = reinterpret_cast<float(&)[kQuads][4]>(acc);
    // (tiles, k-slices, quads, threads)
    float4* const parts = reinterpret_cast<float4*>(schedule.partial) +
                          static_cast<int64_t>(tile) * schedule.k_slices * kQuads * Threads +
                          threadIdx.x;
    float4* const own = parts + k_slice * kQuads * Threads;
#pragma unroll
    for (int quad = 0; quad < kQuads; ++quad) {
        own[quad * Threads] =
            make_float4(quads[quad][0], quads[quad][1], quads[quad][2], quads[quad][3]);
    }
    // Each thread's part is visible to the device before the block counts as arrived.
    __threadfence();
    ptx::barrier_sync(kConsumersBarrier, Threads);
    const bool last = threadIdx.x == 0 && atomicAdd(schedule.arrived + tile, 1u) + 1 ==
                                              static_cast<uint32_t>(schedule.k_slices);
    const uint32_t last_of_tile = ptx::barrier_or(kConsumersBarrier, Threads, last) ? 1 : 0;
    if (warp_uniform(last_of_tile) == 0) {
        return false;
    }
    __threadfence();
    // Some at a time: loads for all of them at once would take the registers of the main loop.
    constexpr int kAtOnce = 8;
#pragma unroll
    for (int first = 0; first < kQuads; first += kAtOnce) {
#pragma unroll
        for (int quad = first; quad < first + kAtOnce; ++quad) {
            quads[quad][0] = quads[quad][1] = quads[quad][2] = quads[quad][3] = 0.0f;
        }
#pragma unroll 1
        for (int i = 0; i < schedule.k_slices; ++i) {
#pragma unroll
            for (int quad = first; quad < first + kAtOnce; ++quad) {
                const float4 add = ptx::load_cg(parts + (i * kQuads + quad) * Threads);
                quads[quad][0] += add.x, quads[quad][1] += add.y;
                quads[quad][2] += add.z, quads[quad][3] += add.w;
            }
        }
    }
    return true;
}

}  // namespace sm90
