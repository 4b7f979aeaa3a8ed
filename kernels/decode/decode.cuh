// y = x * W^T + bias + sum over a row's adapters of factor * S * B^T, in one launch that streams
// the weight once for every part of up to 64 tokens.
//
// The weight is the operand of 16 rows of mma, x that of the columns, so few tokens waste nothing
// but idle tensor cores. A tile is kRows rows of W, of all their depth. Its steps, and those of all
// tiles, follow each other, and every block takes an equal part of them: the streaming warps. One
// more warp works on S meanwhile (low_rank.cuh), so that the weight never waits for it.
//
// Who ends a tile: a block that has all of its steps, or else the last of those that share it,
// which sums what they have left in memory, in the order of the depth. It then waits until S is
// ready, adds the low-rank steps, and stores y.
//
// Blocks wait for nothing but S, whose items are drawn by running blocks, and whoever works on
// them waits for nobody. So the launch ends however few blocks run at a time, and beside whatever
// other launches. The last block of a part to leave zeroes its flags.
#pragma once
#include "common/table.cuh"
#include "decode/low_rank.cuh"
#include "ptx/acquire.cuh"
#include "ptx/barrier_arrive.cuh"

template <typename T, typename Shape, Access A>
struct Decode {
    static constexpr bool kVectorised = A != Access::kAny;
    static constexpr int kTokens = Shape::kRows;   // of x, as many as a block computes
    static constexpr int kRows = Shape::kColumns;  // of W, of a tile
    static constexpr int kDepth = Shape::kDepth;   // of a step: a line
    static constexpr int kStages = Shape::kStages;
    static constexpr int kStreamWarps = kRows / 16;
    static constexpr int kStreamThreads = 32 * kStreamWarps;
    static constexpr int kThreads = kStreamThreads + 32;
    static constexpr int kBlockRows = kTokens, kBlockColumns = kRows;
    static_assert(kDepth == decode::kLineBytes / kSize<T>, "a step is a line of the weight");

    using WTile = Tile<T, kRows, kDepth>;    // of W or, in a low-rank step, of lora_B
    using XTile = Tile<T, kTokens, kDepth>;  // of x or S
    using Acc = Accumulator<16, kTokens>;    // (16 rows of W, tokens) of a warp
    static constexpr int kStageBytes = WTile::kBytes + XTile::kBytes;
    static constexpr int kLowRankStages = kTokens > 32 ? 2 : 3;
    using Part = decode::Part;
    using LowRank = decode::LowRank<T, kTokens, kLowRankStages, kVectorised>;
    static constexpr int kLowRankOffset = kStages * kStageBytes;
    static constexpr int kListsOffset = kLowRankOffset + LowRank::kSharedBytes;
    static constexpr int kSharedBytes =
        kListsOffset + (static_cast<int>(sizeof(decode::Lists)) + 15) / 16 * 16;

    // Barriers: of the streaming warps, and of all for the lists
    static constexpr int kStreamBarrier = 1, kListsBarrier = 2;

    __device__ static void run(const DecodeParams& p) {
        decode::Lists& lists = *reinterpret_cast<decode::Lists*>(block_memory() + kListsOffset);
        const Part part(p, kTokens, kRows);
        if (threadIdx.x >= kStreamThreads) {
            decode::find_lists(p.rows, part, p.projections, lists);
            ptx::barrier_arrive(kListsBarrier, kThreads);
            LowRank{p, part, lists, ptx::shared_address(block_memory()) + kLowRankOffset}.run();
        } else {
            stream(p, part, lists);
        }
        leave(p, part, lists);
    }

   private:
    // Steps of a tile, or 1 where the base product is left out
    __device__ __forceinline__ static int units(const DecodeParams& p) { return max(p.steps, 1); }

    // The first step of a block, among those of all tiles.
    __device__ __forceinline__ static int64_t begin(const DecodeParams& p, int64_t block) {
        const int64_t blocks = p.blocks;
        return p.share != 0 ? block * p.tiles * units(p) / blocks
                            : block * p.tiles / blocks * units(p);
    }
    // The block that a step belongs to, where tiles are shared
    __device__ __forceinline__ static int block_of(const DecodeParams& p, int64_t step) {
        const int64_t all = static_cast<int64_t>(p.tiles) * units(p);
        return static_cast<int>(((step + 1) * p.blocks - 1) / all);
    }

