// One warp's share of a tile product: acc (WarpM, WarpN) += A (WarpM, depth) * B (depth, WarpN), both operands in shared memory.
//
// 16-bit elements go through ldmatrix and mma.sync; f32 through fused multiply-adds, so that plain f32 keeps f32's accuracy. Both keep the
// accumulator in the layout of mma.m16n8k16: with g = lane / 4, t = lane % 4, acc[i][j][e] is row 16 * i + g + 8 * (e / 2),
// column 8 * j + 2 * t + e % 2. Epilogues need to know no more.
#pragma once
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"
#include "tile.cuh"

inline constexpr int kDepthStep = 16;  // the depth of one warp_mma call

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

    // Calls f(row, each) for every 16 rows; each(g) calls g(column, values) for every eight columns of them.
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

// The 16x16 fragment of A at (outer, depth): a[0] (rows 0-7, depth 0-7), a[1] (rows 8-15), a[2] (depth 8-15), a[3] (both).
template <Major Layout, typename A>
__device__ __forceinline__ void load_a_fragment(uint32_t (&fragment)[4], const A& tile, int outer, int depth) {
    const int lane = threadIdx.x % 32;
    if constexpr (Layout == Major::kDepth) {  // tile (outer, depth)
        ptx::ldmatrix_x4(fragment, tile.chunk_address(outer + lane % 16, depth / 8 + lane / 16));
    } else {  // tile (depth, outer)
        ptx::ldmatrix_x4_trans(fragment,
                               tile.chunk_address(depth + lane % 8 + 8 * (lane / 16), outer / 8 + (lane / 8) % 2));
    }
}

// Two 16x8 fragments of B at (depth, outer): b[0], b[1] for columns 0-7 (depth 0-7, 8-15), b[2], b[3] for columns 8-15.
template <Major Layout, typename B>
__device__ __forceinline__ void load_b_fragment(uint32_t (&fragment)[4], const B& tile, int depth, int outer) {
    const int lane = threadIdx.x % 32;
    if constexpr (Layout == Major::kDepth) {  // tile (outer, depth)
        ptx::ldmatrix_x4(fragment, tile.chunk_address(outer + lane % 8 + 8 * (lane / 16), depth / 8 + (lane / 8) % 2));
    } else {  // tile (depth, outer)
        ptx::ldmatrix_x4_trans(fragment, tile.chunk_address(depth + lane % 16, outer / 8 + lane / 16));
    }
}

template <Major Layout, typename Tile>
__device__ __forceinline__ float element(const Tile& tile, int outer, int depth) {
    return Layout == Major::kDepth ? *tile.at(outer, depth) : *tile.at(depth, outer);
}

// acc += A[a_outer.., depth..] * B[depth.., b_outer..] over kDepthStep.
template <typename T, Major ALayout, Major BLayout, int WarpM, int WarpN, typename A, typename B>
__device__ __forceinline__ void warp_mma(Accumulator<WarpM, WarpN>& acc, const A& a_tile, int a_outer, const B& b_tile,
                                         int b_outer, int depth) {
    if constexpr (kTensorCore<T>) {
        uint32_t a[WarpM / 16][4];
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
            load_a_fragment<ALayout>(a[i], a_tile, a_outer + 16 * i, depth);
        }
#pragma unroll
        for (int j = 0; j < WarpN / 16; ++j) {
            uint32_t b[4];
            load_b_fragment<BLayout>(b, b_tile, depth, b_outer + 16 * j);
#pragma unroll
            for (int i = 0; i < WarpM / 16; ++i) {
                ptx::mma_m16n8k16<T>(acc.value[i][2 * j], a[i], b[0], b[1]);
                ptx::mma_m16n8k16<T>(acc.value[i][2 * j + 1], a[i], b[2], b[3]);
            }
        }
    } else {
        const int g = threadIdx.x % 32 / 4;
        const int t = threadIdx.x % 4;
#pragma unroll 2
        for (int d = depth; d < depth + kDepthStep; ++d) {
            float b[WarpN / 8][2];
#pragma unroll
            for (int j = 0; j < WarpN / 8; ++j) {
                b[j][0] = element<BLayout>(b_tile, b_outer + 8 * j + 2 * t, d);
                b[j][1] = element<BLayout>(b_tile, b_outer + 8 * j + 2 * t + 1, d);
            }
#pragma unroll
            for (int i = 0; i < WarpM / 16; ++i) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float a = element<ALayout>(a_tile, a_outer + 16 * i + 8 * half + g, d);
#pragma unroll
                    for (int j = 0; j < WarpN / 8; ++j) {
                        acc.value[i][j][2 * half] = fmaf(a, b[j][0], acc.value[i][j][2 * half]);
                        acc.value[i][j][2 * half + 1] = fmaf(a, b[j][1], acc.value[i][j][2 * half + 1]);
                    }
                }
            }
        }
    }
}
