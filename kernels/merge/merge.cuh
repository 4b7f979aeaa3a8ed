// Adds adapters to a base weight, in f32 and rounded once, and counts what the rounding loses.
#pragma once
#include "common/element.cuh"
#include "common/params.cuh"
#include "common/table.cuh"

// The sum over a block's threads, in an order that depends on the block's size alone. Thread 0 gets
// it.
template <int Threads>
__device__ __forceinline__ MergeTotals block_sum(MergeTotals mine) {
    constexpr int kWarps = Threads / 32;
    __shared__ MergeTotals of_warp[kWarps];
    const auto add = [](MergeTotals& sum, const MergeTotals& other) {
        sum.delta_squares += other.delta_squares;
        sum.error_squares += other.error_squares;
        sum.nonzero += other.nonzero;
        sum.unchanged += other.unchanged;
        sum.non_finite += other.non_finite;
    };
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        MergeTotals other;
        other.delta_squares = __shfl_down_sync(~0u, mine.delta_squares, distance);
        other.error_squares = __shfl_down_sync(~0u, mine.error_squares, distance);
        other.nonzero = __shfl_down_sync(~0u, mine.nonzero, distance);
        other.unchanged = __shfl_down_sync(~0u, mine.unchanged, distance);
        other.non_finite = __shfl_down_sync(~0u, mine.non_finite, distance);
        add(mine, other);
    }
    if (threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = mine;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < kWarps; ++warp) {
            add(mine, of_warp[warp]);
        }
    }
    return mine;
}

// One block per tile of the weight as it is stored: merged (rows, columns) = weight + sum over
// adapters of scaling * down * across. down (rows, r) and across (r, columns) are lora_B and lora_A
// or, for a weight that is (k, n), their transposes. A thread has four rows and two quads of
// neighbouring columns.
template <typename T, typename Shape, Access A>
struct Merge {
    static constexpr bool kVectorised = A != Access::kAny;
    static constexpr int kThreads = Shape::kThreads;
    static constexpr int kRows = Shape::kRows;
    static constexpr int kColumns = Shape::kColumns;
    static constexpr int kBlockRows = kRows, kBlockColumns = kColumns;
    static constexpr int kSharedBytes = 0;  // dynamic ones

    static constexpr int kDepth = 16;  // ranks at a time
    static constexpr int kThreadRows = 4;
    static constexpr int kThreadColumns = 8;
    static constexpr int kThreadChunks = kThreadColumns / kChunk<T>;
    static constexpr int kColumnThreads = kColumns / kThreadColumns;
    static_assert(kThreads * kThreadRows * kThreadColumns == kRows * kColumns,
                  "the threads cover the tile");

    // These strides keep quads aligned, with few bank conflicts between lanes along the rank and
    // lanes along the rows or columns.
    static constexpr int kDownStride = kRows + 4;
    static constexpr int kQuadStride = kColumns / 2 + 16;
    static constexpr int kAcrossStride = 2 * kQuadStride - 12;

    struct Shared {
        float down[kDepth * kDownStride];      // (kDepth, kRows)
        float across[kDepth * kAcrossStride];  // (kDepth, kColumns): first quads of all threads,
                                               // then second ones
    };

    using Block = float[kThreadRows][kThreadColumns];

    // The first column of a thread's chunk, within the tile: neighbouring threads have neighbouring
    // chunks.
    __device__ __forceinline__ static int chunk_column(int chunk) {
        return (chunk * kColumnThreads + threadIdx.x % kColumnThreads) * kChunk<T>;
    }
    __device__ __forceinline__ static int first_row() {
        return threadIdx.x / kColumnThreads * kThreadRows;
    }

    // Where a column of `across` lies in its row.
    __device__ __forceinline__ static int across_place(int column) {
        const int chunk = column / kChunk<T>;
        const int quad = chunk / kColumnThreads + column % kChunk<T> / 4;
        return quad * kQuadStride + chunk % kColumnThreads * 4 + column % 4;
    }

    __device__ __forceinline__ static float element(const void* data, int64_t index, bool is_f32) {
        return is_f32 ? static_cast<const float*>(data)[index]
                      : to_float(static_cast<const T*>(data)[index]);
    }

