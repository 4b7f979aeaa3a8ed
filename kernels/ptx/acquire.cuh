// Reads of words by which blocks tell each other (PTX ISA, "Memory Consistency Model").
#pragma once
#include <cstdint>

namespace ptx {

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* from) {
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(value) : "l"(from) : "memory");
    return value;
}

// Waits until another block has brought the word up to `target`.
__device__ __forceinline__ void wait_for_count(const uint32_t* word, uint32_t target) {
    while (load_acquire(word) < target) {
        __nanosleep(64);
    }
}

}  // namespace ptx
