// dx = sum over projections of dy * W + keep_scale * mask o (T * A), on Hopper. The low-rank steps
// come first, are masked in the accumulators, and the products of dy and W are added. The last
// blocks of the grid sum dA, whose partials grad_a left.
#pragma once
#include "common/mask_origin.cuh"
#include "common/reduce.cuh"
#include "common/table.cuh"
#include "gemm/sm90/block.cuh"
#include "gemm/sm90/combine.cuh"

template <typename T, typename Shape, Access A>
struct GradXSm90 {
    using G = sm90::Gemm<T, Shape, A == Access::kVectorisedKn ? Major::kK : Major::kMN>;
    using Producer = sm90::Producer<G>;
    using Consumer = sm90::Consumer<G>;
    using LoraA = sm90::BLayout<Major::kMN, G::kBlockN, sm90::kWgmmaK>;  // 16 rows of (r, k)
    static constexpr int kBlockRows = G::kBlockM, kBlockColumns = G::kBlockN;
    static constexpr int kThreads = sm90::kThreads, kSharedBytes = G::kSharedBytes;

    __device__ static void run(const DrawnGradXSm90Params& p) {
        // The last blocks, whole clusters of them, have another job.
        if (blockIdx.x >= blocks(p)) {
            reduce_partials<T, kThreads>(p.reduce_a, blockIdx.x - blocks(p));
            return;
        }
        sm90::run_roles<G>([&](Producer& producer) { produce(p, producer); },
                           [&](Consumer& consumer) { consume(p, consumer); });
    }

   private:
    using Walk = sm90::Walk<G::kBlockM>;
    using Steps = sm90::Steps;

    // Blocks that multiply
    __device__ __forceinline__ static uint32_t blocks(const DrawnGradXSm90Params& p) {
        return gridDim.x - p.reduce_a.blocks;
    }

    __device__ __forceinline__ static WorkItem item_at(const Walk& walk) {
        int tile_column;
        WorkItem item = walk.item(tile_column);
        item.column0 = tile_column * G::kBlockN;
        return item;
    }

    // Columns of T that a work item multiplies, whole k16
    __device__ __forceinline__ static int lora_depth(const DrawnGradXSm90Params& p,
                                                     const WorkItem& item) {
        return item.k_slice == 0 ? p.ranks : 0;
    }

    // The adapted projection that column `rank` of T belongs to
    __device__ __forceinline__ static int adapter_at(const DrawnGradXSm90Params& p, int rank) {
        int found = 0;
#pragma unroll 1
        for (int i = 0; i < p.projections; ++i) {
            found = p.size[i].r > 0 && rank >= p.size[i].rank0 ? i : found;
        }
        return found;
    }

    // Producer: T and lora_A, then dy and W of every projection.
    __device__ __forceinline__ static void produce(const DrawnGradXSm90Params& p,
                                                   Producer& producer) {
        for (Walk walk(p.schedule, blocks(p)); walk.more(); walk.next()) {
            const WorkItem item = item_at(walk);
            produce_lora(p, producer, item);
#pragma unroll 1
            for (int i = 0; i < p.projections; ++i) {
                producer.product(p.projection[i].dy, p.projection[i].weight, item,
                                 Steps(p.size[i].n, item, p.schedule.k_slices));
            }
        }
    }

    // Producer of the low-rank step: a stage holds up to 64 columns of T, whichever projections'
    // they are, and for each 16 of them the rows of their lora_A.
    __device__ __forceinline__ static void produce_lora(const DrawnGradXSm90Params& p,
                                                        Producer& producer, const WorkItem& item) {
        const int depth = lora_depth(p, item);
#pragma unroll 1
        for (int rank = 0; rank < depth; rank += G::kBlockK) {
            const int pieces = min(depth - rank, G::kBlockK) / sm90::kWgmmaK;
            const auto slot = producer.take(G::kABytes + pieces * LoraA::kBytes);
            producer.load_a(slot, p.t, item.row0, rank);
#pragma unroll 1
            for (int piece = 0; piece < pieces; ++piece) {
                const int first = rank + piece * sm90::kWgmmaK;
                const int adapter = adapter_at(p, first);
                producer.template load_b<LoraA>(slot, slot.b + piece * LoraA::kBytes,
                                                p.projection[adapter].lora_a, item.column0,
                                                first - p.size[adapter].rank0);
            }
        }
    }

