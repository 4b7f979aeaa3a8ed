// One warp's accumulator (WarpM, WarpN), and its products in f32.
//
// 16-bit elements go through mma.sync, f32 through fused multiply-adds, so that plain f32 keeps
// f32's accuracy. Both keep the accumulator in the layout of mma.m16n8k16: with g = lane / 4, t =
// lane % 4, value[i][j][e] is row 16 * i + g + 8 * (e / 2), column 8 * j + 2 * t + e % 2. Epilogues
// need to know no more.
#pragma once
#include "common/tile.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

inline constexpr int kMmaK = 16;  // depth of one mma

// Rank of an adapter in S and T: whole depths of an mma.
__device__ __forceinline__ int padded_rank(int rank) { return (rank + kMmaK - 1) / kMmaK * kMmaK; }

template <int WarpM, int WarpN>
struct Accumulator {
    static_assert(WarpM % 16 == 0 && WarpN % 16 == 0, "fragments are 16x16");
    float value[WarpM / 16][WarpN / 8][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
#pragma unroll
            for (int j = 0; j < WarpN / 8; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    value[i][j][e] = 0.0f;
                }
            }
        }
    }

    // Calls f(index, values) for the four values of every fragment.
    template <typename F>
    __device__ __forceinline__ void for_each_quad(F&& f) {
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
#pragma unroll
            for (int j = 0; j < WarpN / 8; ++j) {
                f(i * (WarpN / 8) + j, value[i][j]);
            }
        }
    }

    // Calls f(row, each) for every 16 rows; each(g) calls g(column, values) for every eight columns
    // of them.
    template <typename F>
    __device__ __forceinline__ void for_each_row_pair(F&& f) {
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
            f(16 * i, [&](auto&& g) {
#pragma unroll
                for (int j = 0; j < WarpN / 8; ++j) {
                    g(8 * j, value[i][j]);
                }
            });
        }
    }

    // Calls f(row, column, first, second) for every pair of neighbouring columns this lane holds.
    template <typename F>
    __device__ __forceinline__ void for_each_pair(F&& f) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
#pragma unroll
            for (int j = 0; j < WarpN / 8; ++j) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    f(16 * i + 8 * half + lane / 4, 8 * j + 2 * (lane % 4), value[i][j][2 * half],
                      value[i][j][2 * half + 1]);
                }
            }
        }
    }
};

template <Major Layout, typename Tile>
__device__ __forceinline__ float element(const Tile& tile, int mn, int k) {
    return Layout == Major::kK ? *tile.at(mn, k) : *tile.at(k, mn);
}

// acc += A[m0.., k0..] * B[k0.., n0..] over kMmaK, in f32 by fused multiply-adds.
template <Major ALayout, Major BLayout, int WarpM, int WarpN, typename A, typename B>
__device__ __forceinline__ void warp_fma(Accumulator<WarpM, WarpN>& acc, const A& a_tile, int m0,
                                         const B& b_tile, int n0, int k0) {
    const int g = threadIdx.x % 32 / 4;
    const int t = threadIdx.x % 4;
#pragma unroll 2
    for (int k = k0; k < k0 + kMmaK; ++k) {
        float b[WarpN / 8][2];
#pragma unroll
        for (int j = 0; j < WarpN / 8; ++j) {
            b[j][0] = element<BLayout>(b_tile, n0 + 8 * j + 2 * t, k);
            b[j][1] = element<BLayout>(b_tile, n0 + 8 * j + 2 * t + 1, k);
        }
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float a = element<ALayout>(a_tile, m0 + 16 * i + 8 * half + g, k);
#pragma unroll
                for (int j = 0; j < WarpN / 8; ++j) {
                    acc.value[i][j][2 * half] = fmaf(a, b[j][0], acc.value[i][j][2 * half]);
                    acc.value[i][j][2 * half + 1] = fmaf(a, b[j][1], acc.value[i][j][2 * half + 1]);
                }
            }
        }
    }
}

// acc += scaling * A[m0.., 0..depth] * B[0..depth, n0..], in f32 by fused multiply-adds. The
// product is summed first, eight columns at a time, and then scaled.
template <Major ALayout, Major BLayout, int WarpM, int WarpN, typename A, typename B>
__device__ __forceinline__ void warp_fma_scaled(Accumulator<WarpM, WarpN>& acc, float scaling,
                                                const A& a_tile, int m0, const B& b_tile, int n0,
                                                int depth) {
    // Addresses of its own: shared with the main loop's, they cost that loop instructions.
    uint32_t lane = threadIdx.x % 32;
    pin(lane);
    const int g = lane / 4;
    const int t = lane % 4;
#pragma unroll
    for (int j = 0; j < WarpN / 8; ++j) {
        float part[WarpM / 16][4] = {};
#pragma unroll 1
        for (int k = 0; k < depth; ++k) {
            const float b0 = element<BLayout>(b_tile, n0 + 8 * j + 2 * t, k);
            const float b1 = element<BLayout>(b_tile, n0 + 8 * j + 2 * t + 1, k);
#pragma unroll
            for (int i = 0; i < WarpM / 16; ++i) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float a = element<ALayout>(a_tile, m0 + 16 * i + 8 * half + g, k);
                    part[i][2 * half] = fmaf(a, b0, part[i][2 * half]);
                    part[i][2 * half + 1] = fmaf(a, b1, part[i][2 * half + 1]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                acc.value[i][j][e] = fmaf(scaling, part[i][e], acc.value[i][j][e]);
            }
        }
    }
}
