// cp.async: global -> shared copies that bypass the registers (PTX ISA, "Data Movement and
// Conversion Instructions: cp.async").
#pragma once
#include <cstdint>

namespace ptx {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes. Both addresses must be 16-byte aligned.
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared), "l"(global)
                 : "memory");
}

// Copies `bytes` (0..16) and fills the rest of the 16 with zeros. Both addresses must be 16-byte
// aligned, also where bytes < 16.
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(global),
                 "r"(bytes)
                 : "memory");
}

// Copies `bytes` (0..8) and fills the rest of the 8 with zeros. Both addresses must be 8-byte
// aligned.
__device__ __forceinline__ void cp_async_8(uint32_t shared, const void* global, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(shared), "l"(global),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// Waits until at most `Pending` of this thread's youngest groups are still under way.
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
}

}  // namespace ptx
