// A barrier that some threads only arrive at (PTX ISA, "Parallel Synchronization and Communication
// Instructions: barrier").
#pragma once
#include "ptx/barrier.cuh"

namespace ptx {

// Arrives at barrier `id` of `threads` threads and goes on. What this thread has written before is
// there for those that wait at it with barrier_sync.
__device__ __forceinline__ void barrier_arrive(int id, int threads) {
    __threadfence_block();
    asm volatile("barrier.arrive.aligned %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace ptx
