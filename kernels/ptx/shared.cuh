// Plain accesses to shared memory by 32-bit address (PTX ISA, "Data Movement and Conversion
// Instructions: ld, st").
#pragma once
#include <cstdint>

namespace ptx {

__device__ __forceinline__ void store_shared(uint32_t shared, uint4 value) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(shared), "r"(value.x),
                 "r"(value.y), "r"(value.z), "r"(value.w)
                 : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t shared, uint2 value) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};\n" ::"r"(shared), "r"(value.x), "r"(value.y)
                 : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t shared, uint64_t value) {
    asm volatile("st.shared.b64 [%0], %1;\n" ::"r"(shared), "l"(value) : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t shared, uint16_t value) {
    asm volatile("st.shared.b16 [%0], %1;\n" ::"r"(shared), "h"(value) : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t shared, float4 value) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"r"(shared), "f"(value.x),
                 "f"(value.y), "f"(value.z), "f"(value.w)
                 : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t shared, float2 value) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};\n" ::"r"(shared), "f"(value.x), "f"(value.y)
                 : "memory");
}

__device__ __forceinline__ uint32_t load_shared(uint32_t shared) {
    uint32_t value;
    asm volatile("ld.shared.b32 %0, [%1];\n" : "=r"(value) : "r"(shared) : "memory");
    return value;
}

__device__ __forceinline__ uint16_t load_shared_half(uint32_t shared) {
    uint16_t value;
    asm volatile("ld.shared.b16 %0, [%1];\n" : "=h"(value) : "r"(shared) : "memory");
    return value;
}

__device__ __forceinline__ float load_shared_float(uint32_t shared) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];\n" : "=f"(value) : "r"(shared) : "memory");
    return value;
}

__device__ __forceinline__ float2 load_shared_pair(uint32_t shared) {
    float2 value;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];\n"
                 : "=f"(value.x), "=f"(value.y)
                 : "r"(shared)
                 : "memory");
    return value;
}

__device__ __forceinline__ float4 load_shared_quad(uint32_t shared) {
    float4 value;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];\n"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "r"(shared)
                 : "memory");
    return value;
}

}  // namespace ptx
