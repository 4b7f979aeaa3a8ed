// stmatrix: four 8x8 matrices of 16-bit elements from fragments to shared memory (PTX ISA,
// "Warp-level matrix store instruction: stmatrix"), as ldmatrix brings them. Lane l gives the
// address of row l % 8 of matrix l / 8, and row l / 4, columns 2 * (l % 4) and + 1 of each matrix.
#pragma once
#include <cstdint>

namespace ptx {

__device__ __forceinline__ void stmatrix_x4(uint32_t shared, const uint32_t (&fragment)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(shared),
                 "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
                 : "memory");
}

}  // namespace ptx
