// The ring of stages between the producer and the consumers of a block, and the two barriers that
// each stage has.
//
// full: one arrival, by the block's producer, which also tells the bytes to come; the copies
// complete them. The phase ends when the stage holds its operands. A consumer waits for phase i
// (parity i % 2) before it reads the stage for the i-th time.
//
// empty: one arrival by each consumer warp of every block of the cluster, when the products that
// read the stage are done. Blocks of a cluster copy into each other's stages, so a stage counts as
// empty only where it is empty in all of them. The producer waits for phase i - 1 before it fills
// the stage for the i-th time; before the first there is none to wait for, and a barrier takes a
// phase of parity 1 as ended.
//
// The stages are filled and read in turn, and on and on across work items: the producer and every
// consumer keep a ring of their own, all at the same place in the order.
#pragma once
#include "gemm/sm90/gemm.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"

namespace sm90 {

// Blocks that share the columns of their tiles, below each other
struct Cluster {
    uint32_t size, rank;
    __device__ __forceinline__ Cluster() : size(ptx::cluster_size()), rank(ptx::cluster_rank()) {}
};

template <typename G>
struct Ring {
    uint32_t stage = 0;   // that is next
    uint32_t parity = 0;  // of the turn of the ring

    __device__ __forceinline__ static uint32_t full(uint32_t stage) {
        return G::shared(G::kRingOffset) + stage * ptx::kMbarrierBytes;
    }
    __device__ __forceinline__ static uint32_t empty(uint32_t stage) {
        return full(stage) + G::kStages * ptx::kMbarrierBytes;
    }
    // Of a stage: A, then B
    __device__ __forceinline__ static uint32_t data(uint32_t stage) {
        return G::shared(0) + stage * G::kStageBytes;
    }

    // By one thread, before the cluster meets.
    __device__ __forceinline__ static void init(const Cluster& cluster) {
        for (uint32_t stage = 0; stage < G::kStages; ++stage) {
            ptx::mbarrier_init(full(stage), 1);
            ptx::mbarrier_init(empty(stage), kConsumerThreads / 32 * cluster.size);
        }
    }

    __device__ __forceinline__ void advance() {
        ++stage;
        if (stage == G::kStages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

}  // namespace sm90
