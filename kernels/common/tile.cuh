// A matrix tile in shared memory, and how it gets there.
//
// A row consists of 16-byte chunks. Chunk c of a row lies at c XOR (bits of the row), so eight
// neighbouring rows of one column of chunks fall into eight different groups of four banks.
// ldmatrix and cp.async are free of bank conflicts without padding.
#pragma once
#include "common/element.cuh"
#include "ptx/cp_async.cuh"

// Which index of an operand is contiguous in its tile: the depth k, or the row (m) or column (n) of
// the output.
enum class Major { kK, kMN };

template <typename T, int Rows, int Columns>
struct Tile {
    static constexpr int kElementBytes = static_cast<int>(sizeof(T));
    static constexpr int kRows = Rows;
    static constexpr int kColumns = Columns;
    static constexpr int kChunkElements = kChunk<T>;
    static constexpr int kChunksPerRow = Columns / kChunk<T>;
    static constexpr int kElements = Rows * Columns;
    static constexpr int kRowBytes = Columns * kElementBytes;
    static constexpr int kBytes = kElements * kElementBytes;
    static_assert(Columns % kChunk<T> == 0 && (kChunksPerRow & (kChunksPerRow - 1)) == 0,
                  "a row is a power of two of chunks");

    T* data;  // (Rows, Columns), swizzled

    // Rows that share one 128-byte line of banks take the same swizzle.
    static constexpr int kRowsPerLine = kChunksPerRow >= 8 ? 1 : 8 / kChunksPerRow;
    static constexpr int kSwizzleMask = (kChunksPerRow >= 8 ? 8 : kChunksPerRow) - 1;

    __device__ __forceinline__ static int chunk_offset(int row, int chunk) {
        return row * Columns + (chunk ^ ((row / kRowsPerLine) & kSwizzleMask)) * kChunk<T>;
    }
    __device__ __forceinline__ T* chunk(int row, int chunk) const {
        return data + chunk_offset(row, chunk);
    }
    __device__ __forceinline__ T* at(int row, int column) const {
        return data + chunk_offset(row, column / kChunk<T>) + column % kChunk<T>;
    }
    __device__ __forceinline__ uint32_t chunk_address(int row, int chunk) const {
        return ptx::shared_address(data + chunk_offset(row, chunk));
    }
};

// Calls f(row, chunk) for this thread's chunks of a tile. It is for a few tiles only, and keeps no
// registers in a main loop.
template <int Threads, typename T, int Rows, int Columns, typename F>
__device__ __forceinline__ void for_each_chunk(Tile<T, Rows, Columns>, F&& f) {
    constexpr int kChunksPerRow = Tile<T, Rows, Columns>::kChunksPerRow;
    uint32_t thread = threadIdx.x;
    pin(thread);
#pragma unroll 1
    for (int index = thread; index < Rows * kChunksPerRow; index += Threads) {
        f(index / kChunksPerRow, index % kChunksPerRow);
    }
}

// A matrix in global memory with contiguous columns. Reads outside (rows, columns) give zero.
template <typename T>
struct Source {
    const T* data;
    int64_t stride;  // elements from row to row
    int rows, columns;
};

// Eight 16-bit or four 32-bit elements one by one, for addresses that no vector load may touch.
template <typename T>
__device__ __forceinline__ uint4 gather_chunk(const T* from, int valid) {
    alignas(16) T values[kChunk<T>];
#pragma unroll
    for (int i = 0; i < kChunk<T>; ++i) {
        values[i] = i < valid ? from[i] : from_float<T>(0.0f);
    }
    return *reinterpret_cast<const uint4*>(values);
}

// Brings the tile whose first element is (row0, column0) of `source`. With `vectorised` it uses
// cp.async, which the caller commits and waits for, and `source.data` and its rows must be 16-byte
// aligned. Without, it uses plain loads and stores, of any alignment.
template <int Threads, typename T, int Rows, int Columns>
__device__ __forceinline__ void load_tile(Tile<T, Rows, Columns> tile, const Source<T>& source,
                                          int row0, int column0, bool vectorised) {
    for_each_chunk<Threads>(tile, [&](int row, int chunk) {
        const int column = column0 + chunk * kChunk<T>;
        int valid = row0 + row < source.rows ? source.columns - column : 0;
        valid = max(0, min(valid, kChunk<T>));
        // Where nothing is valid the address is not read, but it must still be a good one.
        const T* from =
            valid > 0 ? source.data + (row0 + row) * source.stride + column : source.data;
        if (vectorised) {
            ptx::cp_async_16(tile.chunk_address(row, chunk), from,
                             valid * static_cast<int>(sizeof(T)));
        } else {
            *reinterpret_cast<uint4*>(tile.chunk(row, chunk)) = gather_chunk(from, valid);
        }
    });
}
