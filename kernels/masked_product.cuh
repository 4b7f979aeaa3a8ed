// Products of one warp whose A operand passes a dropout mask on its way from shared memory to the multiplier.
//
// A mask says what to do with both kinds of operands: mask.fragment(a, i, k) zeroes what is dropped of a 16x16 fragment, i and k counted in
// fragments, and mask.element(value, outer, depth) does it for one f32.
#pragma once
#include "dropout.cuh"
#include "ptx/shared.cuh"
#include "warp_mma.cuh"

// Keeps everything.
struct KeepAll {
    __device__ __forceinline__ void fragment(uint32_t (&)[4], int, int) const {}
    __device__ __forceinline__ float element(float value, int, int) const { return value; }
};

// Of A (16, 32): the bits of rows lane / 4 and that + 8, column c in bit c.
struct KeepRows {
    uint32_t upper, lower;

    __device__ __forceinline__ void fragment(uint32_t (&a)[4], int, int k) const {
        const int t = threadIdx.x % 4;  // holds columns 2 * t and 2 * t + 1 of every eight
        const uint32_t upper_even = upper << (7 - 2 * t), upper_odd = upper << (6 - 2 * t);
        const uint32_t lower_even = lower << (7 - 2 * t), lower_odd = lower << (6 - 2 * t);
        a[0] &= dropout::pair_mask(upper_even, upper_odd, 2 * k);
        a[1] &= dropout::pair_mask(lower_even, lower_odd, 2 * k);
        a[2] &= dropout::pair_mask(upper_even, upper_odd, 2 * k + 1);
        a[3] &= dropout::pair_mask(lower_even, lower_odd, 2 * k + 1);
    }
    __device__ __forceinline__ float element(float value, int outer, int depth) const {
        return ((outer == 0 ? upper : lower) >> depth & 1u) != 0 ? value : 0.0f;
    }
};

// acc (16, WarpN) += A (16, 32) * B (32, WarpN), both with the depth contiguous: rows a_row.. of a Tile, and rows b_row.. of another, from
// chunk `chunk0` on.
template <typename T, int WarpN, typename A, typename B, typename Mask>
__device__ __forceinline__ void masked_row_product(Accumulator<16, WarpN>& acc, const A& a_tile, int a_row, const B& b_tile,
                                                   int b_row, int chunk0, const Mask& mask) {
    const int lane = threadIdx.x % 32;
    if constexpr (kTensorCore<T>) {
        // Rows 16 apart lie alike, and two chunks on are an XOR away.
        const uint32_t a_at = a_tile.chunk_address(a_row + lane % 16, lane / 16);
        const uint32_t b_at = b_tile.chunk_address(b_row + lane % 8 + 8 * (lane / 16), lane / 8 % 2);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const uint32_t step = (chunk0 + 2 * k) * 16;
            uint32_t a[4];  // m16k16
            ptx::ldmatrix_x4(a, a_at ^ step);
            mask.fragment(a, 0, k);
#pragma unroll
            for (int j = 0; j < WarpN / 16; ++j) {
                uint32_t b[4];  // k16n16
                ptx::ldmatrix_x4(b, (b_at ^ step) + j * 16 * B::kColumns * static_cast<int>(sizeof(T)));
                ptx::mma_m16n8k16<T>(acc.value[0][2 * j], a, b[0], b[1]);
                ptx::mma_m16n8k16<T>(acc.value[0][2 * j + 1], a, b[2], b[3]);
            }
        }
    } else {
        const uint32_t a_at = a_tile.chunk_address(a_row + lane / 4, 0);
        const uint32_t b_at = b_tile.chunk_address(b_row + lane % 4 * 2, 0);
        const uint32_t b_next = b_tile.chunk_address(b_row + lane % 4 * 2 + 1, 0);
#pragma unroll 2
        for (int chunk = 0; chunk < 8; ++chunk) {
            const uint32_t step = (chunk0 + chunk) * 16;
            float4 a[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                a[half] = ptx::load_shared_quad((a_at ^ step) + half * 8 * A::kColumns * 4);
                a[half].x = mask.element(a[half].x, half, 4 * chunk);
                a[half].y = mask.element(a[half].y, half, 4 * chunk + 1);
                a[half].z = mask.element(a[half].z, half, 4 * chunk + 2);
                a[half].w = mask.element(a[half].w, half, 4 * chunk + 3);
            }
#pragma unroll
            for (int j = 0; j < WarpN / 8; ++j) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const float4 b = ptx::load_shared_quad(((e == 0 ? b_at : b_next) ^ step) + j * 8 * B::kColumns * 4);
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        float& sum = acc.value[0][j][2 * half + e];
                        sum = fmaf(a[half].x, b.x, sum);
                        sum = fmaf(a[half].y, b.y, sum);
                        sum = fmaf(a[half].z, b.z, sum);
                        sum = fmaf(a[half].w, b.w, sum);
                    }
                }
            }
        }
    }
}
