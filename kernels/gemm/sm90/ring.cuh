// The ring of stages between the producer and the consumers of a block. The stages are filled and
// read in turn, on and on across work items: the producer and every consumer keep a place of their
// own in that order.
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
    uint32_t stage = 0;   // the next one
    uint32_t parity = 0;  // of the phase of its barriers that belongs to it

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

    // By one thread, before the cluster meets. Phases count from 0; phase i of both barriers is
    // about the stage's i-th filling, and its parity is i % 2.
    //
    // full: the producer of the block arrives alone, and tells how many bytes come. The phase ends
    // when the copies, of whichever block, have brought them. Consumers wait for phase i before
    // they read filling i.
    //
    // empty: every consumer warp of every block of the cluster arrives, when its products that
    // read filling i are done. The blocks copy into each other's stages, so a stage is free only
    // where it is free in all of them. The producer waits for phase i - 1 before it begins filling
    // i. Before filling 0 it waits for parity 1, which a new barrier takes as a phase that has
    // ended.
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
