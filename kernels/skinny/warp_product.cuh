// Products of one warp with both operands in shared memory. The A operand may pass a dropout mask
// on its way to the multiplier. 16-bit elements go through ldmatrix and mma.sync, f32 through fused
// multiply-adds. Accumulators have the layout of common/accumulator.cuh.
//
// Each product keeps where this lane's operands are in the tiles A and B, in bytes. The addresses
// of later steps are these with some bits flipped: tiles lie on multiples of their rows, and
// swizzles repeat every eight rows.
#pragma once
#include "common/accumulator.cuh"
#include "common/dropout.cuh"
#include "ptx/shared.cuh"

template <typename T, typename Tile>
__device__ __forceinline__ uint32_t byte_offset(int row, int chunk) {
    return Tile::chunk_offset(row, chunk) * static_cast<int>(sizeof(T));
}

// f32: the element `rows` < 8 below one of a row that the swizzle leaves as it is.
template <typename Tile>
__device__ __forceinline__ uint32_t row_below(uint32_t address, int rows) {
    return (address ^ Tile::chunk_offset(rows, 0) % Tile::kColumns * Tile::kElementBytes) +
           rows * Tile::kColumns * Tile::kElementBytes;
}

// A mask for A (16, 32) with contiguous columns that keeps everything.
struct KeepAllRows {
    __device__ __forceinline__ void fragment(uint32_t (&)[4], int) const {}
    __device__ __forceinline__ float4 quad(float4 value, int, int) const { return value; }
};

// Keep bits of A (16, 32): of rows lane / 4 and that + 8, column c in bit c.
struct KeepRows {
    uint32_t upper, lower;

    // Columns 16 * k to + 15, as mma takes them
    __device__ __forceinline__ void fragment(uint32_t (&a)[4], int k) const {
        const int t = threadIdx.x % 4;  // holds columns 2 * t and 2 * t + 1 of every eight
        const uint32_t upper_even = upper << (7 - 2 * t), upper_odd = upper << (6 - 2 * t);
        const uint32_t lower_even = lower << (7 - 2 * t), lower_odd = lower << (6 - 2 * t);
        a[0] &= dropout::pair_mask(upper_even, upper_odd, 2 * k);
        a[1] &= dropout::pair_mask(lower_even, lower_odd, 2 * k);
        a[2] &= dropout::pair_mask(upper_even, upper_odd, 2 * k + 1);
        a[3] &= dropout::pair_mask(lower_even, lower_odd, 2 * k + 1);
    }
    // Four columns from `column` on of the upper row, half 0, or the lower one
    __device__ __forceinline__ float4 quad(float4 value, int half, int column) const {
        const uint32_t bits = (half == 0 ? upper : lower) >> column;
        return make_float4((bits & 1u) != 0 ? value.x : 0.0f, (bits & 2u) != 0 ? value.y : 0.0f,
                           (bits & 4u) != 0 ? value.z : 0.0f, (bits & 8u) != 0 ? value.w : 0.0f);
    }
};

// acc (16, WarpN) += A (16, 32) * B (WarpN, 32)^T: rows a_row.. and b_row.. of the tiles, from byte
// `start` of their rows on.
template <typename T, typename A, typename B>
struct ProductByRows {
    static constexpr int kARow = A::kRowBytes;
    static constexpr int kBRow = B::kRowBytes;
    uint32_t a_offset, b_offset[2];

    __device__ __forceinline__ ProductByRows(int a_row, int b_row) {
        const int lane = threadIdx.x % 32;
        if constexpr (kTensorCore<T>) {
            a_offset = byte_offset<T, A>(a_row + lane % 16, lane / 16);
            b_offset[0] = byte_offset<T, B>(b_row + lane % 8 + 8 * (lane / 16), lane / 8 % 2);
        } else {
            a_offset = byte_offset<T, A>(a_row + lane / 4, 0);
            b_offset[0] = byte_offset<T, B>(b_row + lane % 4 * 2, 0);
            b_offset[1] = byte_offset<T, B>(b_row + lane % 4 * 2 + 1, 0);
            pin(b_offset[1]);
        }
        pin(a_offset);
        pin(b_offset[0]);
    }

