// What one thread copies of an operand's tile in every full step of a main loop: always the same
// chunks, each a fixed way further along the depth.
//
// Rows and columns outside of the matrix are clamped to its last ones. What they bring ends in rows
// and columns of the product that nobody stores, so a full step tests no bounds. The matrix must be
// a whole number of chunks wide where its tile is MN-major.
#pragma once
#include "common/tile.cuh"

template <int Threads, typename TileType>
struct CopyShape {
    static constexpr int kChunksPerRow = TileType::kChunksPerRow;
    static constexpr int kRowStep = Threads / kChunksPerRow;  // rows between two chunks of a thread
    static constexpr int kCount = TileType::kRows / kRowStep;
    static_assert(TileType::kRows % kRowStep == 0 && Threads % kChunksPerRow == 0,
                  "every thread copies as many chunks");
    static_assert(kRowStep / TileType::kRowsPerLine % (TileType::kSwizzleMask + 1) == 0,
                  "all chunks of a thread have the same swizzle");

    __device__ __forceinline__ static int row() { return threadIdx.x / kChunksPerRow; }
    __device__ __forceinline__ static int chunk() { return threadIdx.x % kChunksPerRow; }
    // From the start of a tile to this thread's first chunk; the others follow kStepBytes apart.
    __device__ __forceinline__ static uint32_t first_byte() {
        return TileType::chunk_offset(row(), chunk()) * TileType::kElementBytes;
    }
    static constexpr int kStepBytes = kRowStep * TileType::kColumns * TileType::kElementBytes;
};

// `direction` is 1 for steps along the depth, -1 for steps back. `mn0` is the tile's first row or
// column of the output.
template <int Threads, Major Layout, typename TileType, typename T>
struct StepCopies;

// Source and tile (mn, k). A tile's rows span less than 2^32 chunks.
template <int Threads, typename TileType, typename T>
struct StepCopies<Threads, Major::kK, TileType, T> {
    using Shape = CopyShape<Threads, TileType>;
    const T* from;                   // the tile's first row, at the depth of the step before
    uint32_t offset[Shape::kCount];  // from there to this thread's chunks, in chunks

    __device__ __forceinline__ void start(const Source<T>& source, int mn0, int k0, int direction) {
        from = source.data + mn0 * source.stride + k0 - direction * TileType::kColumns;
#pragma unroll
        for (int i = 0; i < Shape::kCount; ++i) {
            const uint32_t row = min(Shape::row() + i * Shape::kRowStep, source.rows - 1 - mn0);
            offset[i] = row * static_cast<uint32_t>(source.stride / kChunk<T>) + Shape::chunk();
        }
    }

    __device__ __forceinline__ void issue(uint32_t tile, int direction) {
        from += direction * TileType::kColumns;
#pragma unroll
        for (int i = 0; i < Shape::kCount; ++i) {
            ptx::cp_async_16(tile + Shape::first_byte() + i * Shape::kStepBytes,
                             reinterpret_cast<const uint4*>(from) + offset[i]);
        }
    }
};

// Source and tile (k, mn). Rows that a thread copies are less than 2^31 chunks apart.
template <int Threads, typename TileType, typename T>
struct StepCopies<Threads, Major::kMN, TileType, T> {
    using Shape = CopyShape<Threads, TileType>;
    const uint4* from;  // this thread's first chunk
    int row_step;       // chunks from one to the next

    __device__ __forceinline__ void start(const Source<T>& source, int mn0, int k0, int) {
        const int mn = min(mn0 + Shape::chunk() * kChunk<T>, source.columns - kChunk<T>);
        from =
            reinterpret_cast<const uint4*>(source.data + (k0 + Shape::row()) * source.stride + mn);
        row_step = Shape::kRowStep * static_cast<int>(source.stride / kChunk<T>);
    }

    __device__ __forceinline__ void issue(uint32_t tile, int direction) {
#pragma unroll
        for (int i = 0; i < Shape::kCount; ++i) {
            ptx::cp_async_16(tile + Shape::first_byte() + i * Shape::kStepBytes,
                             from + static_cast<int64_t>(row_step) * i);
        }
        from += static_cast<int64_t>(row_step) * (direction * Shape::kCount);
    }
};
