// The life of a block: its barriers are made, its warpgroups take their roles, the cluster ends
// together.
#pragma once
#include "gemm/sm90/consumer.cuh"
#include "gemm/sm90/producer.cuh"
#include "ptx/elect.cuh"
#include "ptx/registers.cuh"

namespace sm90 {

// Runs produce(producer) in one thread of the block and consume(consumer) in the two warpgroups of
// consumers. All threads of the block call this.
template <typename G, typename Produce, typename Consume>
__device__ __forceinline__ void run_roles(Produce&& produce, Consume&& consume) {
    if (threadIdx.x == 0) {
        Ring<G>::init(Cluster{});
        for (int group = 0; group < kConsumerGroups; ++group) {
            G::TileEpilogue::init_barriers(G::epilogue(group).barriers);
        }
        ptx::mbarrier_fence_init();
    }
    // Nobody copies into another block, or arrives there, before its barriers are made.
    ptx::cluster_sync();
    const uint32_t warp = warp_uniform(threadIdx.x / 32);
    if (warp >= kConsumerThreads / 32) {
        ptx::release_registers<kProducerRegisters>();
        if (warp == kConsumerThreads / 32 && ptx::elect_one()) {
            Producer<G> producer;
            produce(producer);
            // The end of this launch is the end of the earlier one, too, whoever has waited for it.
            ptx::wait_for_earlier_launch();
        }
    } else {
        ptx::claim_registers<kConsumerRegisters>();
        Consumer<G> consumer(warp / (kWarpgroup / 32));
        consume(consumer);
    }
    __syncwarp();
    // A block stays until the others have made their last copies into it, and their last arrivals.
    ptx::cluster_sync();
}

}  // namespace sm90
