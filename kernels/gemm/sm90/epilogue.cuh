// From the accumulators of a warpgroup to the output, through shared memory and TMA: in chunks of
// 64 rows and 64 columns, whose stores go on while the next chunk, and then the next tile, is
// multiplied.
#pragma once
#include "common/element.cuh"
#include "ptx/barrier.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/shared.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"

namespace sm90 {

inline constexpr int kWarpgroup = 128;  // threads

// Barriers of parts of a block: the consumers have one together, and each warpgroup of them one of
// its own.
inline constexpr int kConsumersBarrier = 1;
__device__ __forceinline__ int warpgroup_barrier() {
    return 2 + static_cast<int>(threadIdx.x) / kWarpgroup;
}

// Where a product goes.
template <typename T>
struct Output {
    const void* map;  // of boxes of 64 rows and 64 columns, swizzled by 128 bytes, where `mapped`
    T* data;          // (rows, columns)
    int64_t stride;
    int rows, columns;
    bool mapped;      // TMA can take it
    bool accumulate;  // added to what is there
};

// Of a warpgroup's part of a tile: kBlocks times 64 rows, kColumns columns. acc[b][j][e] is row 64
// * b + 16 * warp + lane / 4 + 8 * (e / 2), column 8 * j + 2 * (lane % 4) + e % 2, as wgmma leaves
// it.
template <typename T, int kBlocks, int kColumns>
struct Epilogue {
    static_assert(sizeof(T) == 2 && kColumns % 64 == 0, "a row of a chunk is 128 bytes");
    static constexpr int kChunkRows = 64, kChunkColumns = 64;
    static constexpr int kChunksAcross = kColumns / kChunkColumns;
    static constexpr int kChunks = kBlocks * kChunksAcross;
    static constexpr int kRowBytes = kChunkColumns * kSize<T>;
    static constexpr int kBufferBytes = kChunkRows * kRowBytes;
    static constexpr int kBuffers = kChunks == 1 ? 1 : 2;
    // Of a warpgroup, at a multiple of 1024 bytes
    static constexpr int kStagingBytes = kBuffers * kBufferBytes;
    static constexpr int kBarrierBytes = kBuffers * ptx::kMbarrierBytes;

    using Acc = float[kBlocks][kColumns / 8][4];

    // What is in the output and is to be added to comes into a buffer before its chunk does. On
    // `barriers`, one for each buffer, the issuing thread arrives alone, with the bytes of a chunk,
    // and all threads of the warpgroup wait. A phase is one chunk that came.
    uint32_t staging, barriers;
    uint32_t thread;        // of the block
    uint32_t parities = 0;  // bit b: of the phase that buffer b's next chunk completes

    __device__ __forceinline__ Epilogue(uint32_t staging_address, uint32_t barriers_address)
        : staging(staging_address), barriers(barriers_address), thread(threadIdx.x) {}

    // By one thread, before the block's first barrier
    __device__ __forceinline__ static void init_barriers(uint32_t barriers) {
#pragma unroll
        for (int buffer = 0; buffer < kBuffers; ++buffer) {
            ptx::mbarrier_init(barriers + buffer * ptx::kMbarrierBytes, 1);
        }
    }

