// Bulk copies of boxes of a matrix that a tensor map describes (PTX ISA, "Data Movement and
// Conversion Instructions: cp.async.bulk.tensor"). Elements outside of the matrix are zero when
// they are loaded, and are not stored. `column` and `row` name the box's first element.
#pragma once
#include <cstdint>

namespace ptx {

// To shared memory; the box's whole bytes complete on `barrier`.
__device__ __forceinline__ void tma_load(uint32_t shared, const void* map, int column, int row,
                                         uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%2, %3}], [%4];\n" ::"r"(shared),
        "l"(map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}

// To the same place in shared memory of every block of the cluster whose bit is set in `blocks`.
// The box's whole bytes complete on the barrier at the same place in each.
__device__ __forceinline__ void tma_load_multicast(uint32_t shared, const void* map, int column,
                                                   int row, uint32_t barrier, uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;\n" ::"r"(shared),
        "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
        : "memory");
}

// From shared memory, in this thread's open group.
__device__ __forceinline__ void tma_store(const void* map, int column, int row, uint32_t shared) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n" ::"l"(map),
        "r"(column), "r"(row), "r"(shared)
        : "memory");
}

// Closes this thread's group of stores.
__device__ __forceinline__ void bulk_commit() {
    asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}

// Waits until at most `Pending` of this thread's youngest groups still read shared memory.
template <int Pending>
__device__ __forceinline__ void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(Pending) : "memory");
}

// Orders this thread's ordinary accesses to shared memory before the bulk copies and wgmma that
// come after it, also those of threads that a barrier tells of it.
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

}  // namespace ptx
