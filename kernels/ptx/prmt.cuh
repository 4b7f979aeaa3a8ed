// prmt: any four bytes of two registers (PTX ISA, "Data Movement and Conversion Instructions:
// prmt"). Nibble i of the selector names the byte that becomes byte i: 0-3 of `low`, 4-7 of `high`;
// with 8 added, eight copies of its highest bit.
#pragma once
#include <cstdint>

namespace ptx {

__device__ __forceinline__ uint32_t prmt(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;\n" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
    return bytes;
}

}  // namespace ptx
