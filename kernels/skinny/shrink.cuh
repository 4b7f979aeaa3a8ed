// S = keep_scale * (mask o x) * A^T of all adapters: one block per kRows rows of x and
// kRanks columns of S. Draws the dropout mask, in registers, and stores it. The last blocks of the
// grid pack lora_B for the launch that follows.
#pragma once
#include "common/mask_origin.cuh"
#include "common/pack.cuh"
#include "common/table.cuh"
#include "ptx/dependency.cuh"
#include "skinny/pipeline.cuh"
#include "skinny/store_block.cuh"
#include "skinny/warp_product.cuh"

template <typename T, typename Shape, Access A>
struct Shrink {
    static constexpr bool kVectorised = A != Access::kAny;
    static constexpr int kThreads = Shape::kThreads;
    static constexpr int kWarps = kThreads / 32;
    // Of x: 16 per warp, or 16 that the warps share, each with a part of the depth.
    static constexpr int kRows = Shape::kRows;
    static constexpr int kRanks = Shape::kRanks;  // columns of S
    static constexpr int kBlockRows = kRows, kBlockColumns = kRanks;
    static constexpr int kParts = kWarps * 16 / kRows;
    static_assert(kParts * kRows == kWarps * 16 && (kParts == 1 || kParts == kWarps),
                  "a warp has rows of its own, or all warps share the same 16");
    static constexpr int kDepth = kParts == 1 ? 64 : 32;       // of a part of a step
    static constexpr int kSize = static_cast<int>(sizeof(T));  // of an element

    using XTile = Tile<T, kParts * kRows, kDepth>;   // part below part
    using ATile = Tile<T, kParts * kRanks, kDepth>;  // part below part
    using XCopy = TileCopy<kThreads, T, kParts * kRows, kDepth>;
    using ACopy = TileCopy<kThreads, T, kParts * kRanks, kDepth>;
    static constexpr int kStageBytes = XTile::kBytes + ATile::kBytes;
    static constexpr int kStages = Shape::kStages;
    static constexpr int kTableBytes =
        kRanks * static_cast<int>(sizeof(const void*));  // where each row of lora_A starts
    static constexpr int kSharedBytes = kStages * kStageBytes + kTableBytes;

    __device__ static void run(const DrawnShrinkParams& p) {
#if __CUDA_ARCH__ >= 900
        // The product that follows multiplies x and the weight before it needs S.
        ptx::launch_dependents();
#endif
        zero_counters<kThreads>(p.counters, p.counter_count);
        if constexpr (kTensorCore<T>) {
            const int blocks = static_cast<int>(gridDim.x) - p.pack_b.blocks;
            if (static_cast<int>(blockIdx.x) >= blocks) {
                pack_adapters<T, kThreads>(p.pack_b, static_cast<int>(blockIdx.x) - blocks);
                return;
            }
        }
        const int rank_tiles = (p.ranks + kRanks - 1) / kRanks;
        const int row0 = static_cast<int>(blockIdx.x) / rank_tiles * kRows;
        const int rank0 = static_cast<int>(blockIdx.x) % rank_tiles * kRanks;
        bool by_copy = kVectorised;  // lora_A by cp.async
        for (int i = 0; i < p.adapters; ++i) {
            by_copy = by_copy && p.lora_a[i].vectorised != 0;
        }
        Accumulator<16, kRanks> acc;  // (16, kRanks) of S per warp
        acc.clear();
        if (by_copy) {
            accumulate<true>(p, acc, row0, rank0);
        } else {
            accumulate<false>(p, acc, row0, rank0);
        }
        if constexpr (kParts > 1) {
            sum_parts(acc);
        }
        store(p, acc, row0, rank0);
    }

   private:
    // First column of this step of a part. The two halves of a mask word are steps in a row, so
    // that it is drawn once.
    __device__ __forceinline__ static int step_column(int step, int part) {
        return kParts == 1
                   ? step * kDepth
                   : step / 2 * (kParts * 2 * kDepth) + part * 2 * kDepth + step % 2 * kDepth;
    }
    __device__ __forceinline__ static int advance_after(int step) {
        return kParts == 1 || step % 2 == 0 ? kDepth : (kParts * 2 - 1) * kDepth;
    }
    // Where this thread's chunk of x begins. The last row of x stands in for rows beyond it; what
    // that gives is not stored.
    template <typename Source>
    __device__ __forceinline__ static const T* x_start(const Source& p, int row0, int pass) {
        const int tile_row = XCopy::row(pass);
        const int row = min(row0 + tile_row % kRows, p.m - 1);
        return static_cast<const T*>(p.x) + row * p.x_stride + step_column(0, tile_row / kRows) +
               XCopy::column();
    }

