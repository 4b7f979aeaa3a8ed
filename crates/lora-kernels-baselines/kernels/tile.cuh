// bf16 tiles in shared memory, and the fragments that mma.sync reads from them.
//
// Chunk c (16 bytes) of a row is stored at c XOR (bits of the row). Eight neighbouring rows of a
// column of chunks are then in eight different groups of four banks, so that cp.async, ldmatrix and
// the epilogue cause no bank conflicts.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

namespace peers {

using bf16 = __nv_bfloat16;

inline constexpr int kChunk = 8;  // bf16 elements in 16 bytes

// The swizzle of rows of `ChunksPerRow` chunks, a power of two. It repeats every eight rows.
template <int ChunksPerRow>
struct Swizzle {
    static constexpr int kMask = (ChunksPerRow >= 8 ? 8 : ChunksPerRow) - 1;
    static constexpr int kRowsPerLine =
        ChunksPerRow >= 8 ? 1 : 8 / ChunksPerRow;  // rows in one 128-byte line of banks

    __device__ __forceinline__ static int chunk(int row, int chunk) {
        return row * ChunksPerRow + (chunk ^ ((row / kRowsPerLine) & kMask));
    }
};

template <int Rows, int Columns>
struct Tile {
    static constexpr int kRows = Rows;
    static constexpr int kColumns = Columns;
    static constexpr int kChunksPerRow = Columns / kChunk;
    static constexpr int kBytes = Rows * Columns * 2;

    uint32_t address;  // in shared memory: (Rows, Columns), swizzled

    // `row0` is a multiple of eight, so the swizzle depends only on `row`, and `row0` is added to
    // an address that is computed before the loop.
    __device__ __forceinline__ uint32_t chunk_address(int row0, int row, int chunk) const {
        return address + 16 * (row0 * kChunksPerRow + Swizzle<kChunksPerRow>::chunk(row, chunk));
    }
};

// Copies consecutive tiles of a matrix in global memory; the state of one thread.
template <int Threads, typename To>
struct Source {
    static constexpr int kRowsPerPass = Threads / To::kChunksPerRow;
    static_assert(Threads % To::kChunksPerRow == 0 && kRowsPerPass % 8 == 0,
                  "a thread keeps its place in the swizzle");

    const bf16* next;     // what this thread copies first of the next tile
    int64_t pass_stride;  // elements
    int64_t step;         // elements from tile to tile

    __device__ __forceinline__ static int row() { return threadIdx.x / To::kChunksPerRow; }
    __device__ __forceinline__ static int chunk() { return threadIdx.x % To::kChunksPerRow; }

    // `from` is the first element of the first tile, `stride` is the distance of rows, `step` that
    // of tiles.
    __device__ __forceinline__ Source(const bf16* from, int64_t stride, int64_t step)
        : next(from + row() * stride + chunk() * kChunk),
          pass_stride(kRowsPerPass * stride),
          step(step) {}

    // Issues the copies of the next tile. If `Short` is set, only `rows` rows and `columns` columns
    // (a multiple of 8) exist, and the rest of the tile is left unchanged.
    template <bool Short>
    __device__ __forceinline__ void load(To tile, int rows, int columns) {
        const bf16* from = next;
#pragma unroll
        for (int pass = 0; pass < (To::kRows + kRowsPerPass - 1) / kRowsPerPass; ++pass) {
            const int row0 = pass * kRowsPerPass;
            const bool inside = To::kRows % kRowsPerPass == 0 || row0 + row() < To::kRows;
            if (inside && (!Short || (row0 + row() < rows && chunk() * kChunk < columns))) {
                ptx::cp_async_16(tile.chunk_address(row0, row(), chunk()), from, 16);
            }
            from += pass_stride;
        }
        next += step;
    }
};

// The contiguous dimension of an operand: K, which is summed over, or M (of A) or N (of B).
enum class Major { kK, kMn };

inline constexpr int kDepthStep = 16;  // the depth of one mma

// The accumulators of a warp. With g = lane / 4 and t = lane % 4, value[i][j][e] is the element in
// row 16 * i + g + 8 * (e / 2) and column 8 * j + 2 * t + e % 2 of the warp's tile.
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

    // Calls f(row, column, first, second) for every pair of neighbouring columns that this lane
    // holds.
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

// The 16x16 fragment of A at (outer, depth), from a K-major tile (outer, depth) or an MN-major one
// (depth, outer).
template <Major Layout, typename A>
__device__ __forceinline__ void load_a_fragment(uint32_t (&fragment)[4], const A& tile, int outer,
                                                int depth) {
    const int lane = threadIdx.x % 32;
    if constexpr (Layout == Major::kK) {
        ptx::ldmatrix_x4(fragment, tile.chunk_address(outer, lane % 16, depth / 8 + lane / 16));
    } else {
        ptx::ldmatrix_x4_trans(fragment, tile.chunk_address(depth, lane % 8 + lane / 16 * 8,
                                                            outer / 8 + lane / 8 % 2));
    }
}

// Two 16x8 fragments of B at (depth, outer). The first two registers hold columns 0-7, the others
// columns 8-15.
template <Major Layout, typename B>
__device__ __forceinline__ void load_b_fragment(uint32_t (&fragment)[4], const B& tile, int depth,
                                                int outer) {
    const int lane = threadIdx.x % 32;
    if constexpr (Layout == Major::kK) {
        ptx::ldmatrix_x4(fragment, tile.chunk_address(outer, lane % 8 + lane / 16 * 8,
                                                      depth / 8 + lane / 8 % 2));
    } else {
        ptx::ldmatrix_x4_trans(fragment,
                               tile.chunk_address(depth, lane % 16, outer / 8 + lane / 16));
    }
}

struct Unchanged {
    __device__ __forceinline__ void operator()(uint32_t (&)[4]) const {}
};

// acc += A[a_outer.., depth..] * f(B[depth.., b_outer..]) over kDepthStep.
template <Major AMajor, Major BMajor, int WarpM, int WarpN, typename A, typename B,
          typename F = Unchanged>
__device__ __forceinline__ void warp_mma(Accumulator<WarpM, WarpN>& acc, const A& a_tile,
                                         int a_outer, const B& b_tile, int b_outer, int depth,
                                         F&& f = F{}) {
    uint32_t a[WarpM / 16][4];
#pragma unroll
    for (int i = 0; i < WarpM / 16; ++i) {
        load_a_fragment<AMajor>(a[i], a_tile, a_outer + 16 * i, depth);
    }
#pragma unroll
    for (int j = 0; j < WarpN / 16; ++j) {
        uint32_t b[4];
        load_b_fragment<BMajor>(b, b_tile, depth, b_outer + 16 * j);
        f(b);
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
            ptx::mma_m16n8k16<bf16>(acc.value[i][2 * j], a[i], b[0], b[1]);
            ptx::mma_m16n8k16<bf16>(acc.value[i][2 * j + 1], a[i], b[2], b[3]);
        }
    }
}

}  // namespace peers
