// Barriers of a part of the block (PTX ISA, "Parallel Synchronization and Communication
// Instructions: barrier").
#pragma once

namespace ptx {

// Barrier `id` of `threads` threads, whole warps. 0 is __syncthreads'.
__device__ __forceinline__ void barrier_sync(int id, int threads) {
    asm volatile("barrier.sync.aligned %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// The same; returns whether `predicate` holds in any of the threads.
__device__ __forceinline__ bool barrier_or(int id, int threads, bool predicate) {
    int any;
    asm volatile(
        "{\n"
        ".reg .pred own, any;\n"
        "setp.ne.b32 own, %3, 0;\n"
        "barrier.red.or.pred.aligned any, %1, %2, own;\n"
        "selp.b32 %0, 1, 0, any;\n"
        "}\n"
        : "=r"(any)
        : "r"(id), "r"(threads), "r"(static_cast<int>(predicate))
        : "memory");
    return any != 0;
}

}  // namespace ptx