    __device__ __forceinline__ static void stream(const DecodeParams& p, const Part& part,
                                                  const decode::Lists& lists) {
        const int64_t first = begin(p, part.block), end = begin(p, part.block + 1);
        const int of_tile = units(p);
        bool know_lists = false;
        for (int64_t step = first; step < end;) {
            const int tile = static_cast<int>(step / of_tile);
            const int from = static_cast<int>(step % of_tile);
            const int count =
                static_cast<int>(min(static_cast<int64_t>(of_tile - from), end - step));
            step += count;
            Acc acc;
            acc.clear();
            if (p.steps > 0) {
                base(p, part, acc, tile, from, count);
            }
            if (count < of_tile && !combine(p, part, acc, tile, tile != first / of_tile)) {
                continue;
            }
            if (!know_lists) {
                ptx::barrier_sync(kListsBarrier, kThreads);
                know_lists = true;
            }
            finish(p, part, lists, acc, tile);
        }
        if (!know_lists) {
            ptx::barrier_sync(kListsBarrier, kThreads);
        }
    }

    __device__ __forceinline__ static int projection_of(const DecodeParams& p, int tile) {
        int projection = 0;
        while (projection + 1 < p.projections && tile >= p.projection[projection + 1].first_tile) {
            ++projection;
        }
        return projection;
    }

    // `steps` steps through the stages: issue(step, stage) ahead of consume(step, stage), which are
    // addresses. Afterwards all stages are free.
    template <typename Issue, typename Consume>
    __device__ __forceinline__ static void ring(int steps, Issue&& issue, Consume&& consume) {
        const uint32_t memory = ptx::shared_address(block_memory());
        int read = 0, write = kStages - 1;
#pragma unroll 1
        for (int step = 1 - kStages; step < steps; ++step) {
            const int next = step + kStages - 1;
            if (step >= 0) {
                ptx::cp_async_wait<kStages - 2>();
                ptx::barrier_sync(kStreamBarrier, kStreamThreads);
            } else {
                write = next;
            }
            if (next < steps) {
                issue(next, memory + write * kStageBytes);
            }
            ptx::cp_async_commit();
            if (step >= 0) {
                consume(step, memory + read * kStageBytes);
                read = read + 1 == kStages ? 0 : read + 1;
            }
            write = write + 1 == kStages ? 0 : write + 1;
        }
        ptx::cp_async_wait<0>();
        ptx::barrier_sync(kStreamBarrier, kStreamThreads);
    }

    // The one place that reads the weight: tiles of kRows rows, kDepth columns a step. A weight in
    // another format needs another one of these.
    struct Weight {
        TileCopy<kStreamThreads, T, kRows, kDepth> copy;

        __device__ __forceinline__ Weight(const DecodeProjection& layer, int row0, int k0) {
#pragma unroll
            for (int pass = 0; pass < copy.kPasses; ++pass) {
                // The last row stands in for rows beyond it, whose results are not stored.
                const int row = min(row0 + copy.row(pass), layer.n - 1);
                copy.from[pass] = static_cast<const T*>(layer.weight) + row * layer.weight_stride +
                                  k0 + copy.column();
            }
        }
        // The next step, `columns` of it inside of the weight
        __device__ __forceinline__ void issue(uint32_t to, int columns) {
            if (kVectorised && columns >= kDepth) {
                copy.full(to);
            } else {
                copy.template partial<kVectorised>(to,
                                                   [&](int) { return columns - copy.column(); });
            }
            copy.advance(kDepth);
        }
    };

    // acc = W (16, part of the depth) * x^T
    __device__ __forceinline__ static void base(const DecodeParams& p, const Part& part, Acc& acc,
                                                int tile, int from, int count) {
        const DecodeProjection& layer = p.projection[projection_of(p, tile)];
        const int k0 = from * kDepth;
        Weight weight(layer, (tile - layer.first_tile) * kRows, k0);
        TileCopy<kStreamThreads, T, kTokens, kDepth> x;  // (m, k)
#pragma unroll
        for (int pass = 0; pass < x.kPasses; ++pass) {
            const int64_t row = part.row0 + min(x.row(pass), part.rows - 1);
            x.from[pass] = static_cast<const T*>(p.x) + row * p.x_stride + k0 + x.column();
        }
        const ProductByRows<T, WTile, XTile> product(threadIdx.x / 32 * 16, 0);
        ring(count, [&](int step, uint32_t stage) {
            const int columns = p.k - k0 - step * kDepth;
            weight.issue(stage, columns);
            // Rows beyond the batch are zeros and cost nothing.
            x.template partial<kVectorised>(stage + WTile::kBytes, [&](int pass) {
                return x.row(pass) < part.rows ? columns - x.column() : 0;
            });
            x.advance(kDepth);
        }, [&](int, uint32_t stage) {
#pragma unroll
            for (int column = 0; column < kDepth; column += 32) {
                product.add_to(acc, stage, stage + WTile::kBytes, column * kSize<T>, KeepAllRows{});
            }
        });
    }