    // lora_A (r, outers) from `outer0` on, lanes along its rows; put(rank, outer, value) stores it.
    template <int Outer, typename Put>
    __device__ __forceinline__ static void load_a(const AdapterMatrix& lora_a, bool is_f32,
                                                  int rank0, int outer0, int outers, Put&& put) {
#pragma unroll 2
        for (int index = threadIdx.x; index < kDepth * Outer; index += kThreads) {
            const int rank = index / Outer, outer = index % Outer;
            const bool valid = rank0 + rank < lora_a.r && outer0 + outer < outers;
            const int64_t place = (rank0 + rank) * lora_a.stride + outer0 + outer;
            put(rank, outer, valid ? element(lora_a.data, place, is_f32) : 0.0f);
        }
    }

    // lora_B (outers, r) from `outer0` on, lanes along its rows
    template <int Outer, typename Put>
    __device__ __forceinline__ static void load_b(const AdapterMatrix& lora_b, bool is_f32,
                                                  int rank0, int outer0, int outers, Put&& put) {
#pragma unroll 2
        for (int index = threadIdx.x; index < kDepth * Outer; index += kThreads) {
            const int rank = index % kDepth, outer = index / kDepth;
            const bool valid = rank0 + rank < lora_b.r && outer0 + outer < outers;
            const int64_t place = (outer0 + outer) * lora_b.stride + rank0 + rank;
            put(rank, outer, valid ? element(lora_b.data, place, is_f32) : 0.0f);
        }
    }

    __device__ __forceinline__ static void load(Shared& shared, const MergeParams& p,
                                                const MergeAdapter& adapter, int rank0, int row0,
                                                int column0) {
        const auto down = [&](int rank, int row, float value) {
            shared.down[rank * kDownStride + row] = value;
        };
        const auto across = [&](int rank, int column, float value) {
            shared.across[rank * kAcrossStride + across_place(column)] = value;
        };
        const bool is_f32 = p.adapter_f32 != 0;
        if (p.weight_transposed != 0) {
            load_a<kRows>(adapter.lora_a, is_f32, rank0, row0, p.rows, down);
            load_b<kColumns>(adapter.lora_b, is_f32, rank0, column0, p.columns, across);
        } else {
            load_b<kRows>(adapter.lora_b, is_f32, rank0, row0, p.rows, down);
            load_a<kColumns>(adapter.lora_a, is_f32, rank0, column0, p.columns, across);
        }
    }

    // product += down * across
    __device__ __forceinline__ static void multiply(const Shared& shared, int ranks,
                                                    Block& product) {
        const float* down = shared.down + first_row();
        const float* across = shared.across + threadIdx.x % kColumnThreads * 4;
#pragma unroll 2
        for (int rank = 0; rank < ranks; ++rank) {
            const float4 rows = *reinterpret_cast<const float4*>(down);
            const float4 quad0 = *reinterpret_cast<const float4*>(across);
            const float4 quad1 = *reinterpret_cast<const float4*>(across + kQuadStride);
            const float row[] = {rows.x, rows.y, rows.z, rows.w};
            const float column[] = {quad0.x, quad0.y, quad0.z, quad0.w,
                                    quad1.x, quad1.y, quad1.z, quad1.w};
#pragma unroll
            for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
                for (int j = 0; j < kThreadColumns; ++j) {
                    product[i][j] = fmaf(row[i], column[j], product[i][j]);
                }
            }
            down += kDownStride;
            across += kAcrossStride;
        }
    }

    // Elements of a chunk that are inside the weight.
    __device__ __forceinline__ static int valid_elements(const MergeParams& p, int row,
                                                         int column) {
        return row < p.rows ? max(0, min(p.columns - column, kChunk<T>)) : 0;
    }

    __device__ __forceinline__ static uint4 read(const T* from, int valid) {
        if (kVectorised && valid == kChunk<T>) {
            return *reinterpret_cast<const uint4*>(from);
        }
        alignas(16) T values[kChunk<T>];
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
            values[i] = i < valid ? from[i] : from_float<T>(0.0f);
        }
        return *reinterpret_cast<const uint4*>(values);
    }

    __device__ __forceinline__ static void write(T* to, const T (&values)[kChunk<T>], int valid) {
        if (kVectorised && valid == kChunk<T>) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(values);
            return;
        }