    template <int WarpN, typename Mask>
    __device__ __forceinline__ void add_to(Accumulator<16, WarpN>& acc, uint32_t a_tile,
                                           uint32_t b_tile, int start, const Mask& mask) const {
        const uint32_t a_at = a_tile + a_offset;
        const uint32_t b_at[2] = {b_tile + b_offset[0], b_tile + b_offset[1]};
        if constexpr (kTensorCore<T>) {
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                uint32_t a[4];  // m16k16
                ptx::ldmatrix_x4(a, a_at ^ (start + k * kMmaK * kSize<T>));
                mask.fragment(a, k);
#pragma unroll
                for (int j = 0; j < WarpN / 16; ++j) {
                    uint32_t b[4];  // k16n16
                    ptx::ldmatrix_x4(b,
                                     (b_at[0] ^ (start + k * kMmaK * kSize<T>)) + j * 16 * kBRow);
                    ptx::mma_m16n8k16<T>(acc.value[0][2 * j], a, b[0], b[1]);
                    ptx::mma_m16n8k16<T>(acc.value[0][2 * j + 1], a, b[2], b[3]);
                }
            }
        } else {
#pragma unroll 2
            for (int k = 0; k < 32; k += 4) {
                float4 a[2];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    a[half] = mask.quad(
                        ptx::load_shared_quad((a_at ^ (start + k * kSize<T>)) + half * 8 * kARow),
                        half, k);
                }
#pragma unroll
                for (int j = 0; j < WarpN / 8; ++j) {
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const float4 b = ptx::load_shared_quad((b_at[e] ^ (start + k * kSize<T>)) +
                                                               j * 8 * kBRow);
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
};

// acc (16, WarpN) += A (16, depth) * B (depth, WarpN): rows a_row.. of one tile, all its columns,
// and columns b_column.. of as many rows of another.
template <typename T, typename A, typename B>
struct ProductOfRows {
    static constexpr int kARow = A::kRowBytes;
    static constexpr int kBRow = B::kRowBytes;
    uint32_t a_offset, b_offset;

    __device__ __forceinline__ ProductOfRows(int a_row, int b_column) {
        const int lane = threadIdx.x % 32;
        if constexpr (kTensorCore<T>) {
            a_offset = byte_offset<T, A>(a_row + lane % 16, lane / 16);
            b_offset = byte_offset<T, B>(lane % 16, b_column / kChunk<T> + lane / 16);
        } else {
            a_offset = byte_offset<T, A>(a_row + lane / 4, 0);
            b_offset = (b_column + lane % 4 * 2) * kSize<T>;
        }
        pin(a_offset);
        pin(b_offset);
    }

    template <int WarpN>
    __device__ __forceinline__ void add_to(Accumulator<16, WarpN>& acc, uint32_t a_tile,
                                           uint32_t b_tile) const {
        const uint32_t a_at = a_tile + a_offset;
        const uint32_t b_at = b_tile + b_offset;
        if constexpr (kTensorCore<T>) {
#pragma unroll
            for (int k = 0; k < A::kColumns / 16; ++k) {
                uint32_t a[4];  // m16k16
                ptx::ldmatrix_x4(a, a_at ^ (k * kMmaK * kSize<T>));
#pragma unroll
                for (int j = 0; j < WarpN / 16; ++j) {
                    uint32_t b[4];  // k16n16
                    ptx::ldmatrix_x4_trans(b, (b_at ^ (16 * j * kSize<T>)) + k * 16 * kBRow);
                    ptx::mma_m16n8k16<T>(acc.value[0][2 * j], a, b[0], b[1]);
                    ptx::mma_m16n8k16<T>(acc.value[0][2 * j + 1], a, b[2], b[3]);
                }
            }
        } else {
#pragma unroll 1
            for (int k = 0; k < A::kColumns; k += 8) {
#pragma unroll
                for (int q = 0; q < 8; q += 4) {
                    float4 a[2];
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        a[half] =
                            ptx::load_shared_quad((a_at ^ ((k + q) * kSize<T>)) + half * 8 * kARow);
                    }
#pragma unroll
                    for (int d = q; d < q + 4; ++d) {
#pragma unroll
                        for (int j = 0; j < WarpN / 8; ++j) {
                            const float2 b = ptx::load_shared_pair(
                                row_below<B>(b_at ^ (8 * j * kSize<T>), d) + k * kBRow);
#pragma unroll
                            for (int half = 0; half < 2; ++half) {
                                const float4& four = a[half];
                                const float value = d % 4 == 0   ? four.x
                                                    : d % 4 == 1 ? four.y
                                                    : d % 4 == 2 ? four.z
                                                                 : four.w;
                                acc.value[0][j][2 * half] =
                                    fmaf(value, b.x, acc.value[0][j][2 * half]);
                                acc.value[0][j][2 * half + 1] =
                                    fmaf(value, b.y, acc.value[0][j][2 * half + 1]);
                            }
                        }
                    }
                }
            }
        }
    }
};

// A mask for A (depth, columns) stored with contiguous columns that keeps everything.
struct KeepAllColumns {
    struct Step {
        __device__ __forceinline__ void fragment(uint32_t (&)[4], int) const {}
        __device__ __forceinline__ float element(float value, int) const { return value; }
    };
    __device__ __forceinline__ Step depth_step(int) const { return {}; }
    __device__ __forceinline__ Step row(int) const { return {}; }
};

// Keep bits of A (depth, columns): shared memory holds a 64-bit word per row, one row after the
// other. `words` is the address of the 32 bits of row 0 that this warp's columns are in, `first`
// the byte there of its first column.
struct KeepColumns {
    uint32_t words;  // for mma of row 2 * (lane % 4), this lane's first
    int first;

    __device__ __forceinline__ KeepColumns(uint32_t words_address, int first_byte, bool for_mma)
        : words(words_address + (for_mma ? threadIdx.x % 4 * 16 : 0)), first(first_byte) {
        pin(words);
    }
    // The same where the words are `bytes` further on
    __device__ __forceinline__ KeepColumns in_tile(uint32_t bytes) const {
        KeepColumns moved = *this;
        moved.words += bytes;
        return moved;
    }