    // Consumers: the tile's sums, then its epilogue.
    __device__ __forceinline__ static void consume(const DrawnGradXSm90Params& p,
                                                   Consumer& consumer) {
        typename G::TileEpilogue epilogue = G::epilogue(consumer.group);
        Walk walk(p.schedule, blocks(p));
        KeepWords keep;
        if (walk.more()) {
            keep.load(p, item_at(walk), consumer.group);
        }
        while (walk.more()) {
            const WorkItem item = item_at(walk);
            const int depth = lora_depth(p, item);
            if (depth > 0) {
                consume_lora(consumer, depth);
                if (p.mask_source != MaskSource::kNone) {
                    consumer.finish();
                    keep.drop(consumer, p.dropout.keep_scale);
                }
            }
#pragma unroll 1
            for (int i = 0; i < p.projections; ++i) {
                consumer.template multiply<typename G::B>(
                    Steps(p.size[i].n, item, p.schedule.k_slices).count);
            }
            consumer.finish();
            consumer.fresh = 1;
            walk.next();
            // The next tile's mask comes while this one is stored.
            if (walk.more()) {
                keep.load(p, item_at(walk), consumer.group);
            }
            store(p, item, consumer, epilogue);
        }
        epilogue.finish();
    }

    // Low-rank step: sums += T * A
    __device__ __forceinline__ static void consume_lora(Consumer& consumer, int depth) {
#pragma unroll 1
        for (; depth > 0; depth -= G::kBlockK) {
            consumer.template multiply_part<LoraA>(min(depth, G::kBlockK) / sm90::kWgmmaK);
        }
    }

    // The mask of this thread's sums: for each of its rows the words of the part's columns
    struct KeepWords {
        static constexpr int kWords = G::kGroupN / dropout::kBlock;
        dropout::KeepBits rows[Consumer::kBlocks][kWords];

        __device__ __forceinline__ void load(const DrawnGradXSm90Params& p, const WorkItem& item,
                                             int group) {
            if (p.mask_source == MaskSource::kNone || lora_depth(p, item) == 0) {
                return;
            }
            // As in the epilogue: the main loop has no registers for what follows from the thread.
            uint32_t thread = threadIdx.x;
            pin(thread);
            const int warp_row = item.row0 + G::group_row(group) +
                                 thread % sm90::kWarpgroup / 32 * (sm90::kWgmmaRows / 4);
            const int first_word = (item.column0 + G::group_column(group)) / dropout::kBlock;
#pragma unroll
            for (int b = 0; b < Consumer::kBlocks; ++b) {
#pragma unroll
                for (int i = 0; i < kWords; ++i) {
                    const int row0 = warp_row + b * sm90::kWgmmaRows;
                    const int word = first_word + i;
                    if (p.mask_source == MaskSource::kDrawn) {
                        rows[b][i] = dropout::draw(p.dropout, p.origin, row0, word);
                    } else {
                        const int row = row0 + thread % 32 / 4;
                        rows[b][i] = {stored(p, row, word), stored(p, row + 8, word)};
                    }
                }
            }
        }

        __device__ __forceinline__ static uint64_t stored(const DrawnGradXSm90Params& p, int row,
                                                          int word) {
            const bool inside = row < p.m && word * dropout::kBlock < p.k;
            return inside ? __ldg(p.mask + static_cast<int64_t>(word) * p.m + row) : 0;
        }

        // sum = keep_scale * mask o sum
        __device__ __forceinline__ void drop(Consumer& consumer, float keep_scale) const {
            const int shift = threadIdx.x % 4 * 2;  // of this thread's columns in a byte
#pragma unroll
            for (int b = 0; b < Consumer::kBlocks; ++b) {
#pragma unroll
                for (int i = 0; i < kWords; ++i) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const uint64_t word = half == 0 ? rows[b][i].upper : rows[b][i].lower;
                        const uint64_t bits = word >> shift;
#pragma unroll
                        for (int j = 0; j < 8; ++j) {
#pragma unroll
                            for (int e = 0; e < 2; ++e) {
                                float& value = consumer.sum[b][8 * i + j][2 * half + e];
                                const bool kept = (bits >> (8 * j + e) & 1) != 0;
                                value = kept ? keep_scale * value : 0.0f;
                            }
                        }
                    }
                }
            }
        }
    };

    // Epilogue: dx = sums, or added to dx. Of several k-slices the last stores.
    __device__ __forceinline__ static void store(const DrawnGradXSm90Params& p,
                                                 const WorkItem& item, Consumer& consumer,
                                                 typename G::TileEpilogue& epilogue) {
        if (!sm90::combine<sm90::kConsumerThreads>(consumer.sum, p.schedule, item.tile,
                                                   item.k_slice)) {
            return;
        }
        const sm90::Output<T> dx{&p.dx, static_cast<T*>(p.dx_data), p.dx_stride,      p.m,
                                 p.k,   p.output_mapped != 0,       p.accumulate != 0};  // (m, k)
        epilogue.store(consumer.sum, dx, item.row0 + G::group_row(consumer.group),
                       item.column0 + G::group_column(consumer.group), 1.0f, nullptr);
    }
};
