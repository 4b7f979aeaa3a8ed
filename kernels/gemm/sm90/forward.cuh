// y = x * W^T + bias + scaling * S * B^T for every projection, on Hopper. The low-rank step comes
// last, so that all but its end needs nothing of the launch before: the sums are divided by the
// scaling, S * B^T is added, and the epilogue multiplies by the scaling. Where that would round the
// sums, since the scaling is no power of two, or could overflow, the low-rank step comes first.
#pragma once
#include "common/accumulator.cuh"
#include "common/table.cuh"
#include "gemm/sm90/block.cuh"
#include "gemm/sm90/combine.cuh"

template <typename T, typename Shape, Access A>
struct ForwardSm90 {
    using G = sm90::Gemm<T, Shape, A == Access::kVectorisedKn ? Major::kMN : Major::kK>;
    using Producer = sm90::Producer<G>;
    using Consumer = sm90::Consumer<G>;
    using LoraB = sm90::BLayout<Major::kK, G::kBlockN>;  // (n, r)
    static constexpr int kBlockRows = G::kBlockM, kBlockColumns = G::kBlockN;
    static constexpr int kThreads = sm90::kThreads, kSharedBytes = G::kSharedBytes;

    __device__ static void run(const ForwardSm90Params& p) {
        sm90::run_roles<G>([&](Producer& producer) { produce(p, producer); },
                           [&](Consumer& consumer) { consume(p, consumer); });
    }

   private:
    using Walk = sm90::Walk<G::kBlockM>;
    using Steps = sm90::Steps;

    __device__ __forceinline__ static WorkItem item_at(const ForwardSm90Params& p,
                                                       const Walk& walk) {
        int tile_column;
        WorkItem item = walk.item(tile_column);
        while (item.projection + 1 < p.projections &&
               tile_column >= p.projection[item.projection + 1].first_tile) {
            ++item.projection;
        }
        item.column0 = (tile_column - p.projection[item.projection].first_tile) * G::kBlockN;
        return item;
    }

    // Columns of S that a work item adds
    __device__ __forceinline__ static int lora_depth(const ForwardSm90Projection& layer,
                                                     const WorkItem& item) {
        return item.k_slice == 0 ? layer.r : 0;
    }

    // Producer: x and W, and before or after them S and lora_B.
    __device__ __forceinline__ static void produce(const ForwardSm90Params& p, Producer& producer) {
        for (Walk walk(p.schedule, gridDim.x); walk.more(); walk.next()) {
            const WorkItem item = item_at(p, walk);
            const ForwardSm90Projection& layer = p.projection[item.projection];
            const bool lora_first = layer.inverse_scaling == 0.0f;
            if (lora_first) {
                produce_lora(p, producer, item);
            }
            producer.product(p.x, layer.weight, item, Steps(p.k, item, p.schedule.k_slices));
            if (!lora_first) {
                produce_lora(p, producer, item);
            }
        }
    }

    // Producer of the low-rank step: a stage for every 64 ranks.
    __device__ __forceinline__ static void produce_lora(const ForwardSm90Params& p,
                                                        Producer& producer, const WorkItem& item) {
        const ForwardSm90Projection& layer = p.projection[item.projection];
        const int depth = lora_depth(layer, item);
        if (depth > 0) {
            ptx::wait_for_earlier_launch();  // it writes S, and lora_B where that is packed
        }
#pragma unroll 1
        for (int k0 = 0; k0 < depth; k0 += G::kBlockK) {
            const auto slot = producer.take(G::kABytes + LoraB::kBytes);
            producer.load_a(slot, p.s, item.row0, layer.rank0 + k0);
            producer.template load_b<LoraB>(slot, slot.b, layer.lora_b, item.column0, k0);
        }
    }

    // Consumers: the tile's sums, then its epilogue.
    __device__ __forceinline__ static void consume(const ForwardSm90Params& p, Consumer& consumer) {
        typename G::TileEpilogue epilogue = G::epilogue(consumer.group);
        for (Walk walk(p.schedule, gridDim.x); walk.more(); walk.next()) {
            const WorkItem item = item_at(p, walk);
            const ForwardSm90Projection& layer = p.projection[item.projection];
            const int depth = lora_depth(layer, item);
            float scaling = depth > 0 ? layer.scaling : 1.0f;  // what the sums are still short of
            if (depth > 0 && layer.inverse_scaling == 0.0f) {
                consume_lora(consumer, depth);
                consumer.finish();
                consumer.scale(scaling);
                scaling = 1.0f;
            }
            consumer.template multiply<typename G::B>(Steps(p.k, item, p.schedule.k_slices).count);
            if (depth > 0 && layer.inverse_scaling != 0.0f) {
                if (layer.inverse_scaling != 1.0f) {
                    consumer.finish();
                    consumer.scale(layer.inverse_scaling);
                }
                consume_lora(consumer, depth);
            }
            consumer.finish();
            consumer.fresh = 1;
            store(p, item, consumer, epilogue, scaling);
        }
        epilogue.finish();
    }

    // Low-rank step: sums += S * B^T
    __device__ __forceinline__ static void consume_lora(Consumer& consumer, int depth) {
#pragma unroll 1
        for (; depth > 0; depth -= G::kBlockK) {
            consumer.template multiply_part<LoraB>(padded_rank(min(depth, G::kBlockK)) /
                                                   sm90::kWgmmaK);
        }
    }

    // Epilogue: y = scaling * sums + bias, or added to y. Of several k-slices the last stores.
    __device__ __forceinline__ static void store(const ForwardSm90Params& p, const WorkItem& item,
                                                 Consumer& consumer,
                                                 typename G::TileEpilogue& epilogue,
                                                 float scaling) {
        if (p.schedule.k_slices > 1) {
            consumer.scale(scaling);
            scaling = 1.0f;
            ptx::wait_for_earlier_launch();  // it zeroes the counters
        }
        if (!sm90::combine<sm90::kConsumerThreads>(consumer.sum, p.schedule, item.tile,
                                                   item.k_slice)) {
            return;
        }
        const ForwardSm90Projection& layer = p.projection[item.projection];
        const sm90::Output<T> y{
            &layer.y, static_cast<T*>(layer.y_data), layer.y_stride,   p.m,
            layer.n,  layer.output_mapped != 0,      p.accumulate != 0};  // (m, n)
        epilogue.store(consumer.sum, y, item.row0 + G::group_row(consumer.group),
                       item.column0 + G::group_column(consumer.group), scaling,
                       static_cast<const T*>(layer.bias));
    }
};
