// mbarrier: barriers in shared memory that threads arrive at and copies complete bytes on (PTX ISA,
// "Parallel Synchronization and Communication Instructions: mbarrier").
#pragma once
#include <cstdint>

namespace ptx {

inline constexpr int kMbarrierBytes = 8;

// A phase completes after `arrivals`, and when all bytes that were expected have come.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(arrivals)
                 : "memory");
}

// Makes the barriers that this thread has initialised known to the cluster and to copies, once a
// barrier of the block or the cluster has followed.
__device__ __forceinline__ void mbarrier_fence_init() {
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

// Arrives, and lets the phase expect `bytes` more from copies.
__device__ __forceinline__ void mbarrier_arrive_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier),
                 "r"(bytes)
                 : "memory");
}

// Arrives at a barrier of any block of the cluster, by its address in the cluster's window.
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}

// Waits until the phase of this parity has completed. The phase before a barrier's first has parity
// 1, and has completed.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "wait:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra wait;\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

}  // namespace ptx
