// From accumulators to the output. Each warp turns eight rows at a time from the layout of mma into
// whole lines, through shared memory of its own. Every access to global memory then has 16 bytes,
// and a warp's accesses cover whole sectors.
#pragma once
#include "common/accumulator.cuh"
#include "ptx/shared.cuh"

// Neighbouring elements of an output row, as f32. They are 16 bytes of the output, which a lane
// finishes at once.
template <typename T>
using Span = float[kChunk<T>];

template <typename T>
__device__ __forceinline__ void load_span(Span<T>& values, const T* from) {
    const uint4 raw = *reinterpret_cast<const uint4*>(from);
#pragma unroll
    for (int i = 0; i < kChunk<T>; ++i) {
        values[i] = to_float(reinterpret_cast<const T*>(&raw)[i]);
    }
}

template <typename T>
__device__ __forceinline__ void store_span(T* to, const Span<T>& values) {
    uint4 raw;
#pragma unroll
    for (int i = 0; i < kChunk<T>; ++i) {
        reinterpret_cast<T*>(&raw)[i] = from_float<T>(values[i]);
    }
    *reinterpret_cast<uint4*>(to) = raw;
}

// Where a product goes.
template <typename T>
struct Output {
    T* data;  // (rows, columns)
    int64_t stride;
    int rows, columns;
    bool vectorised;  // rows start at multiples of 16 bytes
    bool accumulate;  // added to what is there
};

template <typename T, int WarpM, int WarpN>
struct Epilogue {
    static constexpr int kRows = 8;  // turned at once
    static constexpr int kStagingRowBytes = WarpN * kSize<float>;
    static constexpr int kStagingBytes = kRows * kStagingRowBytes;  // of one warp
    static constexpr int kSpansPerRow = WarpN / kChunk<T>;
    static constexpr int kSpansPerLane = kRows * kSpansPerRow / 32;
    static_assert(kSpansPerLane >= 1 && 32 % kSpansPerRow == 0,
                  "a lane finishes the same columns of several rows");

    // out (m, n) = acc + bias, rounded once, or that added to out. The warp's part begins at (row0,
    // column0); `bias` (n) may be null.
    __device__ __forceinline__ static void store(const Accumulator<WarpM, WarpN>& acc,
                                                 uint32_t staging, const Output<T>& out, int row0,
                                                 int column0, const T* bias) {
        uint32_t lane = threadIdx.x % 32;
        // The main loop has no registers for what follows from the lane, so it is computed here,
        // once per tile.
        pin(lane);
        const int span = lane % kSpansPerRow;
        const int column = column0 + span * kChunk<T>;
        const int columns = min(out.columns - column,
                                kChunk<T>);  // of this lane's spans; none outside of the matrix
        const bool full = out.vectorised && columns == kChunk<T>;
        Span<T> shift = {};
        if (bias != nullptr && full) {
            load_bias(shift, bias + column);
        }
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int j = 0; j < WarpN / 8; ++j) {
                    // As one access: two of four bytes would meet in a bank.
                    ptx::store_shared(
                        chunk(staging, lane / 4, 2 * j + lane % 4 / 2) + lane % 2 * 8,
                        make_float2(acc.value[i][j][2 * half], acc.value[i][j][2 * half + 1]));
                }
                __syncwarp();
#pragma unroll 1
                for (int k = 0; k < kSpansPerLane; ++k) {
                    const int tile_row = k * (32 / kSpansPerRow) + lane / kSpansPerRow;
                    const int row = row0 + 16 * i + 8 * half + tile_row;
                    if (row >= out.rows) {
                        break;
                    }
                    T* const to = out.data + row * out.stride + column;
                    if (full) {
                        finish(to, staging, tile_row, span, shift, out.accumulate);
                    } else {
                        finish_elements(to, staging, tile_row, span, columns,
                                        bias == nullptr ? nullptr : bias + column, out.accumulate);
                    }
                }
                __syncwarp();
            }
        }
    }

   private:
    // The staging (8, WarpN) of f32 has chunks of four, swizzled by pairs: the lanes of half a warp
    // write to different banks.
    __device__ __forceinline__ static uint32_t chunk(uint32_t staging, int row, int chunk) {
        return staging + row * kStagingRowBytes + (chunk ^ (row % 4 * 2)) * 16;
    }
    __device__ __forceinline__ static float4 load_chunk(uint32_t staging, int row, int index) {
        return ptx::load_shared_quad(chunk(staging, row, index));
    }

    __device__ __forceinline__ static void load_staged(Span<T>& values, uint32_t staging, int row,
                                                       int span) {
        float4 low, high;
        if constexpr (sizeof(T) < sizeof(float)) {  // a span is two chunks of the staging
            // Lanes that would meet in a bank take the halves of their spans in opposite order.
            const bool swapped = threadIdx.x / 4 % 2 != 0;
            const float4 first = load_chunk(staging, row, 2 * span + (swapped ? 1 : 0));
            const float4 second = load_chunk(staging, row, 2 * span + (swapped ? 0 : 1));
            low = swapped ? second : first;
            high = swapped ? first : second;
            values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
        } else {
            low = load_chunk(staging, row, span);
        }
        values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    }

    __device__ __forceinline__ static void load_bias(Span<T>& shift, const T* bias) {
        if (reinterpret_cast<uintptr_t>(bias) % 16 == 0) {
            load_span(shift, bias);
            return;
        }
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
            shift[i] = to_float(bias[i]);
        }
    }

    __device__ __forceinline__ static void finish(T* to, uint32_t staging, int row, int span,
                                                  const Span<T>& shift, bool accumulate) {
        Span<T> values;
        load_staged(values, staging, row, span);
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
            values[i] += shift[i];
        }
        if (accumulate) {
            Span<T> before;
            load_span(before, to);
#pragma unroll
            for (int i = 0; i < kChunk<T>; ++i) {
                values[i] += before[i];
            }
        }
        store_span(to, values);
    }

    // As finish, for spans that 16-byte accesses can't take.
    __device__ __forceinline__ static void finish_elements(T* to, uint32_t staging, int row,
                                                           int span, int columns, const T* bias,
                                                           bool accumulate) {
#pragma unroll 1
        for (int i = 0; i < columns; ++i) {
            float value = ptx::load_shared_float(chunk(staging, row, (span * kChunk<T> + i) / 4) +
                                                 i % 4 * kSize<float>);
            value += bias != nullptr ? to_float(bias[i]) : 0.0f;
            value += accumulate ? to_float(to[i]) : 0.0f;
            to[i] = from_float<T>(value);
        }
    }
};
