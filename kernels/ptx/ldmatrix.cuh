// ldmatrix: four 8x8 matrices of 16-bit elements from shared memory into fragments (PTX ISA,
// "Warp-level matrix load instruction: ldmatrix"). Lane l gives the address of row l % 8 of matrix
// l / 8 and receives row l / 4, columns 2 * (l % 4) and + 1 of each matrix.
#pragma once
#include <cstdint>

namespace ptx {

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&fragment)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared)
                 : "memory");
}

// Each matrix transposed on the way: lane l receives column l / 4, rows 2 * (l % 4) and + 1.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&fragment)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared)
                 : "memory");
}

}  // namespace ptx