    // Sixteen rows as mma takes them: this lane holds column lane / 4 of every eight, of the rows
    // `even` + 1 in the other half of a register
    struct Step {
        uint32_t even[2], odd[2];
        int first;

        // Columns 16 * i to + 15
        __device__ __forceinline__ void fragment(uint32_t (&a)[4], int i) const {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                a[e] &= dropout::pair_mask(even[e / 2], odd[e / 2], first + 2 * i + e % 2);
            }
        }
    };
    __device__ __forceinline__ Step depth_step(int depth) const {
        const int shift = 7 - threadIdx.x % 32 / 4;
        const uint32_t at = words + depth * 8;
        Step step;
        step.first = first;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            step.even[half] = ptx::load_shared(at + half * 64) << shift;
            step.odd[half] = ptx::load_shared(at + half * 64 + 8) << shift;
        }
        return step;
    }

    struct Row {
        uint32_t bits;
        // Column 8 * i + lane / 4
        __device__ __forceinline__ float element(float value, int i) const {
            return (bits >> 8 * i & 1u) != 0 ? value : 0.0f;
        }
    };
    __device__ __forceinline__ Row row(int depth) const {
        return {ptx::load_shared(words + depth * 8) >> (8 * first + threadIdx.x % 32 / 4)};
    }
};

// acc (WarpM, WarpN) += A^T * B: columns a_column.. of one tile, all its rows, and the columns of
// as many rows of another.
template <typename T, typename A, typename B>
struct ProductOfColumns {
    static constexpr int kARow = A::kRowBytes;
    static constexpr int kBRow = B::kRowBytes;
    uint32_t a_offset, b_offset;

    __device__ __forceinline__ explicit ProductOfColumns(int a_column) {
        const int lane = threadIdx.x % 32;
        if constexpr (kTensorCore<T>) {
            a_offset =
                byte_offset<T, A>(lane % 8 + 8 * (lane / 16), a_column / kChunk<T> + lane / 8 % 2);
            b_offset = byte_offset<T, B>(lane % 16, lane / 16);
        } else {
            a_offset = (a_column + lane / 4) * kSize<T>;
            b_offset = lane % 4 * 2 * kSize<T>;
        }
        pin(a_offset);
        pin(b_offset);
    }

    template <int WarpM, int WarpN, typename Mask>
    __device__ __forceinline__ void add_to(Accumulator<WarpM, WarpN>& acc, uint32_t a_tile,
                                           uint32_t b_tile, const Mask& mask) const {
        const uint32_t a_at = a_tile + a_offset;
        const uint32_t b_at = b_tile + b_offset;
        if constexpr (kTensorCore<T>) {
#pragma unroll
            for (int k = 0; k < A::kRows / 16; ++k) {
                const auto keep = mask.depth_step(16 * k);
                uint32_t a[WarpM / 16][4];  // m16k16 each
#pragma unroll
                for (int i = 0; i < WarpM / 16; ++i) {
                    ptx::ldmatrix_x4_trans(a[i], (a_at ^ (16 * i * kSize<T>)) + k * 16 * kARow);
                    keep.fragment(a[i], i);
                }
#pragma unroll
                for (int j = 0; j < WarpN / 16; ++j) {
                    uint32_t b[4];  // k16n16
                    ptx::ldmatrix_x4_trans(b, (b_at ^ (16 * j * kSize<T>)) + k * 16 * kBRow);
#pragma unroll
                    for (int i = 0; i < WarpM / 16; ++i) {
                        ptx::mma_m16n8k16<T>(acc.value[i][2 * j], a[i], b[0], b[1]);
                        ptx::mma_m16n8k16<T>(acc.value[i][2 * j + 1], a[i], b[2], b[3]);
                    }
                }
            }
        } else {
#pragma unroll 1
            for (int k = 0; k < A::kRows; k += 8) {
#pragma unroll
                for (int d = 0; d < 8; ++d) {
                    const auto keep = mask.row(k + d);
                    float a[WarpM / 8];
#pragma unroll
                    for (int i = 0; i < WarpM / 8; ++i) {
                        a[i] = keep.element(
                            ptx::load_shared_float(row_below<A>(a_at ^ (8 * i * kSize<T>), d) +
                                                   k * kARow),
                            i);
                    }
#pragma unroll
                    for (int j = 0; j < WarpN / 8; ++j) {
                        const float2 b = ptx::load_shared_pair(
                            row_below<B>(b_at ^ (8 * j * kSize<T>), d) + k * kBRow);
#pragma unroll
                        for (int i = 0; i < WarpM / 8; ++i) {
                            float(&sum)[4] = acc.value[i / 2][j];
                            sum[i % 2 * 2] = fmaf(a[i], b.x, sum[i % 2 * 2]);
                            sum[i % 2 * 2 + 1] = fmaf(a[i], b.y, sum[i % 2 * 2 + 1]);
                        }
                    }
                }
            }
        }
    }
};
