// dA = T^T * drop(x) and dB = factor * dy^T * S of every adapter that the batch has.
//
// An item is 64 columns of x or of a projection's dy, and up to 64 ranks of an adapter. The block
// goes through the batch, collects the adapter's rows in their order, 64 at a time, and multiplies
// tiles of these rows alone: so nothing of other rows reaches the sums, wherever they lie, and
// every element has one writer and one order of its sum.
#pragma once
#include "common/table.cuh"
#include "rows/grad_params.cuh"
#include "rows/members.cuh"
#include "skinny/pipeline.cuh"
#include "skinny/warp_product.cuh"

template <typename T, typename Shape, Access A>
struct GradAbRows {
    static constexpr int kThreads = Shape::kThreads;
    static constexpr int kWarps = kThreads / 32;
    static constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns, kRanks = Shape::kRanks;
    static constexpr int kBlockRows = kRows, kBlockColumns = kColumns;
    static_assert(kColumns == dropout::kBlock && kColumns == 16 * kWarps,
                  "a word of the mask per row, and 16 columns per warp");

    using ZTile = Tile<T, kRows, kColumns>;  // of x or dy
    using QTile = Tile<T, kRows, kRanks>;    // of T or S
    static constexpr int kQOffset = ZTile::kBytes;
    static constexpr int kMaskOffset = kQOffset + QTile::kBytes;

    // Rows that were collected, in shared memory
    struct Rows {
        int row[kRows + kThreads];
        int place[kRows + kThreads];
        float weight[kRows + kThreads];
        int of_warp[kWarps];
    };
    static constexpr int kRowsOffset = kMaskOffset + kRows * static_cast<int>(sizeof(uint64_t));
    static constexpr int kSharedBytes = kRowsOffset + static_cast<int>(sizeof(Rows));