    // Calls f(value, row of the tile, token) for every value of this lane that is of a token.
    template <typename F>
    __device__ __forceinline__ static void for_each(const DecodeParams& p, const Part& part,
                                                    Acc& acc, F&& f) {
        const int lane = threadIdx.x % 32;
        const int row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int token = 8 * j + lane % 4 * 2 + e % 2;
                if (token < part.rows) {
                    f(acc.value[0][j][e], row + 8 * (e / 2), token);
                }
            }
        }
    }

    // Leaves this block's part of a shared tile in memory. The block that comes last puts the sum
    // of all parts, in the order of the depth, in its place. False in the others.
    __device__ __forceinline__ static bool combine(const DecodeParams& p, const Part& part,
                                                   Acc& acc, int tile, bool second) {
        // (blocks, 2, rows of x, kRows)
        const auto slab = [&](int block, bool later) {
            return part.partial +
                   (static_cast<int64_t>(block) * 2 + (later ? 1 : 0)) * part.rows * kRows;
        };
        float* const own = slab(part.block, second);
        for_each(p, part, acc,
                 [&](float value, int row, int token) { own[token * kRows + row] = value; });
        __threadfence();
        ptx::barrier_sync(kStreamBarrier, kStreamThreads);
        const int64_t steps = static_cast<int64_t>(tile) * p.steps;
        const int first = block_of(p, steps), last = block_of(p, steps + p.steps - 1);
        const bool is_last =
            threadIdx.x == 0 &&
            atomicAdd(part.flags + decode::kArrived + p.groups + tile, 1u) == last - first;
        if (!ptx::barrier_or(kStreamBarrier, kStreamThreads, is_last)) {
            return false;
        }
        __threadfence();
        acc.clear();
#pragma unroll 1
        for (int block = first; block <= last; ++block) {
            const float* const from = slab(block, begin(p, block) < steps);
            for_each(p, part, acc, [&](float& sum, int row, int token) {
                sum += __ldcg(from + token * kRows + row);
            });
        }
        return true;
    }

    __device__ __forceinline__ static void finish(const DecodeParams& p, const Part& part,
                                                  const decode::Lists& lists, Acc& acc, int tile) {
        const int projection = projection_of(p, tile);
        const DecodeProjection& layer = p.projection[projection];
        const int row0 = (tile - layer.first_tile) * kRows;
        const int groups = lists.groups_of(projection);
        if (groups == 0 && p.steps == 0 && layer.bias == nullptr) {
            return;  // nothing is added to y
        }
        if (groups > 0) {
            if (threadIdx.x == 0) {
                ptx::wait_for_count(part.flags + decode::kReady, lists.groups(p.projections));
            }
            ptx::barrier_sync(kStreamBarrier, kStreamThreads);
            add_low_rank(p, part, lists, acc, projection, row0, groups);
        }
        store(p, part, layer, acc, row0);
    }

    static constexpr int kGroupChunks = decode::kGroupRanks / kChunk<T>;
    static constexpr int kStepGroups = kDepth / decode::kGroupRanks;

    // acc += factor * B * S^T for every group of the projection, in ascending order. Rows without
    // the adapter stay as they are, whatever it holds.
    __device__ __forceinline__ static void add_low_rank(const DecodeParams& p, const Part& part,
                                                        const decode::Lists& lists, Acc& acc,
                                                        int projection, int row0, int groups) {
        ring((groups + kStepGroups - 1) / kStepGroups, [&](int step, uint32_t stage) {
            issue_low_rank(p, part, lists, projection, row0, groups, step, stage);
        }, [&](int step, uint32_t stage) {
            const int inside = min(groups - step * kStepGroups, kStepGroups);
#pragma unroll 1
            for (int i = 0; i < inside; ++i) {
                Acc product;
                product.clear();
                multiply_group(product, stage, i);
                const decode::Group group = lists.group_of(projection, step * kStepGroups + i);
                const float scaling =
                    decode::entry(p.rows, p.projections, lists.slot[group.index], projection)
                        .scaling;
                add_to_members(p, part, lists, acc, product, group.index, scaling);
            }
        });
    }

    // Brings up to kStepGroups groups: of lora_B kRows rows, of S the rows with the adapter.
    __device__ __forceinline__ static void issue_low_rank(const DecodeParams& p, const Part& part,
                                                          const decode::Lists& lists,
                                                          int projection, int row0, int groups,
                                                          int step, uint32_t stage) {
        constexpr int kChunks = WTile::kChunksPerRow;
        constexpr int kRowsAtOnce = kStreamThreads / kChunks;
        const int chunk = threadIdx.x % kChunks;
        const int number = step * kStepGroups + chunk / kGroupChunks;
        const bool inside = number < groups;
        const decode::Group group = lists.group_of(projection, inside ? number : groups - 1);
        const int slot = lists.slot[group.index];
        const AdapterEntry& adapter = decode::entry(p.rows, p.projections, slot, projection);
        const int ranks = decode::rank_of(p.rows, p.projections, slot, projection);
        const int rank = group.rank0 + chunk % kGroupChunks * kChunk<T>;
        const int n = p.projection[projection].n;
        const bool f32 = p.rows.adapter_f32 != 0 || std::is_same_v<T, float>;
        const int size = f32 ? static_cast<int>(sizeof(float)) : kSize<T>;
        const bool by_copy = (adapter.flags & kEntryBVectorised) != 0;
        const uint8_t* const b = static_cast<const uint8_t*>(adapter.lora_b);
#pragma unroll 1
        for (int row = threadIdx.x / kChunks; row < kRows; row += kRowsAtOnce) {
            const int valid = inside && row0 + row < n ? max(0, min(ranks - rank, kChunk<T>)) : 0;
            const uint8_t* const from = valid > 0 ? b + (row0 + row) * adapter.b_stride * size : b;
            const uint32_t to = stage + WTile::chunk_offset(row, chunk) * kSize<T>;
            if (by_copy) {
                ptx::cp_async_16(to, from + (valid > 0 ? rank * kSize<T> : 0), valid * kSize<T>);
            } else {
#pragma unroll
                for (int quad = 0; quad < kChunk<T>; quad += 4) {
                    store_shared_quad<T>(
                        to + quad * kSize<T>,
                        load_adapter_quad<T>(from, rank + quad, valid - quad, f32, false));
                }
            }
        }
        const T* const s = static_cast<const T*>(p.s) + part.row0 * p.rows.s_stride;
#pragma unroll 1
        for (int row = threadIdx.x / kChunks; row < kTokens; row += kRowsAtOnce) {
            const int place =
                inside && row < part.rows ? lists.place(p.rows.per_row, row, group.index) : -1;
            const T* const from = place < 0 ? s
                                            : s + static_cast<int64_t>(row) * p.rows.s_stride +
                                                  p.rows.s_first[projection] +
                                                  place * p.rows.s_rank[projection] + rank;
            ptx::cp_async_16(stage + WTile::kBytes + XTile::chunk_offset(row, chunk) * kSize<T>,
                             from, place < 0 ? 0 : 16);
        }
    }

    // product += B (16 rows, 16 ranks) * S (tokens, 16 ranks)^T: group i of a stage
    __device__ __forceinline__ static void multiply_group(Acc& product, uint32_t stage, int i) {
        const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
        const int chunk0 = i * kGroupChunks;
        const uint32_t s = stage + WTile::kBytes;
        if constexpr (kTensorCore<T>) {
            uint32_t b[4];  // m16k16
            ptx::ldmatrix_x4(
                b, stage + byte_offset<T, WTile>(warp_row + lane % 16, chunk0 + lane / 16));
#pragma unroll
            for (int j = 0; j < kTokens / 16; ++j) {
                uint32_t a[4];  // k16n16
                ptx::ldmatrix_x4(a, s + byte_offset<T, XTile>(16 * j + lane % 8 + 8 * (lane / 16),
                                                              chunk0 + lane / 8 % 2));
                ptx::mma_m16n8k16<T>(product.value[0][2 * j], b, a[0], a[1]);
                ptx::mma_m16n8k16<T>(product.value[0][2 * j + 1], b, a[2], a[3]);
            }
        } else {
#pragma unroll 1
            for (int chunk = chunk0; chunk < chunk0 + kGroupChunks; ++chunk) {
                float4 b[2];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    b[half] = ptx::load_shared_quad(
                        stage + byte_offset<T, WTile>(warp_row + lane / 4 + 8 * half, chunk));
                }
#pragma unroll
                for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
                    for (int odd = 0; odd < 2; ++odd) {
                        const float4 a = ptx::load_shared_quad(
                            s + byte_offset<T, XTile>(8 * j + lane % 4 * 2 + odd, chunk));
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            float& sum = product.value[0][j][2 * half + odd];
                            sum = fmaf(b[half].x, a.x, sum);
                            sum = fmaf(b[half].y, a.y, sum);
                            sum = fmaf(b[half].z, a.z, sum);
                            sum = fmaf(b[half].w, a.w, sum);
                        }
                    }
                }
            }
        }
    }

    __device__ __forceinline__ static void add_to_members(const DecodeParams& p, const Part& part,
                                                          const decode::Lists& lists, Acc& acc,
                                                          const Acc& product, int index,
                                                          float scaling) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
                const int token = 8 * j + lane % 4 * 2 + odd;
                const float weight =
                    token < part.rows ? lists.weight_of(p.rows.per_row, token, index) : 0.0f;
                const float factor = scaling * weight;
                if (factor != 0.0f) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        float& sum = acc.value[0][j][2 * half + odd];
                        sum = fmaf(factor, product.value[0][j][2 * half + odd], sum);
                    }
                }
            }
        }
    }

    // y = acc + bias, rounded once, or that added to y. The tile is turned in shared memory, so
    // that a lane has neighbours of a row of y.
    __device__ __forceinline__ static void store(const DecodeParams& p, const Part& part,
                                                 const DecodeProjection& layer, Acc& acc,
                                                 int row0) {
        constexpr int kStagingRow = kRows + 4;  // of a token; 8 rows of 4 tokens lie in 32 banks
        static_assert(kTokens * kStagingRow * kSize<float> <= kStages * kStageBytes,
                      "the staging lives in the stages");
        float* const staging = reinterpret_cast<float*>(block_memory());
        for_each(p, part, acc, [&](float value, int row, int token) {
            staging[token * kStagingRow + row] = value;
        });
        ptx::barrier_sync(kStreamBarrier, kStreamThreads);
        constexpr int kSpans = kRows / kChunk<T>;
        const T* const bias = static_cast<const T*>(layer.bias);
#pragma unroll 1
        for (int i = threadIdx.x; i < part.rows * kSpans; i += kStreamThreads) {
            const int token = i / kSpans, column = i % kSpans * kChunk<T>;
            const int valid = min(layer.n - row0 - column, kChunk<T>);
            T* const y =
                static_cast<T*>(layer.y) + (part.row0 + token) * layer.y_stride + row0 + column;
            const float* const from = staging + token * kStagingRow + column;
            if (layer.output_vectorised != 0 && valid == kChunk<T>) {
                store_span(y, from, bias != nullptr ? bias + row0 + column : nullptr,
                           p.accumulate != 0);
            } else {
                for (int e = 0; e < valid; ++e) {
                    float value =
                        from[e] + (bias != nullptr ? to_float(bias[row0 + column + e]) : 0.0f);
                    value += p.accumulate != 0 ? to_float(y[e]) : 0.0f;
                    y[e] = from_float<T>(value);
                }
            }
        }
        ptx::barrier_sync(kStreamBarrier, kStreamThreads);
    }

    // Sixteen bytes of y
    __device__ __forceinline__ static void store_span(T* y, const float* from, const T* bias,
                                                      bool accumulate) {
        alignas(16) T before[kChunk<T>];
        if (accumulate) {
            *reinterpret_cast<uint4*>(before) = *reinterpret_cast<const uint4*>(y);
        }
        alignas(16) T value[kChunk<T>];
#pragma unroll
        for (int e = 0; e < kChunk<T>; ++e) {
            float sum = from[e] + (bias != nullptr ? to_float(bias[e]) : 0.0f);
            sum += accumulate ? to_float(before[e]) : 0.0f;
            value[e] = from_float<T>(sum);
        }
        *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(value);
    }

    // The last block to leave zeroes the flags that were used, for the next launch.
    __device__ __forceinline__ static void leave(const DecodeParams& p, const Part& part,
                                                 const decode::Lists& lists) {
        __syncthreads();
        bool last = false;
        if (threadIdx.x == 0) {
            __threadfence();
            last = atomicAdd(part.flags + decode::kLeft, 1u) + 1 == p.blocks;
        }
        if (!__syncthreads_or(last)) {
            return;
        }
        __threadfence();
        const int groups = lists.groups(p.projections);
        for (int i = threadIdx.x; i < decode::kArrived + groups; i += kThreads) {
            part.flags[i] = 0;
        }
        for (int i = threadIdx.x; i < p.tiles; i += kThreads) {
            part.flags[decode::kArrived + p.groups + i] = 0;
        }
    }
};
