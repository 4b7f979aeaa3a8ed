// Loads that keep their place among others (PTX ISA, "Data Movement and Conversion Instructions:
// ld").
#pragma once

namespace ptx {

// From L2, where another block's stores are. The compiler neither merges it with another access nor
// moves it past one: many loads at once would fill the registers.
__device__ __forceinline__ float4 load_cg(const float4* from) {
    float4 value;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];\n"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "l"(from)
                 : "memory");
    return value;
}

}  // namespace ptx