    __device__ static void run(const RowsGradParams& p) {
        int per_adapter = 0;
        for (int i = 0; i < p.projections; ++i) {
            per_adapter += rank_tiles(p, i) * (blocks_a(p) + blocks_b(p, i));
        }
        const int64_t items = static_cast<int64_t>(p.adapters[0]) * per_adapter;
#pragma unroll 1
        for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
            const int slot = p.adapters[1 + item / per_adapter];
            int number = static_cast<int>(item % per_adapter);
            int projection = 0;
            for (;; ++projection) {
                const int of = rank_tiles(p, projection) * (blocks_a(p) + blocks_b(p, projection));
                if (number < of) {
                    break;
                }
                number -= of;
            }
            const int rank = rows::rank_of(p.rows, p.projections, slot, projection);
            const int blocks = blocks_a(p) + blocks_b(p, projection);
            const int rank0 = number / blocks * kRanks;
            number %= blocks;
            if (rank0 >= rank) {
                continue;
            }
            if (number < blocks_a(p)) {
                Item<false>(p, projection, slot, rank, rank0, number * kColumns).run();
            } else {
                Item<true>(p, projection, slot, rank, rank0, (number - blocks_a(p)) * kColumns)
                    .run();
            }
        }
    }

   private:
    // Items of a projection's columns of S, and of the columns of x and of its dy
    __device__ __forceinline__ static int rank_tiles(const RowsGradParams& p, int projection) {
        return (p.rows.s_rank[projection] + kRanks - 1) / kRanks;
    }
    __device__ __forceinline__ static int blocks_a(const RowsGradParams& p) {
        return (p.k + kColumns - 1) / kColumns;
    }
    __device__ __forceinline__ static int blocks_b(const RowsGradParams& p, int projection) {
        return (p.projection[projection].n + kColumns - 1) / kColumns;
    }

    __device__ __forceinline__ static Rows& list() {
        return *reinterpret_cast<Rows*>(block_memory() + kRowsOffset);
    }

    // Columns column0.. and ranks rank0.. of dA or dB
    template <bool OfB>
    struct Item {
        const RowsGradParams& p;
        int projection, slot, rank, rank0, column0;
        const T* z;  // x or dy, from column0 on
        int64_t z_stride;
        int columns;  // of it, from column0 on
        bool vectorised;
        const T* q;  // T or S, from the projection's rank0 on
        Accumulator<16, kRanks> acc;

        __device__ __forceinline__ Item(const RowsGradParams& params, int projection_, int slot_,
                                        int rank_, int rank0_, int column0_)
            : p(params),
              projection(projection_),
              slot(slot_),
              rank(rank_),
              rank0(rank0_),
              column0(column0_) {
            const RowsGradProjection& layer = p.projection[projection];
            z = static_cast<const T*>(OfB ? layer.dy : p.x) + column0;
            z_stride = OfB ? layer.dy_stride : p.x_stride;
            columns = (OfB ? layer.n : p.k) - column0;
            vectorised = (OfB ? layer.dy_vectorised : p.x_vectorised) != 0;
            q = static_cast<const T*>(OfB ? p.s : p.t) + p.rows.s_first[projection] + rank0;
        }

        __device__ __forceinline__ void run() {
            if (gradient() == nullptr) {
                return;
            }
            acc.clear();
            Rows& rows = list();
            int count = 0;  // collected
#pragma unroll 1
            for (int row0 = 0; row0 < p.m; row0 += kThreads) {
                const int row = row0 + static_cast<int>(threadIdx.x);
                rows::Member member{-1, 0.0f};
                if (row < p.m) {
                    member = rows::member(p.rows, row, slot);
                }
                const bool has = member.place >= 0;
                const int found = __syncthreads_count(has ? 1 : 0);
                if (found == 0) {
                    continue;
                }
                append(rows, count, row, member);
                count += found;
                int done = 0;
#pragma unroll 1
                for (; count - done >= kRows; done += kRows) {
                    multiply(done, kRows);
                }
                count -= done;
                keep_rest(rows, done, count);
            }
            if (count > 0) {
                multiply(0, count);
            }
            store();
        }

       private:
        __device__ __forceinline__ void* gradient() const {
            const RowGradients& to = gradients();
            return OfB ? to.lora_b : to.lora_a;
        }
        __device__ __forceinline__ const RowGradients& gradients() const {
            return p.gradients == nullptr
                       ? p.one[projection]
                       : p.gradients[static_cast<int64_t>(slot) * p.projections + projection];
        }

        // In the order of the threads
        __device__ __forceinline__ static void append(Rows& rows, int count, int row,
                                                      rows::Member member) {
            const int warp = threadIdx.x / 32;
            const uint32_t lanes = __ballot_sync(~0u, member.place >= 0);
            if (threadIdx.x % 32 == 0) {
                rows.of_warp[warp] = __popc(lanes);
            }
            __syncthreads();
            int at = count + __popc(lanes & ((1u << threadIdx.x % 32) - 1));
            for (int i = 0; i < warp; ++i) {
                at += rows.of_warp[i];
            }
            if (member.place >= 0) {
                rows.row[at] = row;
                rows.place[at] = member.place;
                rows.weight[at] = member.weight;
            }
            __syncthreads();
        }

        // Moves the last `count` rows, less than a tile, to the front.
        __device__ __forceinline__ static void keep_rest(Rows& rows, int done, int count) {
            if (done == 0) {
                return;
            }
            const int i = threadIdx.x;
            const bool moves = i < count;
            const int from = moves ? done + i : 0;
            const int row = rows.row[from], place = rows.place[from];
            const float weight = rows.weight[from];
            __syncthreads();
            if (moves) {
                rows.row[i] = row;
                rows.place[i] = place;
                rows.weight[i] = weight;
            }
            __syncthreads();
        }

        // acc += Z^T * Q of `count` collected rows from `first` on
        __device__ __forceinline__ void multiply(int first, int count) {
            const Rows& rows = list();
            const ZTile z_tile{reinterpret_cast<T*>(block_memory())};
            const QTile q_tile{reinterpret_cast<T*>(block_memory() + kQOffset)};
            for_each_chunk<kThreads>(z_tile, [&](int row, int chunk) {
                const int column = chunk * kChunk<T>;
                const int valid = row < count ? max(0, min(columns - column, kChunk<T>)) : 0;
                const T* from = z;
                if (valid > 0) {
                    from += rows.row[first + row] * z_stride + column;
                }
                if (vectorised) {
                    ptx::cp_async_16(z_tile.chunk_address(row, chunk), from, valid * kSize<T>);
                } else {
                    *reinterpret_cast<uint4*>(z_tile.chunk(row, chunk)) = gather_chunk(from, valid);
                }
            });
            const int ranks = padded_rank(rank) - rank0;  // that T and S have
            const bool weighted = OfB && (p.rows.weight != nullptr || p.rows.per_row > 1);
            for_each_chunk<kThreads>(q_tile, [&](int row, int chunk) {
                const bool inside = row < count && chunk * kChunk<T> < ranks;
                const T* from = q;
                if (inside) {
                    from += static_cast<int64_t>(rows.row[first + row]) * p.rows.s_stride +
                            rows.place[first + row] * p.rows.s_rank[projection] + chunk * kChunk<T>;
                }
                if (!weighted) {
                    ptx::cp_async_16(q_tile.chunk_address(row, chunk), from, inside ? 16 : 0);
                    return;
                }
                uint4 raw = make_uint4(0, 0, 0, 0);
                if (inside) {
                    raw = *reinterpret_cast<const uint4*>(from);
                    T* const values = reinterpret_cast<T*>(&raw);
#pragma unroll
                    for (int i = 0; i < kChunk<T>; ++i) {
                        values[i] = from_float<T>(rows.weight[first + row] * to_float(values[i]));
                    }
                }
                *reinterpret_cast<uint4*>(q_tile.chunk(row, chunk)) = raw;
            });
            const bool masked = !OfB && p.mask_source != MaskSource::kNone;
            if (masked) {
                load_mask(first, count);
            }
            ptx::cp_async_commit();
            ptx::cp_async_wait<0>();
            __syncthreads();
            const uint32_t memory = ptx::shared_address(block_memory());
            const int warp_column = threadIdx.x / 32 * 16;
            const ProductOfColumns<T, ZTile, QTile> product(warp_column);
            if (masked) {
                const KeepColumns keep(memory + kMaskOffset + warp_column / 32 * 4,
                                       warp_column % 32 / 8, kTensorCore<T>);
                product.add_to(acc, memory, memory + kQOffset, keep);
            } else {
                product.add_to(acc, memory, memory + kQOffset, KeepAllColumns{});
            }
            __syncthreads();
        }

        // A word of the mask for every row of the tile
        __device__ __forceinline__ void load_mask(int first, int count) const {
            const Rows& rows = list();
            const int block = column0 / dropout::kBlock;
            uint32_t* const words = reinterpret_cast<uint32_t*>(block_memory() + kMaskOffset);
            const DropoutParams drawn = dropout::seeded(p.dropout, p.origin);
#pragma unroll 1
            for (int i = threadIdx.x; i < 2 * kRows; i += kThreads) {
                uint32_t bits = 0;
                if (i / 2 < count) {
                    const int row = rows.row[first + i / 2];
                    if (p.mask_source == MaskSource::kStored) {
                        bits = static_cast<uint32_t>(
                            p.mask[static_cast<int64_t>(block) * p.m + row] >> 32 * (i % 2));
                    } else {
                        const uint32_t group0 = p.origin.group0 + 8 * block + 4 * (i % 2);
#pragma unroll 1
                        for (int group = 0; group < 4; ++group) {
                            bits |= dropout::keep_bits(drawn, p.origin.row0 + row, group0 + group)
                                    << 8 * group;
                        }
                    }
                }
                words[i] = bits;
            }
        }

        __device__ __forceinline__ void store() {
            if (p.gradient_f32 != 0) {
                store_as<float>();
            } else {
                store_as<T>();
            }
        }

        template <typename Out>
        __device__ __forceinline__ void store_as() {
            const RowGradients& gradients = this->gradients();
            Out* const to = static_cast<Out*>(OfB ? gradients.lora_b : gradients.lora_a);
            const int64_t stride = OfB ? gradients.b_stride : gradients.a_stride;
            const bool accumulate = (OfB ? p.accumulate_b : p.accumulate_a) != 0;
            const float scale = OfB ? rows::entry(p.rows, p.projections, slot, projection).scaling
                                : p.mask_source == MaskSource::kNone ? 1.0f
                                                                     : p.dropout.keep_scale;
            const int warp_column = threadIdx.x / 32 * 16;
            const auto put = [&](int column, int r, float value) {
                if (column < columns && rank0 + r < rank) {
                    Out* const at = OfB ? to + (column0 + column) * stride + rank0 + r
                                        : to + (rank0 + r) * stride + column0 + column;
                    value *= scale;
                    *at = from_float<Out>(accumulate ? to_float(*at) + value : value);
                }
            };
            acc.for_each_pair([&](int column, int r, float first, float second) {
                put(warp_column + column, r, first);
                put(warp_column + column, r + 1, second);
            });
        }
    };
};
