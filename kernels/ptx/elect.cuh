// elect.sync: one lane for what a warp does once (PTX ISA, "Parallel Synchronization and
// Communication Instructions: elect.sync").
#pragma once
#include <cstdint>

namespace ptx {

// True in one lane of the whole warp, always the same.
__device__ __forceinline__ bool elect_one() {
    uint32_t elected;
    asm volatile(
        "{\n"
        ".reg .pred elected;\n"
        "elect.sync _|elected, 0xffffffff;\n"
        "selp.b32 %0, 1, 0, elected;\n"
        "}\n"
        : "=r"(elected));
    return elected != 0;
}

}  // namespace ptx
