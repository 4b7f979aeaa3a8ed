// Clusters: blocks that run at the same time and see each other's shared memory (PTX ISA, "Special
// Registers", "mapa", "barrier.cluster"). A launch without the attribute has clusters of one block.
#pragma once
#include <cstdint>

namespace ptx {

__device__ __forceinline__ uint32_t cluster_size() {
    uint32_t size;
    asm("mov.u32 %0, %%cluster_nctarank;\n" : "=r"(size));
    return size;
}

// Of this block in its cluster
__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
    return rank;
}

// The address, in the cluster's window, of what lies in block `rank` where `shared` is in this one.
__device__ __forceinline__ uint32_t cluster_address(uint32_t shared, uint32_t rank) {
    uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(address) : "r"(shared), "r"(rank));
    return address;
}

// Waits for all threads of the cluster but those that have exited, and sees what they have written.
__device__ __forceinline__ void cluster_sync() {
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n"
        "barrier.cluster.wait.acquire.aligned;\n" ::
            : "memory");
}

}  // namespace ptx