    template <bool ByCopy>
    __device__ __forceinline__ static void accumulate(const DrawnShrinkParams& p,
                                                      Accumulator<16, kRanks>& acc, int row0,
                                                      int rank0) {
        const uint32_t memory = ptx::shared_address(block_memory());
        const auto x_at = [&](int stage) { return memory + stage * kStageBytes; };
        const auto a_at = [&](int stage) { return x_at(stage) + XTile::kBytes; };
        const void** const table =
            reinterpret_cast<const void**>(block_memory() + kStages * kStageBytes);

        XCopy x;  // (m, k)
#pragma unroll
        for (int pass = 0; pass < XCopy::kPasses; ++pass) {
            x.from[pass] = x_start(p, row0, pass);
        }
        ACopy a;  // (ranks, k)
        AdapterQuads quads;
        if constexpr (ByCopy) {
#pragma unroll
            for (int pass = 0; pass < ACopy::kPasses; ++pass) {
                const int tile_row = ACopy::row(pass);
                a.from[pass] =
                    static_cast<const T*>(adapter_row(p, rank0 + tile_row % kRanks, kSize)) +
                    step_column(0, tile_row / kRanks) + ACopy::column();
            }
        } else {
            quads.prepare(p, table, rank0);
        }

        const int width = kParts * 2 * kDepth;
        const int steps = kParts == 1 ? (p.k + kDepth - 1) / kDepth : (p.k + width - 1) / width * 2;
        const int full_steps = !kVectorised ? 0 : kParts == 1 ? p.k / kDepth : p.k / width * 2;
        const auto issue = [&](int step, int stage) {
            if (step < full_steps) {
                x.full(x_at(stage));
            } else {
                x.template partial<kVectorised>(x_at(stage), [&](int pass) {
                    return p.k - step_column(step, XCopy::row(pass) / kRows) - XCopy::column();
                });
            }
            x.advance(advance_after(step));
            if constexpr (ByCopy) {
                if (step < full_steps) {
                    a.full(a_at(stage));
                } else {
                    a.template partial<true>(a_at(stage), [&](int pass) {
                        return p.k - step_column(step, ACopy::row(pass) / kRanks) - ACopy::column();
                    });
                }
                a.advance(advance_after(step));
            } else {
                quads.load(p, table, step);
            }
        };
        const auto store_step = [&](int, int stage) {
            if constexpr (!ByCopy) {
                quads.store(a_at(stage));
            }
        };

        const int warp = threadIdx.x / 32;
        const int part = kParts == 1 ? 0 : warp;
        const int warp_row = row0 + (kParts == 1 ? 16 * warp : 0);
        const bool drawn = p.mask_source == MaskSource::kDrawn;
        const MaskStore mask(p, warp_row, rank0);
        const ProductByRows<T, XTile, ATile> product(16 * warp, part * kRanks);
        dropout::KeepBits keep{};
        const auto consume = [&](int step, int stage) {
            if (!drawn) {
#pragma unroll
                for (int column = 0; column < kDepth; column += 32) {
                    product.add_to(acc, x_at(stage), a_at(stage), column * kSize, KeepAllRows{});
                }
                return;
            }
            if (kParts == 1 || step % 2 == 0) {
                const int block = step_column(step, part) / dropout::kBlock;
                keep = dropout::draw(p.dropout, p.origin, warp_row, block);
                mask.store(p, keep, block);
            } else {
                keep = {keep.upper >> 32, keep.lower >> 32};
            }
#pragma unroll
            for (int column = 0; column < kDepth; column += 32) {
                const KeepRows rows{static_cast<uint32_t>(keep.upper >> column),
                                    static_cast<uint32_t>(keep.lower >> column)};
                product.add_to(acc, x_at(stage), a_at(stage), column * kSize, rows);
            }
        };
        pipeline<kStages>(steps, issue, store_step, consume);
    }

    // The blocks of every rank tile draw the same bits, and those of the first one store them. Two
    // lanes of a quad hold different rows.
    struct MaskStore {
        uint64_t* row;  // null where this lane stores nothing

        __device__ __forceinline__ MaskStore(const DrawnShrinkParams& p, int row0, int rank0) {
            const int lane = threadIdx.x % 32;
            const int at = row0 + lane / 4 + lane % 4 * 8;
            row =
                p.mask != nullptr && rank0 == 0 && lane % 4 < 2 && at < p.m ? p.mask + at : nullptr;
        }
        __device__ __forceinline__ void store(const DrawnShrinkParams& p,
                                              const dropout::KeepBits& keep, int block) const {
            if (row != nullptr && block * dropout::kBlock < p.k) {
                const uint64_t bits = threadIdx.x % 4 == 0 ? keep.upper : keep.lower;
                row[static_cast<int64_t>(block) * p.m] = bits & dropout::inside(p.k, block);
            }
        }
    };