    // out = scaling * acc + bias, rounded once, or that added to out. The warpgroup's part begins
    // at (row0, column0), inside or outside of the output; `bias` (columns) may be null.
    __device__ __forceinline__ void store(const Acc& acc, const Output<T>& out, int row0,
                                          int column0, float scaling, const T* bias) {
        // What follows from the thread is computed here, once per tile: the main loop has no
        // registers for it.
        pin(thread);
        if (row0 >= out.rows) {
            return;
        }
        const bool mapped_load = out.accumulate && out.mapped;
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) {
            const int row = row0 + chunk / kChunksAcross * kChunkRows;
            const int column = column0 + chunk % kChunksAcross * kChunkColumns;
            const uint32_t buffer = staging + chunk % kBuffers * kBufferBytes;
            uint32_t shift[kChunkColumns / 8];  // bias of this thread's pairs of columns
            load_bias(shift, bias, column, out.columns);
            // A store belongs to the thread that issued it: only that thread can wait until the
            // store has read its buffer, and tells the others at the barrier. Those that bring old
            // chunks ahead need the other buffer too.
            if (issues()) {
                if (mapped_load || kBuffers == 1) {
                    ptx::bulk_wait_read<0>();
                } else {
                    ptx::bulk_wait_read<1>();
                }
            }
            ptx::barrier_sync(warpgroup_barrier(), kWarpgroup);
            if (mapped_load && issues()) {
                if (chunk == 0) {
                    load_old(out, 0, row0, column0);
                }
                if (chunk + 1 < kChunks) {
                    load_old(out, chunk + 1, row0, column0);
                }
            }
            const auto& fragments = reinterpret_cast<const Fragments&>(
                acc[chunk / kChunksAcross][chunk % kChunksAcross * (kChunkColumns / 8)]);
            if (out.accumulate) {
                if (out.mapped) {
                    wait_old(chunk % kBuffers);
                } else {
                    gather_old(buffer, out, row, column);
                }
                stage<true>(buffer, fragments, scaling, shift);
            } else {
                stage<false>(buffer, fragments, scaling, shift);
            }
            if (!out.mapped) {
                __syncwarp();
                scatter(buffer, out, row, column);
            }
            // Of every thread that has used the buffer: TMA reads or overwrites it next.
            ptx::fence_proxy_async();
            if (out.mapped) {
                ptx::barrier_sync(warpgroup_barrier(), kWarpgroup);
                if (issues()) {
                    ptx::tma_store(out.map, column, row, buffer);
                }
            }
            if (issues()) {
                ptx::bulk_commit();  // one group per chunk, so that waits can count them
            }
        }
    }

    // Before the warpgroup leaves: shared memory must outlive the stores that read it.
    __device__ __forceinline__ void finish() const {
        if (issues()) {
            ptx::bulk_wait_read<0>();
        }
    }

   private:
    using Fragments = float[kChunkColumns / 8][4];

    // The thread that issues the warpgroup's copies
    __device__ __forceinline__ bool issues() const { return thread % kWarpgroup == 0; }

    __device__ __forceinline__ int lane() const { return thread % 32; }
    // First row of this thread's warp in a chunk
    __device__ __forceinline__ int warp_row() const {
        return thread % kWarpgroup / 32 * (kChunkRows / 4);
    }
    // Address of an element in a buffer: TMA's swizzle moves the 16 bytes c of a row to c XOR row %
    // 8.
    __device__ __forceinline__ static uint32_t element(uint32_t buffer, int row, int column) {
        return buffer + row * kRowBytes +
               ((column / kChunk<T> ^ row % 8) * kChunk<T> + column % kChunk<T>)*kSize<T>;
    }

    __device__ __forceinline__ void load_bias(uint32_t (&shift)[kChunkColumns / 8], const T* bias,
                                              int column, int columns) {
        const bool pairs = reinterpret_cast<uintptr_t>(bias) % (2 * sizeof(T)) == 0;
#pragma unroll
        for (int j = 0; j < kChunkColumns / 8; ++j) {
            const int at = column + 8 * j + lane() % 4 * 2;
            shift[j] = 0;
            if (bias != nullptr && at < columns) {
                const uint16_t* const from = reinterpret_cast<const uint16_t*>(bias) + at;
                if (pairs && at + 1 < columns) {
                    shift[j] = __ldg(reinterpret_cast<const uint32_t*>(from));
                } else {
                    shift[j] =
                        __ldg(from) | (at + 1 < columns ? uint32_t{__ldg(from + 1)} << 16 : 0);
                }
            }
        }
    }

