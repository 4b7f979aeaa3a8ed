// The software pipeline every kernel here runs: `Stages` buffers in shared memory, filled ahead of use, one barrier and one wait per step.
#pragma once
#include "ptx/cp_async.cuh"

// Calls load(step, stage) ahead of compute(step, stage, step % Unroll), for steps 0 .. steps, a multiple of Unroll. The last argument is a
// constant once the loop is unrolled, so it may index registers. On return all copies have landed and every thread has finished reading:
// the buffers are free.
template <int Stages, int Unroll = 1, typename Load, typename Compute>
__device__ __forceinline__ void run_pipeline(int steps, Load&& load, Compute&& compute) {
    static_assert(Stages >= 2, "one buffer is read while another is filled");
#pragma unroll
    for (int step = 0; step < Stages - 1; ++step) {
        if (step < steps) {
            load(step, step);
        }
        ptx::cp_async_commit();
    }
    int read = 0, write = Stages - 1;
    for (int base = 0; base < steps; base += Unroll) {
#pragma unroll
        for (int unrolled = 0; unrolled < Unroll; ++unrolled) {
            const int step = base + unrolled;
            // One group is committed per step, empty ones at the end too, so the count of pending groups always names this step's.
            ptx::cp_async_wait<Stages - 2>();
            // After it this step's tiles are visible to all, and all are done with the buffer that is filled next.
            __syncthreads();
            if (step + Stages - 1 < steps) {
                load(step + Stages - 1, write);
            }
            ptx::cp_async_commit();
            compute(step, read, unrolled);
            read = read + 1 == Stages ? 0 : read + 1;
            write = write + 1 == Stages ? 0 : write + 1;
        }
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
}