#pragma unroll
        for (int i = 0; i < kChunk<T>; ++i) {
            if (i < valid) {
                to[i] = values[i];
            }
        }
    }

    // What storing `merged` for `old` + `delta` loses.
    struct Counter {
        uint32_t nonzero = 0, unchanged = 0, non_finite = 0;
        double delta_squares = 0.0,
               error_squares = 0.0;  // squares leave the range of f32 where deltas don't

        __device__ __forceinline__ void count(float old, float delta, float merged) {
            if (!isfinite(merged)) {
                ++non_finite;
                return;
            }
            nonzero += delta != 0.0f;
            unchanged += delta != 0.0f && merged == old;
            const double change = delta, error = (merged - old) - delta;
            delta_squares = fma(change, change, delta_squares);
            error_squares = fma(error, error, error_squares);
        }
        __device__ __forceinline__ MergeTotals totals() const {
            return {delta_squares, error_squares, 0, nonzero, unchanged, non_finite};
        }
    };

    __device__ __forceinline__ static void run(const MergeParams& p) {
        alignas(16) __shared__ Shared shared;
        const bool writes = p.writing == MergeWrite::kAlways ||
                            (p.writing == MergeWrite::kIfFinite && p.totals->non_finite == 0);
        if (!writes && p.partial == nullptr) {
            return;
        }
        const int column_tiles = (p.columns + kColumns - 1) / kColumns;
        const int row0 = static_cast<int>(blockIdx.x / column_tiles) * kRows;
        const int column0 = static_cast<int>(blockIdx.x % column_tiles) * kColumns;
        const T* const weight = static_cast<const T*>(p.weight);

        Block delta = {};
        for (int index = 0; index < p.adapters; ++index) {
            const MergeAdapter& adapter = p.adapter[index];
            Block product = {};
            for (int rank0 = 0; rank0 < adapter.lora_b.r; rank0 += kDepth) {
                __syncthreads();
                load(shared, p, adapter, rank0, row0, column0);
                __syncthreads();
                multiply(shared, min(kDepth, adapter.lora_b.r - rank0), product);
            }
#pragma unroll
            for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
                for (int j = 0; j < kThreadColumns; ++j) {
                    delta[i][j] = fmaf(adapter.lora_b.scaling, product[i][j], delta[i][j]);
                }
            }
        }

        const bool counts = p.partial != nullptr;
        Counter counter;
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
            for (int chunk = 0; chunk < kThreadChunks; ++chunk) {
                const int row = row0 + first_row() + i, column = column0 + chunk_column(chunk);
                const int valid = valid_elements(p, row, column);
                const uint4 old = read(weight + row * p.weight_stride + column, valid);
                const T* const before = reinterpret_cast<const T*>(&old);
                alignas(16) T merged[kChunk<T>];
#pragma unroll
                for (int e = 0; e < kChunk<T>; ++e) {
                    const float change = delta[i][chunk * kChunk<T> + e];
                    merged[e] = from_float<T>(to_float(before[e]) + change);
                    if (counts && e < valid) {
                        counter.count(to_float(before[e]), change, to_float(merged[e]));
                    }
                }
                if (writes) {
                    T* const to = static_cast<T*>(p.merged) + row * p.merged_stride + column;
                    write(to, merged, valid);
                }
            }
        }
        if (counts) {
            const MergeTotals sum = block_sum<kThreads>(counter.totals());
            if (threadIdx.x == 0) {
                p.partial[blockIdx.x] = sum;
            }
        }
    }
};

// One block: totals = sum of the partials, always in the same order
template <typename T, typename Shape, Access>
struct MergeTotalsSum {
    static constexpr int kThreads = Shape::kThreads;
    static constexpr int kBlockRows = 1, kBlockColumns = 1;
    static constexpr int kSharedBytes = 0;  // dynamic ones

    __device__ __forceinline__ static void run(const MergeParams& p) {
        MergeTotals mine = {};
        for (uint32_t index = threadIdx.x; index < static_cast<uint32_t>(p.partials);
             index += kThreads) {
            const MergeTotals other = p.partial[index];
            mine.delta_squares += other.delta_squares;
            mine.error_squares += other.error_squares;
            mine.nonzero += other.nonzero;
            mine.unchanged += other.unchanged;
            mine.non_finite += other.non_finite;
        }
        mine = block_sum<kThreads>(mine);
        if (threadIdx.x == 0) {
            mine.elements = static_cast<uint64_t>(p.rows) * static_cast<uint64_t>(p.columns);
            *p.totals = mine;
        }
    }
};