    // Issues the load of what is in the output at a chunk.
    __device__ __forceinline__ void load_old(const Output<T>& out, int chunk, int row0,
                                             int column0) const {
        const uint32_t barrier = barriers + chunk % kBuffers * ptx::kMbarrierBytes;
        ptx::mbarrier_arrive_expect(barrier, kBufferBytes);
        ptx::tma_load(staging + chunk % kBuffers * kBufferBytes, out.map,
                      column0 + chunk % kChunksAcross * kChunkColumns,
                      row0 + chunk / kChunksAcross * kChunkRows, barrier);
    }

    __device__ __forceinline__ void wait_old(int buffer) {
        ptx::mbarrier_wait(barriers + buffer * ptx::kMbarrierBytes, parities >> buffer & 1);
        parities ^= 1u << buffer;
    }

    // Calls f(row, column, address) for the elements of this warp's rows of a chunk that lie inside
    // of the output, neighbours at once.
    template <typename F>
    __device__ __forceinline__ void for_each_inside(uint32_t buffer, const Output<T>& out, int row0,
                                                    int column0, F&& f) {
        const int rows = min(out.rows - row0 - warp_row(), kChunkRows / 4);
#pragma unroll 2
        for (int i = 0; i < rows; ++i) {
            const int row = warp_row() + i;
#pragma unroll
            for (int column = lane(); column < kChunkColumns; column += 32) {
                if (column0 + column < out.columns) {
                    f(reinterpret_cast<uint16_t*>(out.data) + (row0 + row) * out.stride + column0 +
                          column,
                      element(buffer, row, column));
                }
            }
        }
    }

    // What is in the output, for the warp that adds to it
    __device__ __forceinline__ void gather_old(uint32_t buffer, const Output<T>& out, int row0,
                                               int column0) {
        for_each_inside(buffer, out, row0, column0,
                        [](const uint16_t* from, uint32_t to) { ptx::store_shared(to, *from); });
        __syncwarp();
    }

    // To the output, whose rows lie at any address
    __device__ __forceinline__ void scatter(uint32_t buffer, const Output<T>& out, int row0,
                                            int column0) {
        for_each_inside(buffer, out, row0, column0,
                        [](uint16_t* to, uint32_t from) { *to = ptx::load_shared_half(from); });
    }

    // Finishes a chunk in its buffer.
    template <bool Accumulate>
    __device__ __forceinline__ void stage(uint32_t buffer, const Fragments& acc, float scaling,
                                          const uint32_t (&shift)[kChunkColumns / 8]) {
        // 16 rows and 16 columns at once: this lane gives the address of one row of a matrix 8x8.
        const int matrix = lane() / 8;
        const uint32_t first =
            element(buffer, warp_row() + matrix % 2 * 8 + lane() % 8, matrix / 2 * 8);
#pragma unroll
        for (int i = 0; i < kChunkColumns / 16; ++i) {
            const uint32_t at = first ^ i * 16 * kSize<T>;
            float value[2][4];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const T* const add = reinterpret_cast<const T*>(&shift[2 * i + j]);
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    value[j][e] = fmaf(scaling, acc[2 * i + j][e], to_float(add[e % 2]));
                }
            }
            if constexpr (Accumulate) {
                uint32_t old[4];
                ptx::ldmatrix_x4(old, at);
#pragma unroll
                for (int j = 0; j < 2; ++j) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        value[j][e] += to_float(reinterpret_cast<const T*>(old)[4 * j + e]);
                    }
                }
                __syncwarp();  // all lanes have their rows before any is written
            }
            const uint32_t packed[4] = {
                pack_pair<T>(value[0][0], value[0][1]), pack_pair<T>(value[0][2], value[0][3]),
                pack_pair<T>(value[1][0], value[1][1]), pack_pair<T>(value[1][2], value[1][3])};
            ptx::stmatrix_x4(at, packed);
        }
    }
};

}  // namespace sm90