    // The row of lora_A for column `rank` of S. For a column of the padding it is the last row
    // again; store() drops what that gives.
    __device__ __forceinline__ static const void* adapter_row(const DrawnShrinkParams& p, int rank,
                                                              int size) {
        const AdapterMatrix& adapter = adapter_at(p.lora_a, p.adapters, rank);
        const int row = min(rank - adapter.rank0, adapter.r - 1);
        return static_cast<const uint8_t*>(adapter.data) + row * adapter.stride * size;
    }

    // lora_A through registers, four elements at a time: for f32 adapters, and for those whose rows
    // allow no 16-byte copies.
    struct AdapterQuads {
        static constexpr int kPerRow = kDepth / 4;
        static constexpr int kRowsPerPass = kThreads / kPerRow;
        static constexpr int kPasses = kParts * kRanks / kRowsPerPass;
        float4 value[kPasses];
        bool f32, vectorised;

        __device__ __forceinline__ void prepare(const DrawnShrinkParams& p, const void** table,
                                                int rank0) {
            f32 = p.adapter_f32 != 0 || std::is_same_v<T, float>;
            vectorised = f32;
            for (int i = 0; i < p.adapters; ++i) {
                vectorised = vectorised && f32_vectorised(p.lora_a[i]);
            }
            for (int i = threadIdx.x; i < kRanks; i += kThreads) {
                table[i] = adapter_row(p, rank0 + i, f32 ? static_cast<int>(sizeof(float)) : kSize);
            }
            __syncthreads();
        }
        __device__ __forceinline__ void load(const DrawnShrinkParams& p, const void** table,
                                             int step) {
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass) {
                const int tile_row = threadIdx.x / kPerRow + pass * kRowsPerPass;
                const int column = step_column(step, tile_row / kRanks) + threadIdx.x % kPerRow * 4;
                value[pass] = load_adapter_quad<T>(table[tile_row % kRanks], column, p.k - column,
                                                   f32, vectorised);
            }
        }
        __device__ __forceinline__ void store(uint32_t tile) const {
            constexpr int kQuadsPerChunk = kChunk<T> / 4;
            const int quad = threadIdx.x % kPerRow;
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass) {
                const int tile_row = threadIdx.x / kPerRow + pass * kRowsPerPass;
                const uint32_t at = tile +
                                    ATile::chunk_offset(tile_row, quad / kQuadsPerChunk) * kSize +
                                    quad % kQuadsPerChunk * 4 * kSize;
                store_shared_quad<T>(at, value[pass]);
            }
        }
    };

    // Sums the parts of the depth in the order of the warps. Warp w keeps 16-column block w.
    __device__ __forceinline__ static void sum_parts(Accumulator<16, kRanks>& acc) {
        const uint32_t memory = ptx::shared_address(block_memory());
        const int lane = threadIdx.x % 32;
        const int warp = threadIdx.x / 32;
        const auto at = [&](int part, int fragment) {
            return memory + ((part * (kRanks / 8) + fragment) * 32 + lane) * 16;
        };
#pragma unroll
        for (int j = 0; j < kRanks / 8; ++j) {
            const float(&v)[4] = acc.value[0][j];
            ptx::store_shared(at(warp, j), make_float4(v[0], v[1], v[2], v[3]));
        }
        __syncthreads();
        if (warp < kRanks / 16) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                float4 sum = ptx::load_shared_quad(at(0, 2 * warp + j));
#pragma unroll
                for (int part = 1; part < kParts; ++part) {
                    const float4 more = ptx::load_shared_quad(at(part, 2 * warp + j));
                    sum =
                        make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
                }
                float(&v)[4] = acc.value[0][j];
                v[0] = sum.x, v[1] = sum.y, v[2] = sum.z, v[3] = sum.w;
            }
        }
    }

    __device__ __forceinline__ static void store(const DrawnShrinkParams& p,
                                                 Accumulator<16, kRanks>& acc, int row0,
                                                 int rank0) {
        const int warp = threadIdx.x / 32;
        const float keep_scale = p.mask_source == MaskSource::kDrawn ? p.dropout.keep_scale : 1.0f;
        T* const s = static_cast<T*>(p.s);  // (m, ranks)
#pragma unroll
        for (int i = 0; i < (kParts == 1 ? kRanks / 16 : 1); ++i) {
            const int block = kParts == 1 ? i : warp;  // of 16 columns
            const int rank = rank0 + 16 * block;
            if (block >= kRanks / 16 || rank >= p.ranks) {
                continue;
            }
            const AdapterMatrix& adapter = adapter_at(p.lora_a, p.adapters, rank);
            const int valid = adapter.r - (rank - adapter.rank0);
            float value[2][4];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int column = 8 * j + threadIdx.x % 4 * 2 + e % 2;
                    value[j][e] = column < valid ? keep_scale * acc.value[0][2 * i + j][e] : 0.0f;
                }
            }
            const int first_row = row0 + (kParts == 1 ? 16 * warp : 0);
            store_block(s + static_cast<int64_t>(first_row) * p.ranks + rank, p.ranks,
                        p.m - first_row, value);
        }
    }
};
