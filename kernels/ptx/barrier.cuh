// Barriers of a part of the block (PTX ISA, "Parallel Synchronization and Communication
// Instructions: barrier").
#pragma once

namespace ptx {

// Barrier `id` of `threads` threads, whole warps. 0 is __syncthreads'.
__device__ __forceinline__ void barrier_sync(int id, int threads) {
    asm volatile("barrier.sync.aligned %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace ptx
