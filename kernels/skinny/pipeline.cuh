// What the skinny kernels have in common: their pipeline, and how a thread copies its share of each
// tile. Addresses are advanced from tile to tile, not computed again.
#pragma once
#include "common/tile.cuh"
#include "ptx/shared.cuh"

// The dynamic shared memory of a block. Its alignment lets an exclusive or of an address step from
// chunk to chunk of a row of up to 1 KiB.
__device__ __forceinline__ uint8_t* block_memory() {
    extern __shared__ __align__(1024) uint8_t skinny_shared[];
    return skinny_shared;
}

// Zeroes what the blocks of a later launch of the same call count arrivals with. The index is
// unsigned, since grids may have more threads than an int counts.
template <int Threads>
__device__ __forceinline__ void zero_counters(uint32_t* counters, int count) {
    for (uint32_t i = blockIdx.x * Threads + threadIdx.x; i < static_cast<uint32_t>(count);
         i += gridDim.x * Threads) {
        counters[i] = 0;
    }
}

// `Stages` buffers in shared memory, filled ahead of use, with one barrier and one wait per step.
// For each of `steps` steps, issue(step, stage) is called ahead of consume(step, stage). It starts
// cp.async copies, stores what it gathers element by element, or loads into registers what
// store(step, stage) writes to shared memory after a consume() has hidden the latency. On return
// all copies have landed and every thread has finished reading.
template <int Stages, typename Issue, typename Store, typename Consume>
__device__ __forceinline__ void pipeline(int steps, Issue&& issue, Store&& store,
                                         Consume&& consume) {
    static_assert(Stages >= 2, "one buffer is read while another is filled");
    int read = 0, write = Stages - 1;
    // The steps before the first only fill.
#pragma unroll 1
    for (int step = 1 - Stages; step < steps; ++step) {
        const int next = step + Stages - 1;
        if (step >= 0) {
            // Every step commits one group, at the end an empty one, so the count of pending groups
            // always names this step's.
            ptx::cp_async_wait<Stages - 2>();
            // From here on this step's tiles are visible to all threads, and none reads the buffer
            // that is filled next.
            __syncthreads();
        } else {
            write = next;
        }
        if (next < steps) {
            issue(next, write);
        }
        ptx::cp_async_commit();
        if (step >= 0) {
            consume(step, read);
            read = read + 1 == Stages ? 0 : read + 1;
        }
        if (next < steps) {
            store(next, write);
        }
        write = write + 1 == Stages ? 0 : write + 1;
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
}

// Four neighbours rounded to T, to an address in shared memory
template <typename T>
__device__ __forceinline__ void store_shared_quad(uint32_t to, float4 value) {
    if constexpr (kTensorCore<T>) {
        ptx::store_shared(
            to, make_uint2(pack_pair<T>(value.x, value.y), pack_pair<T>(value.z, value.w)));
    } else {
        ptx::store_shared(to, value);
    }
}

// A thread's chunks of a Tile<T, Rows, Columns>: chunk() of rows row(0), row(1) ... row(kPasses -
// 1)
template <int Threads, typename T, int Rows, int Columns>
struct TileCopy {
    using To = Tile<T, Rows, Columns>;
    static constexpr int kRowsPerPass = Threads / To::kChunksPerRow;
    static constexpr int kPasses = Rows / kRowsPerPass;
    static constexpr int kPassBytes = kRowsPerPass * Columns * static_cast<int>(sizeof(T));
    static_assert(Rows % kRowsPerPass == 0 && kRowsPerPass % 8 == 0,
                  "passes cover the tile, and all have the same swizzle");

    const T* from[kPasses];
    uint32_t offset;  // in bytes, of this thread's first chunk in the tile; the others follow
                      // kPassBytes apart

    __device__ __forceinline__ TileCopy()
        : offset(To::chunk_offset(row(0), threadIdx.x % To::kChunksPerRow) *
                 static_cast<int>(sizeof(T))) {
        pin(offset);
    }
    __device__ __forceinline__ static int column() {
        return threadIdx.x % To::kChunksPerRow * kChunk<T>;
    }
    __device__ __forceinline__ static int row(int pass) {
        return threadIdx.x / To::kChunksPerRow + pass * kRowsPerPass;
    }

    __device__ __forceinline__ void advance(int64_t elements) {
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            from[pass] += elements;
        }
    }

    // Copies full chunks to the tile at shared address `to`.
    __device__ __forceinline__ void full(uint32_t to) const {
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            ptx::cp_async_16(to + offset + pass * kPassBytes, from[pass]);
        }
    }

    // Copies valid(pass) elements of each chunk and fills with zeros. With `Vectorised` by
    // cp.async, else by plain loads of any alignment.
    template <bool Vectorised, typename F>
    __device__ __forceinline__ void partial(uint32_t to, F&& valid_of) const {
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const int valid = max(0, min(valid_of(pass), kChunk<T>));
            const uint32_t at = to + offset + pass * kPassBytes;
            if constexpr (Vectorised) {
                ptx::cp_async_16(at, from[pass], valid * static_cast<int>(sizeof(T)));
            } else {
                ptx::store_shared(at, gather_chunk(from[pass], valid));
            }
        }
    }
};
